"""Kinds of prepared models whose layers add to the loss, or draw random numbers."""

import keras
from keras import layers, ops

from _right_models import nets
from _right_models.draws import regularizer
from _right_models.nets import Style
from _right_models.prepared import one_output
from _right_models.table import right


@right()
def weight_regularizers(draw):
    """Right since prepare counts what is the same on each replica once in all."""

    def arguments(draw):
        names = "kernel_regularizer", "bias_regularizer"
        return {name: regularizer(draw) for name in names if draw.chance(0.7)}

    return one_output(draw, nets.WITHOUT_SLICES, Style(arguments=arguments))


@right()
def activity_regularizers(draw):
    """Right since prepare weighs a mean over a replica's rows by these."""

    def between(draw, y):
        return layers.ActivityRegularization(
            l1=draw.of(0.0, 0.01), l2=draw.of(0.01, 0.1)
        )(y)

    def arguments(draw):
        return {"kernel_regularizer": draw.of(None, "l2")}

    return one_output(draw, [nets.dense, nets.images], Style(between, arguments))


class Adds(layers.Layer):
    """Adds what rows cost (a mean, a sum, or as they are), or its own weights."""

    def __init__(self, what, factor):
        super().__init__()
        self.what, self.factor = what, factor

    def build(self, shape):
        """Makes a weight for each feature."""
        self.scale = self.add_weight(shape=shape[-1:], initializer="ones", name="scale")

    def call(self, y):
        """Scales, and adds."""
        y = y * self.scale
        rows = ops.sum(ops.square(y), axis=tuple(range(1, len(y.shape))))
        added = {
            "mean": lambda: ops.mean(rows),
            "rows": lambda: rows,
            "sum": lambda: ops.sum(rows),
            "weights": lambda: ops.sum(ops.square(self.scale)),
        }
        self.add_loss(self.factor * added[self.what]())
        return y


@right()
def added_losses(draw):
    """Right since prepare takes a scalar for a mean over rows, and it is one.

    Losses with an axis of rows are a sum over them, and weights count once.
    """

    def between(draw, y):
        return Adds(draw.of("mean", "mean", "rows", "weights"), 0.1)(y)

    return one_output(draw, [nets.dense, nets.images], Style(between))


@right()
def dropout(draw):
    """Right but for chance, which the audit pins: other rows are dropped elsewhere."""

    def between(draw, y):
        kind = draw.of(layers.Dropout, layers.AlphaDropout)
        return kind(draw.of(0.1, 0.5), seed=draw.of(None, draw.seed))(y)

    return one_output(draw, nets.WITHOUT_SLICES, Style(between))


@right()
def noise(draw):
    """Right but for chance, which the audit pins: rows get other noise elsewhere."""

    def between(draw, y):
        kind = draw.of(layers.GaussianNoise, layers.GaussianDropout)
        return kind(draw.of(0.1, 0.4))(y)

    return one_output(draw, nets.WITHOUT_SLICES, Style(between))


class Jitters(layers.Layer):
    """Noise of operations, with a generator of its own or the seed of a call."""

    def __init__(self, seed):
        super().__init__()
        self.generator = keras.random.SeedGenerator(seed)

    def call(self, y, training=False):
        """Adds it while training."""
        if not training:
            return y
        return y + 0.1 * keras.random.normal(ops.shape(y), seed=self.generator)


@right()
def seeds(draw):
    """Right but for chance, which the audit pins: a seed draws for rows in order."""

    def between(draw, y):
        return Jitters(draw.of(None, draw.seed))(y)

    return one_output(draw, [nets.dense, nets.images], Style(between))
