"""The table of checks: every cause is in it once."""

import importlib
import pkgutil

import pytest

from distloss._audit.checks import causes
from distloss._audit.checks.cause import Cause
from distloss._audit.checks.table import CAUSES, CHECKS

FILES = [name for _, name, _ in pkgutil.iter_modules(causes.__path__)]


@pytest.mark.parametrize("name", FILES)
def test_each_file_of_causes_is_in_the_table(name):
    module = importlib.import_module(f"{causes.__name__}.{name}")
    assert [check for check in CHECKS if check is module.CHECK]
    named = [one for one in vars(module).values() if isinstance(one, Cause)]
    assert [one.slug for one in named if CAUSES.get(one.slug) is not one] == []


def test_no_two_causes_have_one_name():
    every = [cause.slug for check in CHECKS for cause in check.causes]
    assert len(every) == len(set(every)) == len(CAUSES)
