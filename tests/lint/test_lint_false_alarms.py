"""Nothing is found in steps that look like bugs and are right; the audit's are used."""

import ast
import importlib.util
import pathlib

import pytest
from no_keras import clean_keras  # noqa: F401

from distloss._lint.check import check_file
from distloss._lint.files import Target

ROOT = pathlib.Path(__file__).parents[2]
HELPERS = ROOT / "tests" / "helpers"


def kinds():
    path = ROOT / "scripts" / "false_alarms.py"
    spec = importlib.util.spec_from_file_location("false_alarms", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.KINDS


def wrong_builds():
    """The causes that the audit finds in builds that are wrong, by name."""
    tree = ast.parse((ROOT / "tests" / "audit" / "test_false_alarms.py").read_text())
    tables = [n for n in tree.body if isinstance(n, ast.Assign)]
    (table,) = [n for n in tables if ast.unparse(n.targets[0]) == "WRONG"]
    return ast.literal_eval(table.value)


RIGHT = [(file, name) for file, names in kinds().items() for name in names]
WRONG = wrong_builds()


def rules(file, name):
    findings, problems = check_file(Target(HELPERS / file, name))
    assert problems == []
    return {finding.rule for finding in findings}


@pytest.mark.parametrize(("file", "name"), RIGHT)
def test_nothing_is_found_in_what_is_right(file, name):
    assert rules(file, name) == set()


@pytest.mark.parametrize("name", WRONG)
def test_nothing_else_is_found_in_what_is_wrong(name):
    assert rules("builds_false_alarms.py", name) <= WRONG[name]


@pytest.mark.slow
def test_most_of_what_is_visible_is_found():
    found = {name for name in WRONG if rules("builds_false_alarms.py", name)}
    assert len(found) >= 8
