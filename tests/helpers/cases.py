"""One table of losses, splits and weights.

All rows, tokens and weights differ, so that a wrong denominator shows.
"""

import dataclasses
import itertools
from collections.abc import Callable

import keras
import numpy as np
import pytest
import tensorflow as tf

TOKENS, FEATURES, CLASSES = 3, 5, 4
KERAS = tuple(int(part) for part in keras.__version__.split(".")[:2])


def comparable(reports):
    """What `fit` or `evaluate` reported, without what Keras has wrong on one device.

    The loss of an output counts a batch by its rows where these are known as it is
    traced, and as one row otherwise. From Keras 3.16 on the first batches' are known:
    examples/upstream/losses_of_outputs.py
    """
    if KERAS < (3, 16):
        return reports
    return {
        name: value
        for name, value in reports.items()
        if name.removeprefix("val_") == "loss" or not name.endswith("_loss")
    }


def since_keras(*release):
    """Skips a test that compares with what older Keras does not have."""
    reason = f"needs Keras {'.'.join(map(str, release))}"
    return pytest.mark.skipif(release > KERAS, reason=reason)


def of_this_keras(*reductions):
    """Those that plain Keras has: the means of these names are new in 3.7."""
    new = ("mean", "mean_with_sample_weight")
    return [name for name in reductions if KERAS >= (3, 7) or name not in new]


REDUCTIONS = of_this_keras("sum_over_batch_size", "mean_with_sample_weight", "sum")
WEIGHTS = ("none", "rows", "tokens", "mask")

# rows of each replica; the i-th step of a training run uses the i-th split
SPLITS = {
    2: {"even": (4, 4), "short": (4, 1), "empty": (3, 0), "masked": (3, 2)},
    3: {"even": (3, 3, 3), "short": (3, 3, 1), "empty": (3, 0, 2), "masked": (4, 1, 2)},
    4: {
        "even": (2, 2, 2, 2),
        "short": (2, 2, 2, 1),
        "empty": (4, 1, 0, 2),
        "masked": (3, 1, 2, 2),
    },
}


@dataclasses.dataclass(frozen=True)
class LossCase:
    """A loss class, what its predictions look like, and how to draw its targets."""

    make: Callable  # keyword arguments of keras.losses.Loss -> loss
    activation: Callable  # logits [rows, TOKENS, CLASSES] -> y_pred
    targets: Callable  # (generator, rows) -> y_true
    per_token: bool = True  # element losses are [rows, TOKENS], else [rows]


def _real(rng, rows):
    return rng.normal(size=(rows, TOKENS, CLASSES)).astype("float32")


def _positive(rng, rows):
    return rng.uniform(0.1, 2.0, (rows, TOKENS, CLASSES)).astype("float32")


def _binary(rng, rows):
    return rng.integers(0, 2, (rows, TOKENS, CLASSES)).astype("float32")


def _signs(rng, rows):
    return 2 * _binary(rng, rows) - 1


def _classes(rng, rows):
    return rng.integers(0, CLASSES, (rows, TOKENS))


def _one_hot(rng, rows):
    return np.eye(CLASSES, dtype="float32")[_classes(rng, rows)]


def _distribution(rng, rows):
    values = _positive(rng, rows)
    return values / values.sum(-1, keepdims=True)


def _characters(rng, rows):
    return rng.integers(1, CLASSES, (rows, 1))  # 0 is the blank


def _identity(logits):
    return logits


softmax, sigmoid = keras.ops.softmax, keras.ops.sigmoid
softplus = keras.ops.softplus
_losses = keras.losses

_CASES = {
    "BinaryCrossentropy": LossCase(_losses.BinaryCrossentropy, sigmoid, _binary),
    "BinaryFocalCrossentropy": LossCase(
        _losses.BinaryFocalCrossentropy, sigmoid, _binary
    ),
    "CTC": LossCase(_losses.CTC, _identity, _characters, per_token=False),
    "CategoricalCrossentropy": LossCase(
        _losses.CategoricalCrossentropy, softmax, _one_hot
    ),
    "CategoricalFocalCrossentropy": LossCase(
        _losses.CategoricalFocalCrossentropy, softmax, _one_hot
    ),
    "CategoricalGeneralizedCrossEntropy": LossCase(
        lambda **options: _losses.CategoricalGeneralizedCrossEntropy(**options),
        softmax,
        _classes,
    ),
    "CategoricalHinge": LossCase(_losses.CategoricalHinge, _identity, _one_hot),
    "CosineSimilarity": LossCase(_losses.CosineSimilarity, _identity, _real),
    "Dice": LossCase(
        lambda **options: _losses.Dice(axis=(1, 2), **options),
        sigmoid,
        _binary,
        per_token=False,
    ),
    "Hinge": LossCase(_losses.Hinge, _identity, _signs),
    "Huber": LossCase(_losses.Huber, _identity, _real),
    "KLDivergence": LossCase(_losses.KLDivergence, softmax, _distribution),
    "LogCosh": LossCase(_losses.LogCosh, _identity, _real),
    "MeanAbsoluteError": LossCase(_losses.MeanAbsoluteError, _identity, _real),
    "MeanAbsolutePercentageError": LossCase(
        _losses.MeanAbsolutePercentageError, _identity, _positive
    ),
    "MeanSquaredError": LossCase(_losses.MeanSquaredError, _identity, _real),
    "MeanSquaredLogarithmicError": LossCase(
        _losses.MeanSquaredLogarithmicError, softplus, _positive
    ),
    "Poisson": LossCase(_losses.Poisson, softplus, _positive),
    "SparseCategoricalCrossentropy": LossCase(
        _losses.SparseCategoricalCrossentropy, softmax, _classes
    ),
    "SquaredHinge": LossCase(_losses.SquaredHinge, _identity, _signs),
    "Tversky": LossCase(
        lambda **options: _losses.Tversky(axis=(1, 2), **options),
        sigmoid,
        _binary,
        per_token=False,
    ),
}


def _is_in_this_keras(case):
    try:
        case.make()
    except (AttributeError, TypeError):  # no such class, or no axis=
        return False
    return True


LOSSES = {name: case for name, case in _CASES.items() if _is_in_this_keras(case)}
NOT_IN_THIS_KERAS = _CASES.keys() - LOSSES
assert not NOT_IN_THIS_KERAS or KERAS < (3, 10), NOT_IN_THIS_KERAS


@dataclasses.dataclass(frozen=True)
class Batch:
    """One global batch and the rows of each replica."""

    x: np.ndarray  # [rows, TOKENS, FEATURES]
    y: np.ndarray
    row_weight: np.ndarray  # [rows]
    token_weight: np.ndarray  # [rows, TOKENS]
    mask: np.ndarray  # bool, [rows, TOKENS]
    sizes: tuple[int, ...]

    @property
    def arrays(self):
        return [self.x, self.y, self.row_weight, self.token_weight, self.mask]

    @property
    def bounds(self):
        return np.cumsum([0, *self.sizes])

    @property
    def shards(self):
        """The arrays of each replica."""
        spans = list(itertools.pairwise(self.bounds))
        return [[array[i:j] for array in self.arrays] for i, j in spans]


def batch_of(case, split, sizes, seed=0):
    """A batch whose last replica has no weight if `split` is "masked"."""
    rng = np.random.default_rng([seed, *sizes])
    rows = sum(sizes)
    x = rng.normal(size=(rows, TOKENS, FEATURES)).astype("float32")
    row_weight = rng.uniform(0.5, 10, rows).astype("float32")
    row_weight[1] = 0
    token_weight = rng.uniform(0.5, 10, (rows, TOKENS)).astype("float32")
    token_weight[rng.random((rows, TOKENS)) < 0.2] = 0
    mask = rng.random((rows, TOKENS)) < 0.7
    mask[0, 0] = True
    if split == "masked":
        first = rows - sizes[-1]
        row_weight[first:], token_weight[first:], mask[first:] = 0, 0, False
    return Batch(x, case.targets(rng, rows), row_weight, token_weight, mask, sizes)


def fresh(nest):
    """Its arrays copied, for a generator of a dataset.

    TensorFlow takes their memory and writes to it, at times in training on replicas:
    examples/upstream/tensorflow_generated_views.py
    """
    return tf.nest.map_structure(np.array, nest)


def batches_of(case, count):
    """One batch per split, for `count` replicas."""
    return [batch_of(case, split, sizes) for split, sizes in SPLITS[count].items()]
