"""The audit finds nothing in steps that are right, and the right cause in others.

Each build looks like a bug that it has not, see `builds_false_alarms`; some of them are
audited, or all with DISTLOSS_ZOO=all.
"""

import importlib
import inspect
import pathlib
import runpy

import builds_false_alarms as builds
import numpy as np
import pytest
from chosen import ALL, first_of_each, some
from numpy.random import bit_generator

import distloss
from distloss._audit.child import determinism

BUILDS = pathlib.Path(builds.__file__)

ROOT = BUILDS.parents[2]
SCRIPT = runpy.run_path(str(ROOT / "scripts" / "false_alarms.py"))
RIGHT = SCRIPT["KINDS"][BUILDS.name]
WRONG = {
    "two_optimizers_clip_and_both_sum_means": {"sum-of-means"},
    "dense_clipped_before_the_sum": {"clip-before-sum"},
    "tokens_clipped_before_the_sum": {"clip-before-sum", "sparse-slices-apart"},
    "clipped_by_hand_before_the_sum": {"not-linear-in-gradient"},
    "sharpness_of_the_rows": {"not-linear-in-gradient"},
    "nominal_sum": {"nominal-batch-size"},
    "nominal_rows": {"nominal-batch-size"},
    "nominal_argument": {"nominal-batch-size"},
    "rows_as_weight": {"batch-size-as-weight"},
    "tokens_with_adam": {"sparse-slices-apart"},
    "positions_with_adam": {"sparse-slices-apart"},
    "tokens_clipped_by_norm": {"sparse-slices-apart"},
    "positions_clipped_by_norm": {"sparse-slices-apart"},
    "added_sum_is_shared": {"added-loss-divided"},
    "added_sum_and_mean_are_shared": {"added-loss-divided"},
    "added_sum_beside_a_regularizer": {"added-loss-divided"},
    "added_weights_are_not_shared": {"regularization-not-scaled"},
    "noise_of_numpy_in_the_step": {"nondeterministic"},
    "sampled_classes": {"nondeterministic"},
    "drawn_by_python_without_seed": {"nondeterministic"},
    "drawn_by_the_system": {"nondeterministic"},
}


def cause_of(name):
    return name if ALL else tuple(WRONG[name])


def audited(name):
    return distloss.audit(f"{BUILDS}:{name}", replicas=(1, 2))


@pytest.mark.parametrize("name", some(RIGHT, 9))
def test_what_is_right_agrees(name, forked):
    assert audited(name).findings == ()


@pytest.mark.parametrize("name", some(first_of_each(WRONG, cause_of), 4))
def test_what_is_wrong_has_its_own_cause(name, forked):
    assert {finding.cause for finding in audited(name).findings} == WRONG[name]


def test_only_the_table_has_slices(forked):
    report = audited("positions_with_adam")
    assert [f.replicas for f in report.findings] == [2]  # on one: a slice per position
    (table,) = report.findings[0].variables
    assert "embedding" in table
    assert [f.replicas for f in audited("tokens_with_adam").findings] == [1, 2]


def test_the_layer_that_adds_a_sum_is_named(forked):
    (found,) = audited("added_sum_and_mean_are_shared").findings
    assert found.scale == pytest.approx(0.5, rel=1e-4)
    assert "'added by adds_1'" in found.explanation


@pytest.mark.parametrize("module", determinism.OPERATIONS)
def test_every_operation_that_is_pinned_exists(module):
    """Its arguments are read by these names."""
    names = {
        "same_order": {"value"},
        "classes": {"logits", "num_samples", "output_dtype"},
        "whole_numbers": {"shape", "minval", "maxval"},
        "mean": {"shape"},
        "mean_per_sample": {"shape"},
    }
    generated = importlib.import_module(f"tensorflow.python.ops.gen_{module}")
    for operation, stand_in in determinism.OPERATIONS[module].items():
        arguments = inspect.signature(getattr(generated, operation)).parameters
        assert names.get(stand_in, {"shape", "dtype"}) <= set(arguments), operation
        parameters = ({"alpha"}, {"means", "minvals", "maxvals"}, {"counts", "probs"})
        if stand_in.startswith("mean"):
            every = (*parameters, {"rate", "dtype"}, {"lam", "dtype"})
            assert any(one <= set(arguments) for one in every), operation


def test_numpy_takes_its_entropy_where_it_is_pinned(monkeypatch):
    def draws():
        seeds = iter([5])
        monkeypatch.setattr(bit_generator, "randbits", lambda _bits: next(seeds))
        return np.random.default_rng().normal()

    assert draws() == draws()
