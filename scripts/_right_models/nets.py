"""Networks with their batches: a body, and one head or more that fit to it."""

import functools
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import keras
from keras import layers, ops


@dataclass(frozen=True)
class Style:
    """What a kind adds to bodies.

    Attributes:
      between: `(draw, tensor)` to the tensor that goes on, after each hidden layer.
      arguments: `(draw)` to arguments of each layer with a kernel.
    """

    between: Callable[..., Any] = lambda _, tensor: tensor
    arguments: Callable[..., dict[str, Any]] = lambda _: {}


PLAIN = Style()


@dataclass(frozen=True)
class Body:
    """Features of rows.

    Attributes:
      inputs: of Keras.
      x: the same in numbers.
      features: `[rows, units]`, or `[rows, steps, units]`.
      slices: whether embeddings give slices as gradients.
    """

    inputs: Any
    x: Any
    features: Any
    slices: bool = False


@dataclass(frozen=True)
class Head:
    """An output with a loss.

    Attributes:
      output: of Keras.
      y: what it should be.
      loss: a class of Keras' losses, and its arguments without `reduction`.
      values: `(y, output)` to the losses of rows, or of rows and steps.
    """

    output: Any
    y: Any
    loss: Callable[..., Any]
    values: Callable[..., Any]


@dataclass(frozen=True)
class Net:
    """A model, its batch and the losses of its rows.

    Attributes:
      model: of Keras, one output.
      batch: `(x, y)`, or `(x, y, sample_weight)`.
      head: of the model.
      slices: whether some gradients are sparse.
    """

    model: Any
    batch: tuple[Any, ...]
    head: Head
    slices: bool = field(default=False)


# -- bodies


def dense(draw, style=PLAIN):
    """Layers one after the other."""
    width = draw.between(2, 9)
    x = y = keras.Input([width])
    for _ in range(draw.between(1, 3)):
        units, activation = draw.between(3, 16), draw.activation()
        y = layers.Dense(units, activation, **style.arguments(draw))(y)
        y = style.between(draw, y)
    if draw.chance(0.2):
        y = layers.LayerNormalization()(y)
    return Body(x, draw.normal(width), y)


def images(draw, style=PLAIN):
    """Convolutions, and what brings images to rows."""
    # Two layers without padding, each of every second place, leave a place of nine.
    shape = draw.between(9, 12), draw.between(9, 12), draw.between(1, 3)
    x = y = keras.Input(shape)
    for _ in range(draw.between(1, 2)):
        layer = layers.Conv2D(
            draw.between(2, 8),
            draw.between(2, 3),
            draw.of(1, 1, 2),
            padding=draw.of("same", "valid"),
            **style.arguments(draw),
        )
        y = layers.Activation(draw.activation())(style.between(draw, layer(y)))
    if draw.chance(0.3):
        y = layers.DepthwiseConv2D(2, padding="same")(y)
    y = draw.of(layers.MaxPooling2D, layers.AveragePooling2D)(2, padding="same")(y)
    y = draw.of(layers.GlobalAveragePooling2D, layers.Flatten)()(y)
    return Body(x, draw.normal(*shape), y)


def _recurrent(draw, style, *, steps):
    kind = draw.of(layers.LSTM, layers.GRU, layers.SimpleRNN)
    layer = kind(draw.between(2, 8), return_sequences=steps, **style.arguments(draw))
    return layers.Bidirectional(layer) if draw.chance(0.25) else layer


def series(draw, style=PLAIN):
    """Numbers in time, to a vector for each row or for each step."""
    shape = draw.between(3, 8), draw.between(1, 5)
    x = y = keras.Input(shape)
    if draw.chance(0.4):
        y = layers.Conv1D(draw.between(2, 8), 2, padding="causal")(y)
    y = _recurrent(draw, style, steps=draw.chance(0.4))(y)
    return Body(x, draw.normal(*shape), style.between(draw, y))


def _attended(draw, y):
    heads, width = draw.between(1, 3), y.shape[-1]
    layer = layers.MultiHeadAttention(heads, draw.between(2, 6))
    y = layers.LayerNormalization()(y + layer(y, y, use_causal_mask=draw.chance(0.4)))
    return layers.LayerNormalization()(y + layers.Dense(width, draw.activation())(y))


class Positions(layers.Layer):
    """Adds what is learned for each position."""

    def __init__(self, length, width):
        super().__init__()
        self.table = layers.Embedding(length, width)
        self.length = length
        self.supports_masking = True

    def build(self, _shape):
        """Has the table at once."""
        self.table.build(None)

    def call(self, x):
        """The sum."""
        return x + self.table(ops.arange(self.length))


def tokens(draw, style=PLAIN, *, masked=None, attends=None):
    """Words, to a vector for each text or for each word."""
    words, length = draw.between(5, 30), draw.between(3, 9)
    width = draw.between(2, 8)
    masked = draw.chance(0.5) if masked is None else masked
    attends = draw.chance(0.4) if attends is None else attends
    x = keras.Input([length], dtype="int32")
    y = layers.Embedding(words, width, mask_zero=masked)(x)
    if attends:
        y = Positions(length, width)(y) if draw.chance(0.7) else y
        for _ in range(draw.between(1, 2)):
            y = style.between(draw, _attended(draw, y))
        y = layers.GlobalAveragePooling1D()(y) if draw.chance(0.4) else y
    else:
        y = style.between(draw, _recurrent(draw, style, steps=draw.chance(0.6))(y))
    return Body(x, draw.padded(words, length), y, slices=True)


def categories(draw, _style=PLAIN):
    """Who and what: embeddings side by side, the same one or two of them."""
    many, width = draw.between(4, 30), draw.between(2, 6)
    first = layers.Embedding(many, width)
    second = first if draw.chance(0.3) else layers.Embedding(many, width)
    inputs = [keras.Input([], dtype="int32"), keras.Input([], dtype="int32")]
    pair = [first(inputs[0]), second(inputs[1])]
    y = draw.of(layers.Concatenate, layers.Multiply)()(pair)
    x = draw.integers(many), draw.integers(many)
    return Body(inputs, x, y, slices=True)


def words(draw, _style=PLAIN):
    """An output for each word of a text."""
    many, length = draw.between(5, 30), draw.between(3, 9)
    x = keras.Input([length], dtype="int32")
    y = layers.Embedding(many, draw.between(2, 8))(x)
    if draw.chance(0.6):
        y = layers.Dense(draw.between(2, 8), draw.activation())(y)
    return Body(x, draw.padded(many, length), y, slices=True)


BODIES = (dense, images, series, tokens, categories)
WITHOUT_SLICES = (dense, images, series)


# -- heads


def _losses(draw):
    """A loss, how many units, and what makes targets."""
    of, units = keras.losses, draw.between(1, 3)
    classes = draw.between(2, 5)

    def one_hot(*shape):
        drawn = draw.integers(classes, *shape)
        return (drawn[..., None] == range(classes)).astype("float32")

    def binary(*shape):
        return draw.integers(2, *shape, units).astype("float32")

    def numbers(*shape):
        return draw.normal(*shape, units) + 0.7

    def counts(*shape):
        return draw.integers(5, *shape, units).astype("float32")

    logits = functools.partial
    table = {
        "squared": (of.MeanSquaredError, units, numbers),
        "absolute": (of.MeanAbsoluteError, units, numbers),
        "huber": (of.Huber, units, numbers),
        "log_cosh": (of.LogCosh, units, numbers),
        "binary": (logits(of.BinaryCrossentropy, from_logits=True), units, binary),
        "focal": (logits(of.BinaryFocalCrossentropy, from_logits=True), units, binary),
        "hinge": (of.Hinge, units, binary),
        "classes": (
            logits(of.SparseCategoricalCrossentropy, from_logits=True),
            classes,
            functools.partial(draw.integers, classes),
        ),
        "one_hot": (
            logits(of.CategoricalCrossentropy, from_logits=True, label_smoothing=0.1),
            classes,
            one_hot,
        ),
        "poisson": (of.Poisson, units, counts),
    }
    name = draw.of(*table)
    return name, *table[name]


def head(draw, body, name=None):
    """A random output for these features."""
    kind, loss, units, targets = _losses(draw)
    shape = body.features.shape[1:-1]
    activation = "softplus" if kind == "poisson" else None
    # What is shown is in float32, whatever the layers before compute in.
    layer = layers.Dense(units, activation, name=name, dtype="float32")
    values = loss(reduction=None)
    return Head(layer(body.features), targets(*shape), loss, values.call)


def net(draw, bodies=BODIES, style=PLAIN):
    """A random network with one output."""
    body = draw.of(*bodies)(draw, style)
    out = head(draw, body)
    model = keras.Model(body.inputs, out.output)
    return Net(model, (body.x, out.y), out, body.slices)
