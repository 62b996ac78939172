"""Loops that are written by hand, in pieces, and how they divide.

A `Recipe` is a step in pieces, each of them right by itself; a mutation replaces one.
"""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import tensorflow as tf

import distloss
from _right_models import nets
from _right_models.draws import optimizer, regularizer
from _right_models.nets import Style


def summed(value):
    """The sum over replicas, as loops ask for it."""
    return tf.distribute.get_replica_context().all_reduce("SUM", value)


def count():
    """N."""
    return tf.distribute.get_strategy().num_replicas_in_sync


def rows_of(values):
    """How many there are here, in float32."""
    return tf.cast(tf.shape(values)[0], tf.float32)


# -- shares of the mean: `values` of rows, or of rows and steps; `weights` or None


def mean_share(values, weights):
    """By distloss."""
    return distloss.mean_share(values, weights)


def by_all_reduced_weights(values, weights):
    """The local sum by what all replicas hold."""
    weights = tf.ones_like(values) if weights is None else weights
    total = summed(tf.reduce_sum(weights))
    return tf.math.divide_no_nan(tf.reduce_sum(values * weights), total)


def by_all_reduced_size(values, weights):
    """The local sum by the number of elements on all replicas."""
    values = values if weights is None else values * weights
    return tf.reduce_sum(values) / summed(tf.cast(tf.size(values), values.dtype))


def of_rows(values):
    """The mean of each row; all rows have as many steps."""
    return tf.reduce_mean(values, -1) if values.shape.rank > 1 else values


def average_loss(values, weights):
    """TensorFlow's own, told how many rows all replicas have."""
    values = of_rows(values if weights is None else values * weights)
    rows = summed(tf.shape(values)[0])
    return tf.nn.compute_average_loss(values, global_batch_size=rows)


def average_weighted_loss(values, weights):
    """The same with weights of rows; the sum is divided by rows, as it says."""
    values, rows = of_rows(values), summed(tf.shape(values)[0])
    if weights is None or weights.shape.rank > 1:
        return by_all_reduced_size(values, None)
    return tf.nn.compute_average_loss(values, weights, global_batch_size=rows)


def by_rows_of_all(values, weights):
    """The local mean, weighed by how many of all rows are here; of no rows, nothing."""
    values = of_rows(values if weights is None else values * weights)
    here = rows_of(values)
    mean = tf.math.divide_no_nan(tf.reduce_sum(values), here)
    return mean * here / summed(here)


def distributed_loss(values, weights):
    """A loss of distloss, which is called as one of Keras is."""
    loss = distloss.DistributedLoss(lambda _, y: y, reduction="mean_with_sample_weight")
    return loss(tf.zeros_like(values), values, weights)


SHARES = (
    mean_share,
    by_all_reduced_weights,
    by_all_reduced_size,
    average_loss,
    average_weighted_loss,
    by_rows_of_all,
    distributed_loss,
)


# -- shares of what is the same on all replicas


def scaled_by_tensorflow(losses):
    """By the function that TensorFlow has for it."""
    return tf.nn.scale_regularization_loss(tf.add_n(losses))


def divided_by_count(losses):
    """By hand."""
    return tf.add_n(losses) / count()


PENALTIES = (scaled_by_tensorflow, divided_by_count, distloss.regularization_share)


# -- what becomes of gradients before the optimizer adds them up


def untouched(gradients):
    """Nothing."""
    return gradients


def clipped_after_the_sum(norm):
    """Summed, clipped, and divided by N, for the optimizer sums once more."""

    def treat(gradients):
        whole = summed([tf.convert_to_tensor(g) for g in gradients])
        whole, _ = tf.clip_by_global_norm(whole, norm)
        return [g / count() for g in whole]

    return treat


def normalized_after_the_sum(gradients):
    """To length 1, of the sum."""
    whole = summed([tf.convert_to_tensor(g) for g in gradients])
    norm = tf.linalg.global_norm(whole) + 1e-12
    return [g / norm / count() for g in whole]


# -- the step


@dataclass(frozen=True)
class Recipe:
    """A step in pieces.

    Attributes:
      net: what is trained.
      share: of the loss of all, by the losses of rows and their weights.
      weighs: the batch to the weights of its losses, or None.
      penalty: share of what layers add.
      treat: gradients to those that the optimizer gets, which adds them up.
      optimizer: of Keras, or a wrapped one.
      parts: into which a step cuts its rows.
      finish: gradients of all parts to those of the step.
      show: `(share)` to what the step returns: shares add up to the mean.
      dataset: `(context, rows)` to a data set, or None.
    """

    net: nets.Net
    share: Callable[..., Any]
    optimizer: Any
    weighs: Callable[..., Any] = lambda _x, _y, weight=None: weight
    penalty: Callable[..., Any] | None = None
    treat: Callable[..., Any] = untouched
    parts: int = 1
    finish: Callable[..., Any] = lambda gradients: gradients
    show: Callable[..., Any] = lambda share: share
    dataset: Callable[..., Any] | None = None

    def but(self, **changes):
        """The same with other pieces."""
        return dataclasses.replace(self, **changes)

    def step(self):
        """What `build` returns."""
        kind = Accumulates if self.parts > 1 else Loop
        loop = kind(self)
        if self.dataset is not None:
            loop.dataset = lambda context: self.dataset(context, self.net.batch)
        return loop, self.net.batch


class Loop:
    """The body of a custom loop."""

    def __init__(self, recipe):
        self.recipe, self.model = recipe, recipe.net.model
        self.optimizer = recipe.optimizer
        self.optimizer.build(self.model.trainable_variables)

    @property
    def trainable_variables(self):
        """What is trained."""
        return self.model.trainable_variables

    def loss(self, batch):
        """The share of this replica."""
        x, y, *weight = batch
        output = self.model(x, training=True)
        # Read before anything is summed over replicas: it is another one's turn then,
        # and Keras has one list for all.
        added = self.model.losses if self.recipe.penalty else []
        values = self.recipe.net.head.values(y, output)
        loss = self.recipe.share(values, self.recipe.weighs(x, y, *weight))
        return loss + self.recipe.penalty(added) if added else loss

    def gradients(self, batch):
        """The share of this replica, and its gradients."""
        with tf.GradientTape() as tape:
            loss = self.loss(batch)
        return loss, tape.gradient(loss, self.trainable_variables)

    def train_step(self, batch):
        """One update; the optimizer adds up the gradients of all replicas."""
        loss, gradients = self.gradients(batch)
        gradients = self.recipe.treat(gradients)
        self.optimizer.apply(gradients, self.trainable_variables)
        return self.recipe.show(loss)


class Accumulates(Loop):
    """The same, of so many parts of the rows of a replica.

    Its `share` gets, in the place of weights, the rows of all replicas in a step.
    """

    def loss(self, batch):
        """The share of a part of the rows."""
        x, y = batch
        values = of_rows(self.recipe.net.head.values(y, self.model(x, training=True)))
        return self.recipe.share(values, self.rows_of_step)

    def train_step(self, batch):
        """One update of all parts."""
        rows, many = tf.shape(batch[1])[0], self.recipe.parts
        self.rows_of_step = summed(tf.cast(rows, tf.float32))
        whole = [tf.zeros_like(v) for v in self.trainable_variables]
        losses = []
        for i in range(many):
            first, last = i * rows // many, (i + 1) * rows // many
            part = tf.nest.map_structure(lambda a, s=slice(first, last): a[s], batch)
            loss, gradients = self.gradients(part)
            losses.append(loss)
            whole = [w + g for w, g in zip(whole, gradients, strict=True)]
        gradients = self.recipe.treat(self.recipe.finish(whole))
        self.optimizer.apply(gradients, self.trainable_variables)
        return self.recipe.show(tf.add_n(losses))


# -- drawn


def padded_words(x, _y, *_weight):
    """One for each word, zero for what is behind a text."""
    return tf.cast(x != 0, tf.float32)


def recipe(draw, share, bodies=(nets.dense, nets.categories), **changes):
    """A right step; of layers that can do without rows, unless bodies are given."""
    style = changes.pop("style", nets.PLAIN)
    net = changes.pop("net", None) or nets.net(draw, bodies, style)
    chosen = changes.pop("optimizer", None) or optimizer(draw, is_linear=net.slices)
    return Recipe(net, share, chosen, **changes)


def regularized(draw):
    """What layers get whose weights are held small."""
    return {"kernel_regularizer": regularizer(draw)}


REGULARIZED = Style(arguments=regularized)


def with_weights(draw, net):
    """The same network with weights of rows in its batch."""
    return dataclasses.replace(net, batch=(*net.batch, draw.weights()))
