"""Two Horovod processes that check their sums and their steps: wrong ones are named."""

import numpy as np
import pytest
from faults import assert_traced_to_the_second
from test_horovod import results_of

RECEIVED = ("flipped", "swapped", "nan")  # by process 1 alone
SENT = ("dropped", "doubled", "stale")  # by process 1, so that both get it

pytestmark = pytest.mark.timeout(1200)  # the first test starts the processes


@pytest.fixture(scope="module")
def two():
    return results_of("checked.py", 2)


def assert_caught(result, name="w"):
    assert result["raised"] == "CorruptedSumError"
    assert (result["step"], result["replicas"]) == (2, [1])
    assert name in result["variables"]
    assert "process 1" in result["text"]


def assert_same_words(two):
    assert len({result["text"] for result in two}) == 1


@pytest.mark.parametrize("kind", [*SENT, "average"])
def test_what_a_process_sends_wrong_is_caught_by_all(two, kind):
    results = [result[kind] for result in two]
    for result in results:
        assert_caught(result)
        assert not result["moved"]
    assert_same_words(results)


@pytest.mark.parametrize("kind", [*RECEIVED, "fp16", "float64"])
def test_what_a_process_receives_wrong_stops_all(two, kind):
    """It is seen by that process, which makes no update; others hear of it next."""
    results = [result[kind] for result in two]
    for result in results:
        assert_caught(result)
    assert_same_words(results)
    assert not results[1]["moved"]
    rounding = 3e-3 if kind == "fp16" else 1e-6
    assert results[1]["off"][0] < rounding  # the weights are those after one step
    assert results[0]["off"][1] < rounding  # and those after two, whose sum was right


@pytest.mark.parametrize("kind", ["stale", "swapped"])
def test_a_prepared_model_checks_its_sums(two, kind):
    results = [result["prepared"][kind] for result in two]
    for result in results:
        assert_caught(result, "dense/hidden/kernel")
    assert not results[1]["moved"]
    assert_same_words(results)


def test_pairs_of_processes_are_tried(two):
    """The first of these faults lasts; the second needs a sum that was made before."""
    for result in two:
        assert result["swapped"]["pairs"] == [[0, 1]]
        assert (
            "over pairs of replicas are wrong for 0 and 1" in result["swapped"]["text"]
        )
        assert result["stale"]["pairs"] == []
        assert "each pair of replicas are right now" in result["stale"]["text"]


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


# -- steps, by StepCheck and check_step


def said_by_all(results):
    """What all processes found, raised and warned of: the same."""
    assert results[0] | {"printed": ""} == results[1] | {"printed": ""}
    assert results[1]["printed"] == ""  # the first speaks for all
    return results[0]


@pytest.mark.parametrize(
    ("name", "rows"),
    [
        ("uneven", [5, 3]),
        ("empty", [8, 0]),
        ("three rows at a time", [5, 3]),
        ("summing tape", [5, 3]),
        ("averaging tape", [5, 3]),
        ("asks for the size", [4, 4]),
    ],
)
def test_a_right_step_is_said_to_be_right(two, name, rows):
    said = said_by_all([result["steps"]["right"][name] for result in two])
    assert said["raised"] == said["warned"] == ""
    assert said["report"]["agrees"]
    assert said["report"]["rows"] == rows
    [line] = said["printed"].splitlines()
    assert "step" in line
    assert ": 2 replicas give the gradient of one device: " in line


def test_a_check_leaves_no_trace(two):
    for result in two:
        without, checked = result["steps"]["trace"]
        np.testing.assert_allclose(checked, without, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("name", "cause"),
    [
        ("not reduced", "not-reduced"),
        ("mean of means", "mean-of-means"),
        ("sum of means of some sizes", "sum-of-means"),
    ],
)
def test_a_wrong_step_is_named_by_all(two, name, cause):
    said = said_by_all([result["steps"]["wrong"][name] for result in two])
    assert said["raised"].startswith("GradientError")
    assert f"\n{cause}: " in said["raised"]


def test_a_wrong_step_may_be_warned_of(two):
    said = said_by_all([result["steps"]["wrong"]["sum of means"] for result in two])
    assert said["report"]["causes"] == ["sum-of-means"]
    assert said["report"]["scale"] == pytest.approx(2)
    assert not said["moved"]
    assert "sum-of-means" in said["warned"]


def test_what_one_device_cannot_take_is_said_by_all(two):
    said = said_by_all(
        [result["steps"]["wrong"]["too large for one"] for result in two]
    )
    assert said["report"]["agrees"] is None
    assert "assertion failed" in said["warned"]
    assert "(in process 0)" in said["warned"]
