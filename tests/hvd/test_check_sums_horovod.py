"""Two Horovod processes that check their sums: wrong ones are caught and named."""

import pytest
from faults import assert_traced_to_the_second
from test_horovod import results_of

RECEIVED = ("flipped", "swapped", "nan")  # by process 1 alone
SENT = ("dropped", "doubled", "stale")  # by process 1, so that both get it

pytestmark = pytest.mark.timeout(600)  # the first test starts the processes


@pytest.fixture(scope="module")
def two():
    return results_of("checked.py", 2)


def assert_caught(result, name="w"):
    assert result["raised"] == "CorruptedSumError"
    assert (result["step"], result["replicas"]) == (2, [1])
    assert name in result["variables"]
    assert not result["moved"]
    assert "process 1" in result["text"]


@pytest.mark.parametrize("kind", [*SENT, "average"])
def test_what_a_process_sends_wrong_is_caught_by_all(two, kind):
    for result in two:
        assert_caught(result[kind])


@pytest.mark.parametrize("kind", [*RECEIVED, "fp16", "float64"])
def test_what_a_process_receives_wrong_is_caught_by_it(two, kind):
    assert_caught(two[1][kind])
    assert two[0][kind] == {"raised": None, "moved": True}  # whose sum was right


@pytest.mark.parametrize("kind", ["stale", "swapped"])
def test_a_prepared_model_checks_its_sums(two, kind):
    assert_caught(two[1]["prepared"][kind], "dense/hidden/kernel")


def test_what_is_not_finite_is_traced_to_its_process(two):
    assert_traced_to_the_second(two, "on process 1 before the sum, in `w`")


@pytest.mark.parametrize(
    ("way", "tolerance"),
    [("sum", 1e-6), ("average", 1e-6), ("fp16", 2e-3), ("both", 2e-3)],
)
def test_clean_steps_raise_no_alarm(two, way, tolerance):
    """They are made, and are those of NumPy."""
    for result in two:
        assert result["clean"][way] < tolerance


def test_the_check_costs_no_collective(two):
    for result in two:
        without, with_it = result["collectives"]
        assert without == with_it == 1
