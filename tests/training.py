"""The same few SGD steps on one device and on replicas, for many losses at once."""

import dataclasses
import functools
import itertools
from collections.abc import Callable

import numpy as np
import tensorflow as tf
from cases import CLASSES, FEATURES, REDUCTIONS, WEIGHTS

from distloss.replicas import Replicas

LEARNING_RATE = 0.05


@dataclasses.dataclass(frozen=True)
class Variant:
    """One loss function and the weights that it gets."""

    loss: Callable  # (y_true, y_pred, sample_weight) -> scalar
    weights: str  # one of cases.WEIGHTS


def variants_of(case, wrap=lambda loss: loss):
    """The losses of `case`: each reduction with each kind of weights."""
    kinds = WEIGHTS if case.per_token else ("none", "rows")
    return [
        Variant(wrap(case.make(reduction=reduction)), kind)
        for reduction, kind in itertools.product(REDUCTIONS, kinds)
    ]


def start():
    rng = np.random.default_rng(3)
    return rng.normal(size=(FEATURES, CLASSES)).astype("float32") / 2


def sample_weight(variant, case, row_weight, token_weight):
    if variant.weights == "rows":
        return row_weight[:, tf.newaxis] if case.per_token else row_weight
    return token_weight if variant.weights == "tokens" else None


def losses_of(case, variants, weights, arrays):
    """The loss of each variant at its own copy of the weights."""
    x, y, row_weight, token_weight, mask = arrays
    losses = []
    for variant, weight in zip(variants, weights, strict=True):
        y_pred = case.activation(tf.einsum("rtf,fc->rtc", x, weight))
        if variant.weights == "mask":
            y_pred._keras_mask = tf.convert_to_tensor(mask)
        counts = sample_weight(variant, case, row_weight, token_weight)
        losses.append(tf.cast(variant.loss(y, y_pred, counts), tf.float32))
    return losses


def losses_and_gradients(case, variants, weights, arrays):
    with tf.GradientTape() as tape:
        tape.watch(weights)
        losses = losses_of(case, variants, weights, arrays)
        everything = tf.add_n(losses)  # each depends on its own weights only
    return tf.stack(losses), tape.gradient(everything, weights)


def train_one_device(case, variants, batches):
    """Weights after one SGD step per batch, and every step's losses.

    Returns:
      weights `[variants, FEATURES, CLASSES]`, losses `[steps, variants]`.
    """
    weights = [tf.constant(start()) for _ in variants]
    reported = []
    for batch in batches:
        losses, gradients = losses_and_gradients(case, variants, weights, batch.arrays)
        weights = descended(weights, gradients)
        reported.append(losses.numpy())
    return np.stack(weights), np.stack(reported)


def descended(weights, gradients):
    return [w - LEARNING_RATE * g for w, g in zip(weights, gradients, strict=True)]


class TwoPasses(Replicas):
    """Replicas one after the other: a first pass records sums, a second gets totals."""

    def __init__(self, count):
        self.replica_count = count
        self.recorded, self.totals = [], None

    def count(self):
        return self.replica_count

    def sum(self, local):
        self.recorded.append(local)
        return local if self.totals is None else self.totals[len(self.recorded) - 1]

    def reported(self, value):
        return value / self.replica_count

    def sum_gradients(self, local):
        return [self.sum(gradient) for gradient in local]

    def run(self, forward, step, shards):
        """Each shard's result of `step`, with all sums taken over the shards."""
        self.totals, recordings = None, []
        for shard in shards:
            self.recorded = []
            forward(shard)
            recordings.append(self.recorded)
        self.totals = [tf.add_n(parts) for parts in zip(*recordings, strict=True)]
        results = []
        for shard in shards:
            self.recorded = []
            results.append(step(shard))
        return results


def train_two_passes(case, variants, batches, replicas):
    """What `train_one_device` returns, with each batch split over `replicas`."""
    weights = [tf.constant(start()) for _ in variants]
    reported = []
    for batch in batches:
        arguments = (case, variants, weights)
        forward = functools.partial(losses_of, *arguments)
        step = functools.partial(losses_and_gradients, *arguments)
        results = replicas.run(forward, step, batch.shards)
        by_variant = zip(*(gradients for _, gradients in results), strict=True)
        gradients = [tf.add_n(parts) for parts in by_variant]
        weights = descended(weights, gradients)
        reported.append(sum(losses.numpy() for losses, _ in results))
    return np.stack(weights), np.stack(reported)


def train_on_strategy(strategy, case, variants, batches):
    """What `train_one_device` returns, by `strategy.run` in one traced function."""
    with strategy.scope():
        weights = [tf.Variable(start()) for _ in variants]

    def replica_step(arrays, bounds):
        context = tf.distribute.get_replica_context()
        me = context.replica_id_in_sync_group
        arrays = [array[bounds[me] : bounds[me + 1]] for array in arrays]
        losses, gradients = losses_and_gradients(case, variants, weights, arrays)
        gradients = context.all_reduce("SUM", gradients)
        for weight, gradient in zip(weights, gradients, strict=True):
            weight.assign_sub(LEARNING_RATE * gradient)
        return losses

    signature = [
        tf.TensorSpec([None, *array.shape[1:]], array.dtype)
        for array in batches[0].arrays
    ]
    bounds_spec = tf.TensorSpec([1 + strategy.num_replicas_in_sync], tf.int32)

    @tf.function(autograph=False, input_signature=[signature, bounds_spec])
    def step(arrays, bounds):
        losses = strategy.run(replica_step, (arrays, bounds))
        return strategy.reduce("SUM", losses, axis=None)

    reported = [
        step(list(batch.arrays), batch.bounds.astype("int32")).numpy()
        for batch in batches
    ]
    return np.stack([weight.numpy() for weight in weights]), np.stack(reported)


def assert_same_training(got, wanted, tolerance=1e-5):
    """Weights and reported losses agree, each relative to its largest value."""
    (weights, losses), (wanted_weights, wanted_losses) = got, wanted
    moved = np.abs(wanted_weights - start()).max(axis=(1, 2))
    assert (moved > 1e-3).all(), f"steps that move nothing show nothing: {moved}"
    scale = np.abs(wanted_weights).max(axis=(1, 2), keepdims=True)
    np.testing.assert_array_less(np.abs(weights - wanted_weights) / scale, tolerance)
    scale = np.abs(wanted_losses).max(axis=0)
    np.testing.assert_array_less(np.abs(losses - wanted_losses) / scale, tolerance)
