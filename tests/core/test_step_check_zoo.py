"""Steps of the zoo, as they train: wrong ones are reported, mended ones are not.

Some of them; all with DISTLOSS_ZOO=all, as by scripts/step_check_zoo.py.
"""

import sys

import pytest
from chosen import some
from conftest import strategy_of
from test_scripts import ROOT

sys.path[:0] = [str(ROOT / "scripts"), str(ROOT / "examples" / "zoo")]
import step_check_zoo  # noqa: E402

NAMES = [n for n, e in step_check_zoo.entries().items() if e.engine == "strategy"]
pytestmark = pytest.mark.timeout(600)


@pytest.mark.slow
@pytest.mark.parametrize("name", some(NAMES, 20))
def test_wrong_is_reported_and_mended_is_not(name):
    assert step_check_zoo.problems_of(name, strategy_of("mirrored", 2)) == []


def test_what_is_not_seen_is_of_the_zoo():
    assert {*step_check_zoo.UNSEEN, *step_check_zoo.RIGHT_ON_TWO} <= set(NAMES)
