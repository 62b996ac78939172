"""The judge of a step that trains, given gradients of NumPy."""

import dataclasses
import itertools

import numpy as np
import pytest

from distloss._audit.step import judged


@dataclasses.dataclass
class Given:
    """As `distloss._check.measured.Measured`."""

    rows: tuple
    many: np.ndarray
    one: np.ndarray
    eps: float = 2.0**-23
    spread: float = 0.0
    clips: bool = False
    batch_norm: bool = False
    tapes: int = 1
    names: tuple = ("kernel", "bias")
    sizes: tuple = (4, 2)


random = np.random.default_rng(3)
OF_ROWS = random.normal(size=[8, 6])


def mean(rows):
    return OF_ROWS[list(rows)].mean(0) if len(rows) else np.zeros(6)


class Step:
    """A step of 8 rows, of which replicas make what `combined` makes of their means."""

    def __init__(self, combined, sizes):
        self._combined, self.sizes = combined, sizes

    def look(self, count, probe):
        (bounds,) = probe.micro
        order = probe.order or range(8)
        parts = [[order[i] for i in range(*pair)] for pair in bounds]
        if count == 1:
            return mean(parts[0]), 0.0
        if probe.observe == "tape":
            return sum(map(mean, parts)), 0.0
        return self._combined(parts), 0.0

    def verdict(self, **others):
        ends = np.cumsum((0, *self.sizes))
        parts = [range(a, b) for a, b in itertools.pairwise(ends)]
        given = Given(self.sizes, self._combined(parts), mean(range(8)), **others)
        return judged(given, self.look)


def weighed(parts):
    return sum(len(part) * mean(part) for part in parts) / sum(map(len, parts))


def summed(parts):
    return sum(map(mean, parts))


def averaged(parts):
    return summed(parts) / len(parts)


@pytest.mark.parametrize(
    ("combined", "sizes", "causes"),
    [
        (weighed, (2, 2, 2, 2), ()),
        (weighed, (5, 2, 1, 0), ()),
        (averaged, (2, 2, 2, 2), ()),
        (summed, (2, 2, 2, 2), ("sum-of-means",)),
        (lambda parts: weighed(parts) / 4, (2, 2, 2, 2), ("divided-twice",)),
        (lambda parts: 4 * summed(parts), (2, 2, 2, 2), ("scaled-n-squared",)),
        (averaged, (5, 1, 1, 1), ("mean-of-means",)),
        (averaged, (3, 3, 2), ("mean-of-means",)),
        (
            lambda parts: weighed(parts) + 1,
            (2, 2, 2, 2),
            ("regularization-not-scaled",),
        ),
        (lambda parts: weighed(parts) * 3 / 4, (3, 3, 2, 0), ("empty-replica",)),
        (lambda parts: weighed(parts) / 4, (8, 0, 0, 0), ("unexplained",)),
        (lambda parts: weighed(parts) * np.nan, (4, 4, 0, 0), ("empty-replica",)),
        (lambda parts: weighed(parts) * np.nan, (4, 4), ()),  # nothing is known of it
    ],
)
def test_causes(combined, sizes, causes):
    verdict = Step(combined, sizes).verdict()
    assert tuple(finding.cause for finding in verdict.findings) == causes
    is_right = np.isfinite(verdict.error) and verdict.error < 1e-6
    assert verdict.agrees == is_right


def test_a_variable_that_differs_is_named():
    def wrong(parts):
        return weighed(parts) * [1, 1, 1, 1, 2, 2]

    verdict = Step(wrong, (4, 4)).verdict()
    assert verdict.variables == ("bias",)
    assert [f.cause for f in verdict.findings] == ["variables-scaled-apart"]


def test_replicas_that_update_with_different_gradients():
    verdict = Step(weighed, (4, 4)).verdict(spread=0.5)
    assert not verdict.agrees
    assert [f.cause for f in verdict.findings] == ["not-reduced"]


def test_what_may_be_rounding_is_not_judged():
    def nearly(parts):
        return weighed(parts) * (1 + 2e-4)  # allowed are 7e-5

    verdict = Step(nearly, (4, 4)).verdict()
    assert "may be rounding" in verdict.why_not
    assert verdict.findings == ()
    verdict = Step(nearly, (4, 4)).verdict(eps=2.0**-10)
    assert verdict.agrees
