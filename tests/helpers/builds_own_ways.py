"""Steps in ways of their own: functions of means, gradients of several tasks.

Each is a `build` of the audit.
"""

import builds_false_alarms as plain
import keras
import tensorflow as tf
from builds_false_alarms import dense, losses_of, rows
from keras import layers

import distloss


def count():
    return tf.distribute.get_strategy().num_replicas_in_sync


def summed(values):
    return tf.distribute.get_replica_context().all_reduce("SUM", values)


# -- a function of the mean of a batch


def function_of_mean(function):
    def loss_of(model, x, y):
        values = losses_of(model, x, y)
        size = tf.cast(tf.size(values), tf.float32)
        mean = tf.math.divide_no_nan(tf.reduce_sum(values), size)
        return function(mean + 1e-9) / count()

    return plain.Loop(loss_of), rows()


def root_of_each_mean():
    return function_of_mean(tf.sqrt)


def logarithm_of_each_mean():
    return function_of_mean(tf.math.log)


def exponential_of_each_mean():
    return function_of_mean(lambda mean: tf.exp(0.1 * mean))


class RootOfAll(plain.Loop):
    """Takes the gradient of the mean, and divides it by twice the root of it."""

    def gradients(self, batch):
        mean, gradients = super().gradients(batch)
        root = tf.sqrt(summed(mean))
        return root / count(), [g / (2 * root) for g in gradients]


def root_of_the_mean():
    return RootOfAll(plain.mean_loss), rows()


# -- gradients of two tasks that do not undo each other


class Projected(plain.Loop):
    """Takes from each gradient what is against the other one."""

    def __init__(self, early):
        super().__init__(None)
        self.early = early

    def train_step(self, batch):
        x, y = batch
        variables = self.trainable_variables
        with tf.GradientTape(persistent=True) as tape:
            output = self.model(x)[:, 0]
            first = distloss.mean_share((output - y[:, 0]) ** 2)
            second = distloss.mean_share(tf.abs(output + y[:, 0]))
        pair = [tape.gradient(loss, variables) for loss in (first, second)]
        pair = pair if self.early else [summed(one) for one in pair]
        gradients = [a + b for a, b in zip(*map(list, projected(*pair)), strict=True)]
        if not self.early:
            gradients = [g / count() for g in gradients]
        self.optimizer.apply(gradients, variables)
        return first + second


def dot(one, other):
    return tf.add_n([tf.reduce_sum(a * b) for a, b in zip(one, other, strict=True)])


def projected(one, other):
    against = tf.minimum(dot(one, other), 0.0)
    of_one = against / (dot(one, one) + 1e-12)
    of_other = against / (dot(other, other) + 1e-12)
    pairs = list(zip(one, other, strict=True))
    return [a - of_other * b for a, b in pairs], [b - of_one * a for a, b in pairs]


def projected_by_each():
    return Projected(early=True), rows()


def projected_after_the_sum():
    return Projected(early=False), rows()


# -- a body without a gradient, before what has a gradient of its own


def rounded(*after):
    before = layers.Lambda(lambda t: tf.round(8 * t) / 8)
    model = keras.Sequential([keras.Input([3]), dense(4, "tanh"), before, *after])
    model.add(dense(1))
    return plain.Loop(plain.mean_loss, model), rows()


def rounded_before_a_normalization():
    return rounded(layers.LayerNormalization())


def rounded_before_an_activation():
    return rounded(dense(4, "silu"))


def rounded_after_an_activation():
    before = [dense(4, "silu"), layers.Lambda(lambda t: tf.round(8 * t) / 8)]
    model = keras.Sequential([keras.Input([3]), *before, dense(1)])
    return plain.Loop(plain.mean_loss, model), rows()


def counted_mean(model, x, y):
    """Its denominator is a sum over replicas, which has a gradient of its own."""
    values = losses_of(model, x, y)
    return tf.reduce_sum(values) / summed(tf.cast(tf.size(values), tf.float32))


def rounded_before_a_counted_mean():
    loop, batch = rounded(dense(4, "silu"))
    loop.loss_of = counted_mean
    return loop, batch


def stopped_before_a_normalization():
    stop = layers.Lambda(tf.stop_gradient)
    after = [stop, layers.LayerNormalization(), dense(1)]
    model = keras.Sequential([keras.Input([3]), dense(4, "silu"), *after])
    return plain.Loop(plain.mean_loss, model), rows()


def stopped_before_a_counted_mean():
    loop, batch = stopped_before_a_normalization()
    loop.loss_of = counted_mean
    return loop, batch


def teacher_tells_and_masks():
    """Its targets are stopped, and which of them count has no gradient."""
    student, teacher = plain.small("student"), plain.small("teacher")

    def loss_of(_, x, y):
        told = teacher(x)
        counts = tf.cast(told > 0.0, tf.float32)
        values = losses_of(student, x, y)
        values += tf.reduce_sum(counts * (student(x) - tf.stop_gradient(told)) ** 2, -1)
        return distloss.mean_share(values)

    both = keras.Sequential([keras.Input([3]), student])
    both.teacher = teacher
    return plain.Loop(loss_of, both), rows()
