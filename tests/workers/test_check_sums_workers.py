"""Two workers that check sums, steps and weights: what is wrong is caught and named."""

import pytest
from faults import assert_traced_to_the_second
from test_workers import launched

RECEIVED = ("flipped", "swapped", "nan")  # by worker 1 alone
SENT = ("dropped", "doubled", "stale")  # by worker 1, so that both get it

pytestmark = pytest.mark.timeout(1200)  # the first test starts the workers


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
    assert "distloss doctor" in two[1]["hurt"][kind]["text"]  # for the pair of devices
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


# -- steps and weights, by StepCheck, check_step and DriftGuard


def said_by_all(two, name):
    """What all workers found, raised and warned of: the same."""
    results = [result["steps"][name] for result in two]
    assert results[0] | {"printed": ""} == results[1] | {"printed": ""}
    assert results[1]["printed"] == ""  # the first speaks for all
    return results[0]


@pytest.mark.parametrize(
    ("name", "rows"),
    [("right_steps", [[5, 3], [0, 2]]), ("right_step_of_a_loop", [[5, 3]])],
)
def test_right_steps_are_said_to_be_right(two, name, rows):
    said = said_by_all(two, name)
    assert said["raised"] == said["warned"] == ""
    assert [report["rows"] for report in said["reports"]] == rows
    assert all(report["agrees"] for report in said["reports"])
    lines = said["printed"].splitlines()
    assert len(lines) == len(rows)
    assert all(": 2 replicas give the gradient of one device" in one for one in lines)


def test_a_wrong_step_is_named_by_all(two):
    raised = said_by_all(two, "wrong_step")["raised"]
    assert raised.startswith("GradientError")
    assert "\nmean-of-means: " in raised


def test_weights_that_drift_apart_stop_all_workers(two):
    drifts = [result["steps"]["drift"] for result in two]
    for drift in drifts:
        assert drift["alike"]["raised"] == ""
        assert drift["apart"]["raised"].startswith("DriftError")
        assert "first in variable" in drift["apart"]["raised"]
    assert drifts[0]["apart"] == drifts[1]["apart"]
