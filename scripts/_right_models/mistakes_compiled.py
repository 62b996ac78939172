"""Mutations of compiled models."""

import functools

import keras
import tensorflow as tf
from keras import layers

import distloss
from _right_models import nets
from _right_models.by_hand import count, of_rows
from _right_models.draws import clip_settings, optimizer
from _right_models.mistakes import NONE, SHOWN
from _right_models.mutants import plants
from _right_models.nets import Style


def _compiled(draw, planted, wrong, **settings):
    """A prepared model, or a plain one with what `wrong` makes of its losses."""
    net = nets.net(draw, [nets.dense])
    loss = net.head.loss() if not planted else wrong(net.head)
    net.model.compile(optimizer(draw, **settings), loss)
    return net.model if planted else distloss.prepare(net.model), net.batch


@plants("sum-of-means", beside=(NONE, SHOWN))
def scalar_loss(draw, planted):
    """Has a loss function that returns a mean, which Keras does not divide."""

    def wrong(head):
        return lambda y, output: tf.reduce_mean(head.values(y, output))

    return _compiled(draw, planted, wrong)


@plants("divided-twice", beside=(NONE, SHOWN))
def keras_divides_too(draw, planted):
    """Divides losses of rows by N, as Keras does."""

    def wrong(head):
        return lambda y, output: of_rows(head.values(y, output)) / count()

    return _compiled(draw, planted, wrong)


@plants("mean-of-means", beside=(NONE, SHOWN))
def not_prepared(draw, planted):
    """Is plain Keras, which divides by the rows of a replica."""
    return _compiled(draw, planted, lambda head: head.loss())


@plants("mean-of-means", beside=(NONE, SHOWN))
def weights_not_prepared(draw, planted):
    """Is plain Keras, which divides by the weights of a replica."""
    net = nets.net(draw, [nets.dense])
    loss = net.head.loss(reduction="mean_with_sample_weight")
    net.model.compile(optimizer(draw), loss)
    model = net.model if planted else distloss.prepare(net.model)
    return model, (*net.batch, draw.weights())


@plants("clip-before-sum")
def compiled_with_clipping(draw, planted):
    """Has a loss that is right, and an optimizer that clips before it adds up."""
    net = nets.net(draw, [nets.dense])
    chosen = optimizer(draw, **clip_settings(draw))
    chosen = chosen if planted else distloss.DistributedOptimizer(chosen)
    net.model.compile(chosen, distloss.DistributedLoss(net.head.loss()))
    return net.model, net.batch


@plants("batch-statistics", beside=(SHOWN,))
def unsynchronised_statistics(draw, planted):
    """Normalises by the rows of a replica."""

    def between(draw, y):
        return layers.BatchNormalization(synchronized=not planted, epsilon=1e-2)(y)

    net = nets.net(draw, [nets.dense], Style(between))
    net.model.compile(optimizer(draw), net.head.loss())
    return distloss.prepare(net.model), net.batch


@plants("overflow-not-agreed", shows="infinite")
def overflow_on_one(draw, planted):
    """Looks for infinite gradients before they are added up."""
    net = nets.net(draw, [nets.dense])
    scaled = functools.partial(keras.optimizers.LossScaleOptimizer, initial_scale=64.0)
    chosen = scaled(optimizer(draw))
    chosen = chosen if planted else distloss.DistributedOptimizer(chosen)
    net.model.compile(chosen, distloss.DistributedLoss(net.head.loss()))
    return net.model, net.batch
