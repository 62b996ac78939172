"""Prepared models that are drawn at random do what plain Keras does on one device.

`scripts/fuzz 500` draws more of them.
"""

import pathlib
import runpy

import fuzz_models
import pytest
from chosen import some
from fuzz_models import Case, Head

from distloss._formula import reduce, terms

pytestmark = pytest.mark.filterwarnings(
    # of outputs without a loss
    "ignore:Gradients do not exist:UserWarning",
)

SEEDS = some(range(4), 2)  # scripts/fuzz draws hundreds
UNEVEN = ((5, 2), (1, 4))
WEIGHED = Case(3, UNEVEN, heads=(Head(weights="rows"),), evaluate=True)


def test_the_command_finds_what_it_imports():
    scripts = pathlib.Path(__file__).parents[2] / "scripts"
    assert runpy.run_path(scripts / "fuzz.py")["main"]


def found_in(case, **options):
    return fuzz_models.violations(case, **options)


@pytest.mark.slow
@pytest.mark.parametrize("seed", SEEDS)
def test_a_drawn_model_trains_as_on_one_device(seed):
    case = fuzz_models.drawn(seed)
    assert not found_in(case), f"{case}\nAlone: scripts/fuzz 1 --seed {seed}"


def test_one_seed_draws_one_case():
    cases = [fuzz_models.drawn(seed) for seed in range(300)]
    assert cases == [fuzz_models.drawn(seed) for seed in range(300)]
    assert len(set(map(str, cases))) == 300


def test_every_value_of_every_field_is_drawn():
    """Else a family could fall out of the draw and nobody would see."""
    cases = [fuzz_models.drawn(seed) for seed in range(500)]
    heads = [head for case in cases for head in case.heads]
    for objects, name, count in (
        (cases, "body", 4),
        (cases, "dealt", 3),
        (cases, "replicas", 4),
        (cases, "parts", 3),
        (cases, "form", 4),
        (cases, "no_weight", 5),
        (cases, "masked", 5),
        (cases, "optimizer", 5),
        (cases, "clip", 4),
        (cases, "dtype", 5),
        (cases, "metrics", 3),
        (cases, "steps_per_update", 3),
        (heads, "shape", 4),
        (heads, "loss", 6),
        (heads, "reduction", 4),
        (heads, "weights", 4),
    ):
        values = {getattr(each, name) for each in objects}
        assert len(values) == count, f"{name}: {values}"
    for name in ("jit", "eager", "huge", "overflow", "l2", "batch_norm", "positions"):
        assert {getattr(case, name) for case in cases} == {False, True}, name
    assert {kind for case in cases for kind in case.added} == set(fuzz_models.ADDED)


# --- it would see a bug --------------------------------------------------------------


def test_the_simplest_case_is_as_on_one_device():
    """So that what the next tests find is what they broke."""
    assert not found_in(WEIGHED)


def unprepared(model, *, microbatches):
    """Plain Keras, which needs a first batch that splits evenly."""


@pytest.mark.slow
def test_plain_keras_is_found_wrong():
    even_first = ((3, 3), (1, 4))
    case = Case(3, even_first, heads=(Head(weights="rows"),))
    found = found_in(case, prepare=unprepared)
    assert any(line.startswith("step 2 dense") for line in found), found
    clipped = Case(3, ((3, 3), (3, 3)), clip="global_clipnorm")
    found = found_in(clipped, prepare=unprepared)
    assert any(line.startswith("step 1 dense") for line in found), found


@pytest.mark.parametrize("parts", [1, 2])
def test_a_denominator_off_by_a_thousandth_is_found(monkeypatch, parts):
    counted = reduce.element_count
    monkeypatch.setattr(reduce, "element_count", lambda x: 1.001 * counted(x))
    case = Case(3, UNEVEN, parts=parts)
    assert any(line.startswith("step 1 dense") for line in found_in(case))


def test_a_wrong_report_of_a_right_update_is_found(monkeypatch):
    loss = terms.FusedWithGradients.loss.fget
    wrong = property(lambda fused: 1.001 * loss(fused))
    monkeypatch.setattr(terms.FusedWithGradients, "loss", wrong)
    found = found_in(Case(3, UNEVEN))
    assert "history" in found[-1]
    assert not any("dense" in line for line in found)


def test_the_smallest_case_that_fails_is_simple(monkeypatch):
    def failing(case):
        return ["history loss"] if case.parts == 3 and case.l2 else []

    monkeypatch.setattr(fuzz_models, "violations", failing)
    case = Case(5, ((3, 4), (2, 2)), parts=3, l2=True, clip="clipnorm", eager=True)
    smallest = fuzz_models.smallest(case, "history")
    assert smallest == Case(5, smallest.rows, parts=3, l2=True)
    assert len(smallest.rows) == 1
