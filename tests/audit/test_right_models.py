"""Steps drawn from a seed: right ones are found right, a planted mistake is found.

`scripts/right_models.py` draws hundreds. That a mutant is wrong at all is shown here
without the audit: on three replicas it does something else than the right step.
"""

import pathlib
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf
from chosen import some
from conftest import strategy_of

sys.path.append(str(pathlib.Path(__file__).parents[2] / "scripts"))

from _right_models import (
    audited,
    by_hand,
    cases,
    kinds,
    mistakes,
    mistakes_compiled,
    mutants,
    tables,
)
from _right_models.draws import ROWS

from distloss._audit.checks.table import CAUSES

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings(
        "ignore:Gradients do not exist:UserWarning",  # which some kinds want
        "ignore:.*IndexedSlices:UserWarning",
    ),
]

REPLICAS = 3
HERE = [name for name, kind in kinds.KINDS.items() if kind.engine == "strategy"]
SEED_OF = {
    **{kinds.kind_of(seed).name: seed for seed in range(len(kinds.KINDS))},
    **{mutants.mutation_of(seed).name: seed for seed in range(len(mutants.MUTATIONS))},
}


@pytest.fixture(autouse=True)
def one_precision():
    yield
    keras.config.set_dtype_policy("float32")


def test_each_kind_says_why_it_is_right():
    assert len(kinds.KINDS) >= 40
    for kind in kinds.KINDS.values():
        assert kind.why.startswith("Right"), kind.name


def test_each_mistake_has_a_cause_that_the_audit_knows():
    assert len(mutants.MUTATIONS) >= 30
    for mutation in mutants.MUTATIONS.values():
        assert {*mutation.causes, *mutation.beside} <= {*CAUSES}, mutation.name
        assert mutation.step.__doc__


def test_each_kind_is_built_of_a_seed():
    for name in HERE:
        model, batch = kinds.step_of(SEED_OF[name])
        rows = {len(leaf) for leaf in tf.nest.flatten(batch)}
        assert len(rows) == 1, name
        assert ROWS[0] <= rows.pop() <= ROWS[1], name
        # Keras builds some models with their first batch only.
        assert model.trainable_variables or not model.built, name


# -- mutants are wrong


def parts_of(batch, *, empty, infinite):
    """The rows of each replica: unequal, the last with none if `empty`."""
    rows = len(tf.nest.flatten(batch)[0])
    edges = [0, rows // 5, rows if empty else rows // 2, rows]
    batch = tf.nest.map_structure(np.array, batch)
    if infinite:
        tf.nest.flatten(batch)[0][-1] = np.inf
    return [
        tf.nest.map_structure(lambda leaf, i=i: leaf[edges[i] : edges[i + 1]], batch)
        for i in range(REPLICAS)
    ]


def weights_of(model, strategy):
    """Of all replicas: those that drift apart differ in some only."""
    return [
        part.numpy()
        for variable in model.trainable_variables
        for part in strategy.experimental_local_results(variable.value)
    ]


def done(seed, mutation, *, planted):
    """What a step does to the weights, and what it shows, on three replicas."""
    strategy = strategy_of("mirrored", REPLICAS)
    with strategy.scope():
        model, batch = mutants.step_of(seed, planted=planted)
        if isinstance(model, keras.Model):
            model(tf.nest.map_structure(tf.constant, batch[0]))
            model.optimizer.build(model.trainable_variables)
    parts = parts_of(
        batch,
        empty="empty-replica" in mutation.causes,
        infinite=mutation.shows == "infinite",
    )
    before = weights_of(model, strategy)
    each = strategy.experimental_distribute_values_from_function(
        lambda context: tf.nest.map_structure(
            tf.constant, parts[context.replica_id_in_sync_group]
        )
    )
    for _ in range(2 if mutation.shows == "later" else 1):
        shown = strategy.run(model.train_step, args=(each,))
    after = weights_of(model, strategy)
    moved = [b - a for a, b in zip(before, after, strict=True)]
    if isinstance(model, keras.Model):
        return moved, 0.0
    return moved, float(sum(strategy.experimental_local_results(shown)))


def dealt(seed, *, planted):
    """How many rows all replicas get first, of those that there are."""
    strategy = strategy_of("mirrored", REPLICAS)
    with strategy.scope():
        model, _ = mutants.step_of(seed, planted=planted)
    data = strategy.distribute_datasets_from_function(model.dataset)
    parts = strategy.experimental_local_results(tf.nest.flatten(next(iter(data)))[0])
    return sum(map(len, parts))


def plain_sgd(draw, *, is_linear=False, **settings):
    """In whose update a factor of the gradient shows."""
    del is_linear
    return keras.optimizers.SGD(0.01, **settings)


@pytest.mark.parametrize("name", some(mutants.MUTATIONS, 5))
def test_a_planted_mistake_makes_another_update(name, monkeypatch):
    for module in (by_hand, mistakes, mistakes_compiled):
        monkeypatch.setattr(module, "optimizer", plain_sgd)
    for module in (mistakes, mistakes_compiled):  # so that it acts on any gradient
        monkeypatch.setattr(module, "clip_settings", lambda _: {"clipvalue": 1e-3})
    seed, mutation = SEED_OF[name], mutants.MUTATIONS[name]
    if mutation.shows == "rows":
        assert dealt(seed, planted=False) == 12
        assert dealt(seed, planted=True) != 12
        return
    right, shown = done(seed, mutation, planted=False)
    wrong, shown_wrong = done(seed, mutation, planted=True)
    alike = all(
        np.allclose(a, b, 1e-3, 1e-7) for a, b in zip(right, wrong, strict=True)
    )
    assert all(np.isfinite(part).all() for part in right)
    if mutation.shows == "infinite":
        assert not any(part.any() for part in right)
    if mutation.shows == "shown":
        assert alike
        assert not np.isclose(shown, shown_wrong, 1e-3)
    else:
        assert not alike


# -- the audit


@pytest.mark.parametrize("name", ["loop_weights", "wrapped", "own_compute_loss"])
def test_the_audit_finds_nothing_in_a_right_step(name, monkeypatch):
    audited.fork_from_one_process(monkeypatch)
    outcome = audited.outcome_of(cases.case_of(SEED_OF[name], False))
    assert outcome.kind == name
    assert outcome.verdict == "agrees", tables.line(outcome.as_record())
    assert outcome.cpu > 0


@pytest.mark.parametrize(
    "name",
    ["divides_twice", "shows_another_loss", "weights_not_prepared", "never_clears"],
)
def test_the_audit_names_a_planted_cause(name, monkeypatch):
    audited.fork_from_one_process(monkeypatch)
    outcome = audited.outcome_of(cases.case_of(SEED_OF[name], True))
    assert outcome.mutation == name
    assert outcome.verdict == "right cause", tables.line(outcome.as_record())


def test_what_is_said_of_a_mutant():
    case = audited.Case(1, "one", "one", ("even",), "strategy", ("a", "b"), ("c",))
    wanted = {
        (): "called right",
        ("unexplained",): "cannot tell",
        ("a",): "right cause",
        ("b", "c"): "right cause",
        ("c",): "wrong cause",
        ("a", "d"): "wrong cause",
        ("a", "unexplained"): "wrong cause",
    }
    assert {found: audited.judged(found, case) for found in wanted} == wanted


def test_a_case_that_crashes_is_counted_and_told(monkeypatch):
    def raises(*_, **__):
        raise RuntimeError("no such thing")

    monkeypatch.setattr(audited.distloss, "audit", raises)
    monkeypatch.setattr(audited, "_cpu", lambda: 0.0)
    outcome = audited.outcome_of(cases.case_of(0, False)).as_record()
    assert outcome["verdict"] == "crash"
    assert "no such thing" in tables.line(outcome)
    assert "python scripts/right_models.py --seed 0 --count 1" in tables.line(outcome)
    assert "| **all** | 1 | 1 | 0.0 |" in tables.table([outcome])
