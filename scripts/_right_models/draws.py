"""What chance decides: sizes, layers, data, optimizers; all of one seed."""

import keras
import numpy as np

ACTIVATIONS = ("tanh", "relu", "gelu", "elu", "silu", "softplus", "sigmoid")
ROWS = (16, 40)


class Draw:
    """Random choices of one seed.

    Attributes:
      rows: of the batch. No number is preferred: some split evenly, most do not.
      seed: which it was.
    """

    def __init__(self, seed):
        self.seed = seed
        self.random = np.random.default_rng(seed)
        self.rows = self.between(*ROWS)
        # Rows of unequal size, in any order: no shard has the gradient of another.
        self._sizes = self.random.permutation(np.linspace(0.3, 2.0, self.rows))

    def chance(self, probability):
        """True so often."""
        return bool(self.random.random() < probability)

    def of(self, *options):
        """One of them."""
        return options[self.random.integers(len(options))]

    def between(self, least, most):
        """A whole number, `most` included."""
        return int(self.random.integers(least, most + 1))

    def activation(self):
        """One of Keras'."""
        return self.of(*ACTIVATIONS)

    def normal(self, *shape):
        """Numbers for each row, `[rows, *shape]` in float32."""
        sizes = self._sizes.reshape([-1] + [1] * len(shape))
        drawn = self.random.normal(size=[self.rows, *shape])
        return (sizes * drawn).astype("float32")

    def integers(self, most, *shape):
        """Whole numbers below `most` for each row, `[rows, *shape]` in int32."""
        return self.random.integers(0, most, [self.rows, *shape]).astype("int32")

    def padded(self, words, length):
        """Texts of 1 to `length` words above 0, and zeros behind them."""
        texts = self.integers(words - 1, length) + 1
        lengths = self.between(1, length), self.integers(length, 1)
        texts[np.arange(length) > np.minimum(*lengths)] = 0
        return texts

    def weights(self, *shape):
        """Sample weights, a third of them zero."""
        drawn = self.random.uniform(0, 3, [self.rows, *shape])
        return (drawn * (self.random.random(drawn.shape) > 0.3)).astype("float32")

    def rate(self):
        """Of learning."""
        return float(10 ** self.random.uniform(-3, -1))


def optimizer(draw, *, is_linear=False, **settings):
    """One of Keras'.

    Args:
      draw: of the case.
      is_linear: only those that make the same of two slices as of their sum: what
        embeddings need where nobody adds slices up.
      settings: more arguments, such as of clipping.
    """
    of = keras.optimizers
    rate = draw.rate()
    if is_linear:
        return of.SGD(rate, momentum=draw.of(0.0, 0.9), **settings)
    if draw.chance(0.3):
        rate = of.schedules.ExponentialDecay(rate, draw.between(5, 50), 0.9)
    if draw.chance(0.2):
        settings["weight_decay"] = 0.01
    if draw.chance(0.15):
        settings["use_ema"] = True
    kind = draw.of(
        of.SGD,
        of.Adam,
        of.AdamW,
        of.Nadam,
        of.Adamax,
        of.RMSprop,
        of.Adagrad,
        of.Adadelta,
        of.Ftrl,
        of.Lion,
        of.Lamb,
    )
    return kind(rate, **settings)


def clip_settings(draw):
    """How a Keras optimizer clips: so that it acts, sometimes, and not."""
    how = draw.of("clipnorm", "global_clipnorm", "clipvalue")
    return {how: float(10 ** draw.random.uniform(-3, 1))}


def regularizer(draw):
    """One of Keras', of weights."""
    both = keras.regularizers.L1L2(l1=0.01, l2=0.03)  # which by itself is of neither
    return draw.of("l1", "l2", both)
