"""Whole programs: each line that is marked is found, and no other."""

import pathlib
import re

import pytest
from no_keras import clean_keras  # noqa: F401

from distloss._lint.check import check_file
from distloss._lint.files import Target
from distloss._lint.rules import RULES

FOLDER = pathlib.Path(__file__).parent / "programs"
PROGRAMS = sorted(FOLDER.glob("*.py"))
SILENT = {"right", "one_device", "unknown", "horovod_right", "legacy"}
IN_THE_ZOO = {  # rules that only entries of the zoo show: see test_lint_zoo.py
    "accumulation-mean-of-means",
    "added-loss-divided",
    "not-decomposable",
    "report-only",
    "variables-scaled-apart",
}


def marked(path):
    """Rules by line: what comments such as `# ! sum-of-means` say."""
    found = set()
    for number, line in enumerate(path.read_text().splitlines(), start=1):
        mark = re.search(r"# ! ([\w\s,-]+)$", line)
        names = mark.group(1).split(",") if mark else ()
        found |= {(number, name.strip()) for name in names}
    return found


@pytest.mark.parametrize("path", PROGRAMS, ids=lambda path: path.stem)
def test_what_is_marked_is_found_and_nothing_else(path):
    findings, problems = check_file(Target(path))
    assert problems == []
    assert {(one.line, one.rule) for one in findings} == marked(path)


@pytest.mark.parametrize("name", sorted(SILENT))
def test_a_silent_program_is_one_that_is_followed(name):
    """Its twin differs in a word, and something is found in it."""
    text = (FOLDER / f"{name}.py").read_text()
    twin = {
        "right": text.replace("distloss.mean_share(values)", "tf.reduce_mean(values)"),
        "one_device": text.replace('["GPU:0"]', ""),
        "unknown": text.replace(" * scale", ""),
        "legacy": text.replace("TF_USE_LEGACY_KERAS", ""),
        "horovod_right": text.replace("(tape, op=hvd.Sum)", "(tape)"),
    }[name]
    assert twin != text
    assert found_in(twin)


def found_in(text):
    from distloss._lint.check import check_text

    return check_text(Target(pathlib.Path("twin.py")), text)[0]


def test_all_rules_are_shown():
    shown = {rule for path in PROGRAMS for _, rule in marked(path)}
    assert shown | IN_THE_ZOO == {rule.name for rule in RULES}
    assert not shown & IN_THE_ZOO


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.name)
def test_a_rule_is_explained(rule):
    assert re.fullmatch(r"[a-z]+(-[a-z]+)+", rule.name)
    assert len(rule.help) > 40
    module = rule.check.__module__.rpartition(".")[2]
    assert module == rule.name.replace("-", "_")
