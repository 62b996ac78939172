"""The table of checks: every cause is in it once, and README lists them all."""

import importlib
import pathlib
import pkgutil
import re

import pytest

from distloss._audit.checks import causes
from distloss._audit.checks.cause import Cause
from distloss._audit.checks.table import CAUSES, CHECKS

README = pathlib.Path(__file__).parents[2] / "README.md"
FILES = [name for _, name, _ in pkgutil.iter_modules(causes.__path__)]


def listed_in(text):
    """The causes of README's list."""
    found = re.search(r"^Causes: (.*?)\.$", text, re.DOTALL | re.MULTILINE)
    return re.findall(r"`([a-z-]+)`", found.group(1))


def test_readme_lists_the_causes_of_the_table():
    listed = listed_in(README.read_text())
    assert sorted(listed) == sorted(CAUSES)


@pytest.mark.parametrize("name", FILES)
def test_each_file_of_causes_is_in_the_table(name):
    module = importlib.import_module(f"{causes.__name__}.{name}")
    assert [check for check in CHECKS if check is module.CHECK]
    named = [one for one in vars(module).values() if isinstance(one, Cause)]
    assert [one.slug for one in named if CAUSES.get(one.slug) is not one] == []


def test_no_two_causes_have_one_name():
    every = [cause.slug for check in CHECKS for cause in check.causes]
    assert len(every) == len(set(every)) == len(CAUSES)
