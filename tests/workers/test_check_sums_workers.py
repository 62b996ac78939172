"""Two workers that check their sums: wrong ones are caught in their step, and named."""

import pytest
from faults import assert_traced_to_the_second
from test_workers import launched

RECEIVED = ("flipped", "swapped", "nan")  # by worker 1 alone
SENT = ("dropped", "doubled", "stale")  # by worker 1, so that both get it

pytestmark = pytest.mark.timeout(600)  # the first test starts the workers


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    codes, _, results = launched(
        "checked_workers.py", 2, tmp_path_factory.mktemp("checked")
    )
    assert codes == [0, 0]
    return results


def assert_caught(result, step=2):
    assert result["raised"] == "CorruptedSumError"
    assert (result["step"], result["replicas"]) == (step, [1])
    assert not result["moved"]
    assert "replica 1" in result["text"]


@pytest.mark.parametrize("kind", SENT)
def test_what_a_worker_sends_wrong_is_caught_by_all(two, kind):
    for result in two:
        assert_caught(result["hurt"][kind])
        assert result["hurt"][kind]["variables"] == ["w"]


@pytest.mark.parametrize("kind", RECEIVED)
def test_what_a_worker_receives_wrong_is_caught_by_it(two, kind):
    assert_caught(two[1]["hurt"][kind])
    assert two[1]["hurt"][kind]["variables"] == ["w"]
    assert two[0]["hurt"][kind] == {"raised": None, "moved": True}


def test_a_prepared_model_checks_its_sums(two):
    for result in two:
        assert_caught(result["fit_prepared"], step=5)


def test_what_is_not_finite_is_traced_to_its_worker(two):
    assert_traced_to_the_second(two, "on replica 1 before the sum, in `w`")


def test_clean_steps_raise_no_alarm(two):
    """They are made, and are those of NumPy."""
    for result in two:
        assert result["clean"]["off"] < 1e-6


def test_the_check_costs_no_collective(two):
    for result in two:
        without, with_it = result["collectives"]["counts"]
        assert without == with_it == 1
