"""Kinds of compiled models: plain Keras on one device is what they must do.

Keras defines the loss of a batch on one device: a sum over rows (or elements, less
those that a mask leaves out) by their number, or by the sum of weights. Preparing
divides the same sums by that number of all replicas, and lets the optimizer see the sum
of all gradients, so that no split can show.
"""

import keras
import numpy as np
from keras import layers, ops

import distloss
from _right_models import nets
from _right_models.draws import clip_settings, optimizer
from _right_models.nets import Style
from _right_models.table import right


def compiled(draw, model, loss, **arguments):
    """A compiled and prepared model, with an optimizer that may clip."""
    settings = clip_settings(draw) if draw.chance(0.4) else {}
    model.compile(optimizer(draw, **settings), loss, **arguments)
    return distloss.prepare(model)


def reduced(draw, head):
    """The loss of a head, with a reduction that is a mean."""
    names = "sum_over_batch_size", "mean", "mean_with_sample_weight"
    return head.loss(reduction=draw.of(*names))


def one_output(draw, bodies=nets.BODIES, style=nets.PLAIN):
    """A random prepared model of one output."""
    net = nets.net(draw, bodies, style)
    fits = net.batch[1].shape[1:] == net.model.output_shape[1:]
    metrics = ["mse"] if fits and draw.chance(0.3) else None
    loss = reduced(draw, net.head)
    return compiled(draw, net.model, loss, metrics=metrics), net.batch


@right()
def dense(draw):
    """Right as every prepared model: rows meet in the loss alone."""
    return one_output(draw, [nets.dense])


@right()
def convolution(draw):
    """Right as every prepared model: rows meet in the loss alone."""
    return one_output(draw, [nets.images])


@right()
def synchronised_statistics(draw):
    """Right since sums and counts of rows are added up before they are divided.

    So the statistics are those of all rows, however many a replica holds; a prepared
    replica without rows adds none.
    """

    def between(draw, y):
        # With a small epsilon, rows that are alike would make rounding large.
        return layers.BatchNormalization(
            synchronized=True, momentum=draw.of(0.9, 0.99), epsilon=1e-2
        )(y)

    return one_output(draw, [nets.dense, nets.images], Style(between))


@right()
def recurrent(draw):
    """Right as every prepared model: steps of one row meet, rows do not."""
    return one_output(draw, [nets.series])


@right()
def attention(draw):
    """Right as every prepared model: words of one row meet, rows do not."""

    def body(draw, style):
        return nets.tokens(draw, style, masked=False, attends=True)

    return one_output(draw, [body])


@right()
def masks(draw):
    """Right since words that a mask leaves out are in neither sum.

    The number of words is counted over all replicas, so it does not matter which of
    them has the long texts.
    """

    def body(draw, style):
        return nets.tokens(draw, style, masked=True, attends=False)

    return one_output(draw, [body])


@right()
def embeddings(draw):
    """Right since slices of one index are added up before the update rule."""
    return one_output(draw, [nets.categories])


@right()
def several_inputs(draw):
    """Right as every prepared model: inputs of a row stay together."""
    style = nets.PLAIN
    width = draw.between(1, 5)
    first = draw.of(nets.images, nets.series, nets.tokens)(draw, style)
    beside = keras.Input([width], name="beside")
    y = first.features
    y = layers.GlobalAveragePooling1D()(y) if len(y.shape) == 3 else y
    y = layers.Concatenate()([y, layers.Dense(4, draw.activation())(beside)])
    inputs, x = [first.inputs, beside], (first.x, draw.normal(width))
    body = nets.Body(inputs, x, y)
    head = nets.head(draw, body)
    model = keras.Model(inputs, head.output)
    return compiled(draw, model, reduced(draw, head)), (x, head.y)


@right()
def several_outputs(draw):
    """Right since each loss has a denominator of its own, and is weighed after that."""
    body = draw.of(*nets.BODIES)(draw)
    names = "abc"[: draw.between(2, 3)]
    heads = {name: nets.head(draw, body, name) for name in names}
    model = keras.Model(body.inputs, {name: h.output for name, h in heads.items()})
    losses = {name: reduced(draw, head) for name, head in heads.items()}
    weigh = {name: draw.of(0.1, 1.0, 3.0) for name in names}
    model = compiled(
        draw, model, losses, loss_weights=weigh if draw.chance(0.6) else None
    )
    return model, (body.x, {name: head.y for name, head in heads.items()})


@right()
def sample_weights(draw):
    """Right since weights are in both sums, or the upper one alone, as Keras says."""
    net = nets.net(draw)
    steps = net.batch[1].ndim > 1 and len(net.model.output_shape) == 3
    weight = draw.weights(*net.batch[1].shape[1:2]) if steps else draw.weights()
    if draw.chance(0.2):
        weight[: draw.rows // 2] = 0  # a replica may have rows, and none that counts
    model = compiled(draw, net.model, reduced(draw, net.head))
    return model, (*net.batch, weight)


@right()
def sums(draw):
    """Right since a sum is divided by nothing: parts add up to the whole."""
    net = nets.net(draw)
    return compiled(draw, net.model, net.head.loss(reduction="sum")), net.batch


@right()
def mixed_precision(draw):
    """Right since sums run in float32; one infinite row skips the step everywhere."""
    keras.config.set_dtype_policy(draw.of("mixed_float16", "mixed_bfloat16"))
    return one_output(draw, [nets.dense, nets.images])


@right()
def scales_of_data(draw):
    """Right at any scale: a sum over rows in float32 has the range of its mean."""
    size = 10 ** draw.random.uniform(-5, 5)
    width, units = draw.between(2, 8), draw.between(1, 3)
    x = keras.Input([width])
    hidden = layers.Dense(draw.between(2, 8), draw.of("relu", "linear"))(x)
    model = keras.Model(x, layers.Dense(units)(hidden))
    batch = size * draw.normal(width), size * (draw.normal(units) + 1)
    loss = draw.of(keras.losses.MeanSquaredError, keras.losses.MeanAbsoluteError)()
    return compiled(draw, model, loss), tuple(b.astype("float32") for b in batch)


@right()
def zero_gradients(draw):
    """Right as every prepared model; what is zero stays zero, and None stays None.

    Some variables reach no loss, some are behind a unit that is off for all rows, and
    some rows have no gradient.
    """
    width = draw.between(2, 6)
    x = keras.Input([width])
    dead = layers.Dense(3, "relu", bias_initializer=keras.initializers.Constant(-99))
    unused = layers.Dense(2)
    unused.build([None, width])
    live = layers.Dense(draw.between(2, 8), "relu")(x)
    y = layers.Dense(1)(layers.Concatenate()([dead(x), live]))
    model = keras.Model(x, y)
    if draw.chance(0.5):
        model.unused = unused
    loss = draw.of(keras.losses.Hinge, keras.losses.SquaredHinge)()
    return compiled(draw, model, loss), (draw.normal(width), draw.integers(2, 1))


@right()
def frozen_parts(draw):
    """Right as every prepared model: what is not trained has no gradient to sum."""

    def between(draw, y):
        if not draw.chance(0.5):
            return y
        frozen = layers.BatchNormalization()
        frozen.trainable = False  # which also makes it use its moving statistics
        return frozen(y)

    net = nets.net(draw, nets.BODIES, Style(between))
    hidden = [layer for layer in net.model.layers[:-1] if layer.trainable_variables]
    for layer in hidden:
        layer.trainable = draw.chance(0.5)
    return compiled(draw, net.model, reduced(draw, net.head)), net.batch


class Tied(keras.Model):
    """Words in and out by one table."""

    def __init__(self, words, width):
        super().__init__()
        self.table = layers.Embedding(words, width)
        self.middle = layers.GRU(width, return_sequences=True)

    def call(self, x):
        """Logits for each word."""
        return self.middle(self.table(x)) @ ops.transpose(self.table.embeddings)


@right()
def tied_weights(draw):
    """Right since the slices and the dense gradient of one table are added up."""
    words, length = draw.between(4, 20), draw.between(3, 7)
    model = Tied(words, draw.between(2, 6))
    x = draw.integers(words, length)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    return compiled(draw, model, loss), (x, np.roll(x, -1, 1))


@right()
def microbatches(draw):
    """Right since sums and counts of all parts are added up before they are divided."""
    net = nets.net(draw)
    net.model.compile(optimizer(draw, **clip_settings(draw)), reduced(draw, net.head))
    return distloss.prepare(net.model, microbatches=draw.between(2, 4)), net.batch


def _wrapped(draw, bodies):
    net = nets.net(draw, bodies)
    inner = optimizer(draw, **clip_settings(draw) if draw.chance(0.5) else {})
    loss = distloss.DistributedLoss(reduced(draw, net.head))
    net.model.compile(distloss.DistributedOptimizer(inner), loss)
    return net.model, net.batch


@right()
def wrapped(draw):
    """Right as prepared models are: the same loss and optimizer, put in by hand.

    Of layers that can do without rows, which nobody gives them here.
    """
    return _wrapped(draw, [nets.dense, nets.categories])


@right("even", "uneven")
def wrapped_with_rows(draw):
    """Right as prepared models are; convolutions and the like want rows, however."""
    return _wrapped(draw, nets.BODIES)


@right("even", "uneven")
def accumulated(draw):
    """Right since sums and counts of all batches of an update are divided once."""
    net = nets.net(draw)
    loss = distloss.DistributedLoss(reduced(draw, net.head))
    chosen = distloss.DistributedOptimizer(
        optimizer(draw), accumulation_steps=draw.between(2, 3), loss=loss
    )
    net.model.compile(chosen, loss)
    return net.model, net.batch


@right("even")
def plain_keras(draw):
    """Right on even splits: Keras divides each mean by N, and the optimizer adds up.

    Without clipping, sparse slices, masks and weights, which plain Keras gets wrong.
    """
    net = nets.net(draw, nets.WITHOUT_SLICES)
    net.model.compile(optimizer(draw), net.head.loss())
    return net.model, net.batch
