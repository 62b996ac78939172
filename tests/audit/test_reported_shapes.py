"""Shapes of steps that reports of other people brought, as measurements in NumPy.

What the audit is told is only what each probe gives, as in `test_diagnosis`.
"""

import dataclasses
import functools

import keras
import numpy as np
import pytest
import tensorflow as tf

import distloss
from distloss._audit import opening
from distloss._audit.answers import observation
from distloss._audit.checks import diagnosis, probes
from distloss._audit.checks.baseline import Baseline
from distloss._audit.checks.compare import Observation, StepFacts
from distloss._audit.child import state

ROWS = 23
random = np.random.default_rng(3)
GRADIENTS = random.normal(size=[ROWS, 5]) * np.linspace(0.5, 2, ROWS)[:, None]
LOSSES = np.linspace(1, 3, ROWS)
FACTS = StepFacts(names=("a", "b"), sizes=(3, 2), eps=2.0**-23, rows=ROWS)


def rows_of(probe):
    order = np.arange(ROWS) if probe.order is None else np.array(probe.order)
    return [order[start:stop] for start, stop in probe.micro[0]]


def right(count, probe):
    """The gradient of the batch, whoever holds its rows."""
    gradient = GRADIENTS[np.concatenate(rows_of(probe))].mean(0)
    return Observation(gradient, moved=probe.infinite_row is None)


def diagnosed(look, replicas):
    baseline = Baseline(look, FACTS, 0.0, None)
    return diagnosis.diagnosis(replicas, baseline, patient=lambda: True).findings


# -- what is shown


def showing(losses):
    def look(count, probe):
        parts = [part for part in rows_of(probe) if len(part)]
        return dataclasses.replace(right(count, probe), loss=losses(parts, count))

    return look


def average_of_means(parts, count):
    return (float(np.mean([LOSSES[part].mean() for part in parts])),) * count


def own_means(parts, count):
    means = [LOSSES[part].mean() for part in parts]
    return tuple(means + [0.0] * (count - len(means)))


def of_the_batch(parts, count):
    return (LOSSES[np.concatenate(parts)].mean(),) * count


def shares(parts, count):
    everyone = sum(map(len, parts))
    found = [LOSSES[part].sum() / everyone for part in parts]
    return tuple(found + [0.0] * (count - len(found)))


@pytest.mark.parametrize("replicas", [2, 4])
def test_an_average_of_means_is_seen_where_parts_are_unequal(replicas):
    (found,) = diagnosed(showing(average_of_means), replicas)
    assert found.cause == "report-only"
    assert found.scale == 1
    assert probes.UNEVEN in found.evidence[0]


@pytest.mark.parametrize("replicas", [2, 4])
@pytest.mark.parametrize("losses", [of_the_batch, shares, own_means])
def test_what_can_be_read_as_the_loss_of_the_batch_is_no_fault(losses, replicas):
    # means of their own rows may be weighed by rows before they are shown
    assert not diagnosed(showing(losses), replicas)


def test_a_wrong_gradient_is_not_called_a_wrong_report():
    def look(count, probe):
        parts = [part for part in rows_of(probe) if len(part)]
        means = [GRADIENTS[part].mean(0) for part in parts]
        seen = showing(average_of_means)(count, probe)
        return dataclasses.replace(seen, gradient=np.mean(means, axis=0))

    causes = {finding.cause for finding in diagnosed(look, 2)}
    assert "mean-of-means" in causes
    assert "report-only" not in causes


# -- what tapes give


def answers(folder, gradients):
    found = []
    for rank, gradient in enumerate(gradients):
        path = folder / f"{rank}.npy"
        np.save(path, np.asarray(gradient, np.float32))
        found.append(
            {
                "path": str(path),
                "spread": 0.0,
                "sources": ["gradient"],
                "loss": [],
                "moved": True,
                "weights_finite": True,
                "size": 1.0,
                "seconds": 0.0,
                "repeats": 0,
                "losses": [],
                "moves_weights": False,
            }
        )
    return found


@pytest.mark.parametrize(("observe", "wanted"), [("tape", 4), ("gradient", 1)])
def test_tapes_of_all_processes_are_summed(tmp_path, observe, wanted):
    probe = dataclasses.replace(probes.even(ROWS, 2), observe=observe)
    told = answers(tmp_path, [[1.0, 0.0], [3.0, 0.0]])
    seen = observation(told, probe)
    assert seen.gradient.tolist() == [wanted, 0]


# -- what is done to gradients afterwards


def after_the_tape(look):
    """As `look`, and tapes give the shares of the right gradient."""

    def both(count, probe):
        return right(count, probe) if probe.observe == "tape" else look(count, probe)

    return both


def n_times(count, probe):
    seen = right(count, probe)
    return dataclasses.replace(seen, gradient=count * seen.gradient)


def test_a_factor_that_comes_after_the_tape_is_told_from_one_before_it():
    before, after = (
        diagnosed(look, 4)[0] for look in (n_times, after_the_tape(n_times))
    )
    assert [before.cause, after.cause] == ["sum-of-means", "update-scaled"]


def means_of(parts):
    return [GRADIENTS[part].mean(0) for part in parts if len(part)]


def brought_together(count, probe):
    """Each replica updates with its own mean; then weights are averaged."""
    means = means_of(rows_of(probe))
    if probe.observe == "weights":
        return Observation(np.sum(means, axis=0) / count, sources=("weights",))
    spread = 0.0 if count == 1 else 0.7
    return dataclasses.replace(right(1, probe), gradient=means[0], spread=spread)


def brought_together_by_rows(count, probe):
    seen = brought_together(count, probe)
    if probe.observe == "weights":
        return dataclasses.replace(seen, gradient=right(count, probe).gradient)
    return seen


def of_the_first(count, probe):
    """Each replica updates with its share; then all take the weights of the first."""
    everyone = sum(map(len, rows_of(probe)))
    first = GRADIENTS[rows_of(probe)[0]].sum(0) / everyone
    spread = 0.7 * (probe.observe == "gradient") * (count > 1)
    return Observation(first, spread=spread)


@pytest.mark.parametrize("replicas", [2, 4])
def test_replicas_that_meet_are_compared_by_their_weights(replicas):
    causes = {finding.cause for finding in diagnosed(brought_together, replicas)}
    assert causes == {"mean-of-means", "empty-replica"}
    assert not diagnosed(brought_together_by_rows, replicas)


@pytest.mark.parametrize("replicas", [2, 4])
def test_rows_that_do_not_count_are_lost(replicas):
    found = diagnosed(of_the_first, replicas)[0]
    assert found.cause == "not-reduced"
    assert "lost" in found.explanation


@pytest.mark.parametrize("replicas", [2, 4])
def test_updates_that_differ_though_gradients_do_not(replicas):
    def look(count, probe):
        spread = 0.2 * (probe.observe == "weights") * (count > 1)
        return dataclasses.replace(right(count, probe), spread=spread)

    (found,) = diagnosed(look, replicas)
    assert found.cause == "updates-apart"


@pytest.mark.parametrize(
    ("rule", "cause"), [(right, "updates-apart"), (of_the_first, "not-reduced")]
)
def test_updates_by_hand_are_known_by_their_direction(rule, cause):
    def look(count, probe):
        seen = rule(count, probe)
        factor = 1 if count == 1 else 0.8
        spread = 0.2 * (count > 1)
        gradient = factor * seen.gradient
        return Observation(gradient, spread=spread, sources=("weights",))

    (found,) = diagnosed(look, 2)
    assert found.cause == cause


def test_a_part_that_hardly_counts_is_not_lost():
    """Rows of one part weigh next to nothing, on one device as well."""
    weights = np.where(np.arange(ROWS) < ROWS // 2, 1e-3, 1.0)

    def weighted(rows):
        return (weights[rows, None] * GRADIENTS[rows]).sum(0) / weights[rows].sum()

    def look(count, probe):
        parts = [part for part in rows_of(probe) if len(part)]
        gradient = weighted(np.concatenate(parts)) * (1.5 if count > 1 else 1)
        return Observation(gradient, moved=probe.infinite_row is None)

    assert "not-reduced" not in {one.cause for one in diagnosed(look, 2)}


def test_weights_that_replicas_hold_are_compared_as_exactly_as_they_are(tmp_path):
    probe = dataclasses.replace(probes.even(ROWS, 2), observe="weights")
    near = observation(answers(tmp_path, [[1.0], [1.0 + 2.0**-22]]), probe)
    apart = observation(answers(tmp_path, [[1.0], [1.01]]), probe)
    assert near.spread <= 0 < 0.005 < apart.spread


# -- where processes start


def test_processes_that_start_apart_are_noted():
    assert opening.starts_apart(2, ["a", "a"]) == []
    (noted,) = opening.starts_apart(2, ["a", "b"])
    assert noted.check == "starting weights"
    assert noted.unseen
    assert "broadcast" in noted.why


def test_weights_are_known_by_what_they_hold():
    one, same, other = (tf.Variable([1.0, value]) for value in (2.0, 2.0, 3.0))
    assert state.digest_of([one]) == state.digest_of([same])
    assert state.digest_of([one]) != state.digest_of([other])


# -- layers in a step of one's own


class Normalized:
    """A custom loop around a model with BatchNormalization."""

    def __init__(self, synchronized):
        start = keras.initializers.GlorotUniform(seed=3)
        self.model = keras.Sequential(
            [
                keras.Input([3]),
                keras.layers.Dense(4, kernel_initializer=start),
                keras.layers.BatchNormalization(synchronized=synchronized),
                keras.layers.Dense(1, kernel_initializer=start),
            ]
        )
        self.optimizer = keras.optimizers.SGD(0.1)
        self.optimizer.build(self.model.trainable_variables)

    @property
    def trainable_variables(self):
        return self.model.trainable_variables

    def train_step(self, batch):
        x, y = batch
        with tf.GradientTape() as tape:
            errors = tf.reduce_sum((self.model(x, training=True) - y) ** 2, axis=-1)
            share = distloss.mean_share(errors)
        gradients = tape.gradient(share, self.trainable_variables)
        self.optimizer.apply(gradients, self.trainable_variables)
        return share


def normalized(synchronized):
    x = GRADIENTS[:, :3].astype("float32")
    return Normalized(synchronized), (x, LOSSES[:, None].astype("float32"))


@pytest.mark.parametrize("synchronized", [False, True])
def test_batch_normalization_is_told_in_a_loop(synchronized, forked):
    build = functools.partial(normalized, synchronized)
    report = distloss.audit(build, replicas=(1, 2), splits=("even", "uneven"))
    causes = [finding.cause for finding in report.findings]
    assert causes == ([] if synchronized else ["batch-statistics"])
