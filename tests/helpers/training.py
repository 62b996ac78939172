"""The same few SGD steps on one device and on replicas, for many losses at once."""

import contextlib
import dataclasses
import itertools
from collections.abc import Callable

import numpy as np
import tensorflow as tf
from cases import CLASSES, FEATURES, REDUCTIONS, WEIGHTS, batch_of

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
    all_logits = tf.unstack(tf.einsum("rtf,vfc->vrtc", x, weights))
    for variant, logits in zip(variants, all_logits, strict=True):
        y_pred = case.activation(logits)
        if variant.weights == "mask":
            y_pred._keras_mask = tf.convert_to_tensor(mask)
        counts = sample_weight(variant, case, row_weight, token_weight)
        losses.append(tf.cast(variant.loss(y, y_pred, counts), tf.float32))
    return tf.stack(losses)


def losses_and_gradients(case, variants, weights, arrays):
    with tf.GradientTape() as tape:
        tape.watch(weights)
        losses = losses_of(case, variants, weights, arrays)
    return losses, tape.gradient(losses, weights)  # each depends on its own weights


@contextlib.contextmanager
def eager_functions():
    """With each `tf.function` run as the Python that it is."""
    tf.config.run_functions_eagerly(True)
    try:
        yield
    finally:
        tf.config.run_functions_eagerly(False)


def train(step, variants, batches):
    """Weights after one SGD step per batch, and every step's losses.

    Args:
      step: (weights, batch) -> losses `[variants]`, gradients of the weights' shape.
      variants: how many.
      batches: list of `cases.Batch`.

    Returns:
      weights `[variants, FEATURES, CLASSES]`, losses `[steps, variants]`.
    """
    weights, reported = tf.constant([start()] * variants), []
    for batch in batches:
        losses, gradients = step(weights, batch)
        weights -= LEARNING_RATE * gradients
        reported.append(losses.numpy())
    return weights.numpy(), np.stack(reported)


def weights_spec(variants):
    return tf.TensorSpec([variants, FEATURES, CLASSES])


def arrays_spec(case):
    """The arrays of a batch or of a shard, with any number of rows."""
    arrays = batch_of(case, "even", (2,)).arrays
    return [tf.TensorSpec([None, *array.shape[1:]], array.dtype) for array in arrays]


def train_one_device(case, variants, batches):
    """What `train` returns, by eager code that sees whole batches."""

    def step(weights, batch):
        return losses_and_gradients(case, variants, weights, batch.arrays)

    return train(step, len(variants), batches)


class TwoPasses(Replicas):
    """One of `count` replicas that run one after the other, in one of `two_passes`."""

    def __init__(self, count, totals):
        self.replica_count, self.totals = count, totals
        self.recorded = []

    def count(self):
        return self.replica_count

    def sum(self, local, name="sum"):
        self.recorded.append(local)
        return self.totals[len(self.recorded) - 1]

    def loss_to_report(self, value):
        return value / tf.cast(self.replica_count, value.dtype)

    def sum_gradients(self, local, name="gradients"):
        return [self.sum(gradient) for gradient in local]


def two_passes(one_pass, shards, sums):
    """Each shard's result of `one_pass`, with all sums taken over the shards.

    Args:
      one_pass: (shard, totals) -> result and what a `TwoPasses` has recorded: the
        first pass is for the record, the second gets the totals.
      shards: what each replica holds.
      sums: how many sums a pass takes, each of one to three numbers.
    """
    unknown = [tf.zeros(3)] * sums
    recordings = [one_pass(shard, unknown)[1] for shard in shards]
    totals = [tf.add_n(parts) for parts in zip(*recordings, strict=True)]
    return [one_pass(shard, totals)[0] for shard in shards]


def two_passes_step(case, variants_on):
    """A step for `train` that splits each batch, traced once for any split and count.

    Args:
      case: a `cases.LossCase`.
      variants_on: replicas -> variants, each of which takes one sum.
    """
    variants = len(variants_on(TwoPasses(1, [])))
    count_spec, totals_spec = tf.TensorSpec([], tf.int32), tf.TensorSpec([None])
    signature = [weights_spec(variants), arrays_spec(case)]
    signature += [count_spec, [totals_spec] * variants]

    @tf.function(autograph=False, input_signature=signature)
    def one_pass(weights, arrays, count, totals):
        replicas = TwoPasses(count, totals)
        result = losses_and_gradients(case, variants_on(replicas), weights, arrays)
        return result, replicas.recorded

    def step(weights, batch):
        count = len(batch.sizes)

        def of_shard(arrays, totals):
            return one_pass(weights, arrays, count, totals)

        results = two_passes(of_shard, batch.shards, variants)
        losses, gradients = zip(*results, strict=True)
        return tf.add_n(losses), tf.add_n(gradients)

    return step


def train_on_strategy(strategy, case, variants, batches):
    """What `train` returns, by `strategy.run` in one traced function."""
    with strategy.scope():
        weights = tf.Variable([start()] * len(variants))

    def replica_step(arrays, bounds):
        context = tf.distribute.get_replica_context()
        me = context.replica_id_in_sync_group
        arrays = [array[bounds[me] : bounds[me + 1]] for array in arrays]
        losses, gradients = losses_and_gradients(case, variants, weights, arrays)
        weights.assign_sub(LEARNING_RATE * context.all_reduce("SUM", gradients))
        return losses

    bounds_spec = tf.TensorSpec([1 + strategy.num_replicas_in_sync], tf.int32)

    @tf.function(autograph=False, input_signature=[arrays_spec(case), bounds_spec])
    def step(arrays, bounds):
        losses = strategy.run(replica_step, (arrays, bounds))
        return strategy.reduce("SUM", losses, axis=None)

    reported = [
        step(batch.arrays, batch.bounds.astype("int32")).numpy() for batch in batches
    ]
    return weights.numpy(), np.stack(reported)


def assert_same_training(got, wanted, tolerance=1e-5):
    """Weights and reported losses agree, each relative to its largest value."""
    (weights, losses), (wanted_weights, wanted_losses) = got, wanted
    moved = np.abs(wanted_weights - start()).max(axis=(1, 2))
    assert (moved > 1e-3).all(), f"steps that move nothing show nothing: {moved}"
    scale = np.abs(wanted_weights).max(axis=(1, 2), keepdims=True)
    np.testing.assert_array_less(np.abs(weights - wanted_weights) / scale, tolerance)
    scale = np.abs(wanted_losses).max(axis=0)
    np.testing.assert_array_less(np.abs(losses - wanted_losses) / scale, tolerance)
