"""The same few SGD steps on one device and on replicas, for many losses at once."""

import itertools

import numpy as np
import tensorflow as tf
from cases import CLASSES, FEATURES, REDUCTIONS, WEIGHTS

LEARNING_RATE = 0.05


def variants_of(case):
    """Each (reduction, weights) that the element losses of `case` can have."""
    kinds = WEIGHTS if case.per_token else ("none", "rows")
    return list(itertools.product(REDUCTIONS, kinds))


def start():
    rng = np.random.default_rng(3)
    return rng.normal(size=(FEATURES, CLASSES)).astype("float32") / 2


def sample_weight(kind, row_weight, token_weight, per_token):
    if kind == "rows":
        return row_weight[:, tf.newaxis] if per_token else row_weight
    return token_weight if kind == "tokens" else None


def losses_of(case, loss_fns, weights, arrays):
    """The loss of each variant at its own copy of the weights."""
    x, y, row_weight, token_weight, mask = arrays
    losses = []
    for (_, kind), loss_fn, weight in zip(
        variants_of(case), loss_fns, weights, strict=True
    ):
        y_pred = case.activation(tf.einsum("rtf,fc->rtc", x, weight))
        if kind == "mask":
            y_pred._keras_mask = mask
        counts = sample_weight(kind, row_weight, token_weight, case.per_token)
        losses.append(tf.cast(loss_fn(y, y_pred, counts), tf.float32))
    return losses


def train(strategy, case, loss_fns, batches):
    """Weights after one SGD step per batch, and every step's reported losses.

    Args:
      strategy: who runs; each replica takes its `sizes` rows of a batch.
      case: the LossCase.
      loss_fns: one per variant, (y_true, y_pred, sample_weight) -> scalar.
      batches: the global batches.

    Returns:
      weights `[variants, FEATURES, CLASSES]`, losses `[steps, variants]`.
    """
    with strategy.scope():
        weights = [tf.Variable(start()) for _ in loss_fns]

    def replica_step(arrays, bounds):
        context = tf.distribute.get_replica_context()
        me = context.replica_id_in_sync_group
        rows = slice(bounds[me], bounds[me + 1])
        arrays = [array[rows] for array in arrays]
        with tf.GradientTape() as tape:
            losses = losses_of(case, loss_fns, weights, arrays)
            everything = tf.add_n(losses)  # each depends on its own weights only
        gradients = tape.gradient(everything, weights)
        if strategy.num_replicas_in_sync > 1:
            gradients = context.all_reduce("SUM", gradients)
        for weight, gradient in zip(weights, gradients, strict=True):
            weight.assign_sub(LEARNING_RATE * gradient)
        return tf.stack(losses)

    signature = [
        tf.TensorSpec([None, *a.shape[1:]], a.dtype) for a in batches[0].arrays
    ]
    bound_count = 1 + strategy.num_replicas_in_sync

    @tf.function(input_signature=[signature, tf.TensorSpec([bound_count], tf.int32)])
    def step(arrays, bounds):
        losses = strategy.run(replica_step, (arrays, bounds))
        return strategy.reduce("SUM", losses, axis=None)

    reported = []
    for batch in batches:
        sizes = batch.sizes if strategy.num_replicas_in_sync > 1 else [len(batch.x)]
        bounds = np.cumsum([0, *sizes]).astype("int32")
        reported.append(step(list(batch.arrays), bounds).numpy())
    return np.stack([weight.numpy() for weight in weights]), np.stack(reported)


def plain_keras_losses(case):
    return [case.make(reduction=reduction) for reduction, _ in variants_of(case)]


def assert_same_training(got, wanted, tolerance=1e-5):
    """Weights and reported losses agree, each relative to its largest value."""
    (weights, losses), (wanted_weights, wanted_losses) = got, wanted
    assert np.isfinite(weights).all()
    moved = np.abs(wanted_weights - start()).max(axis=(1, 2), keepdims=True)
    assert (moved > 1e-3).all(), "a step that moves nothing shows nothing"
    scale = np.abs(wanted_weights).max(axis=(1, 2), keepdims=True)
    np.testing.assert_array_less(np.abs(weights - wanted_weights) / scale, tolerance)
    scale = np.abs(wanted_losses).max(axis=0)
    np.testing.assert_array_less(np.abs(losses - wanted_losses) / scale, tolerance)
