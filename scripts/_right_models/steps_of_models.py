"""Kinds of prepared models with a step of their own.

Their losses are means over rows. A mean over a replica's rows, weighed by how many of
all rows these are, adds up to the mean over all, and so do gradients: `prepare` weighs.
"""

import keras
import tensorflow as tf
from keras import layers, ops

import distloss
from _right_models import nets
from _right_models.draws import clip_settings, optimizer
from _right_models.table import right


def _hidden(draw, width, units, **arguments):
    return keras.Sequential(
        [
            keras.Input([width]),
            layers.Dense(draw.between(3, 8), draw.activation(), **arguments),
            layers.Dense(units),
        ]
    )


class Autoencoder(keras.Model):
    """Two means over rows and a regulariser."""

    def __init__(self, draw, width, latent):
        super().__init__()
        self.encoder = _hidden(draw, width, 2 * latent)
        self.decoder = _hidden(draw, latent, width, kernel_regularizer="l2")
        self.tracker = keras.metrics.Mean(name="loss")
        self.built = True

    def train_step(self, data):
        """One update."""
        x, noise = data
        with tf.GradientTape() as tape:
            mean, log_var = ops.split(self.encoder(x), 2, axis=-1)
            decoded = self.decoder(mean + ops.exp(0.5 * log_var) * noise)
            error = tf.reduce_mean(tf.reduce_sum(tf.square(decoded - x), axis=-1))
            apart = 1 + log_var - mean**2 - tf.exp(log_var)
            loss = error - 0.1 * tf.reduce_mean(apart) + sum(self.losses)
        gradients = tape.gradient(loss, self.trainable_weights)
        self.optimizer.apply(gradients, self.trainable_weights)
        self.tracker.update_state(loss)
        return {"loss": self.tracker.result()}


@right()
def own_autoencoder(draw):
    """Right since its loss is means over rows, and a penalty that is the same for all.

    Noise comes with the rows.
    """
    width, latent = draw.between(2, 7), draw.between(1, 3)
    model = Autoencoder(draw, width, latent)
    model.compile(optimizer(draw, **clip_settings(draw) if draw.chance(0.5) else {}))
    return distloss.prepare(model), (draw.normal(width), draw.normal(latent))


class Distiller(keras.Model):
    """Learns from a frozen teacher with losses of Keras."""

    def __init__(self, draw, width, classes):
        super().__init__()
        self.teacher = _hidden(draw, width, classes)
        self.student = _hidden(draw, width, classes)
        self.teacher.trainable = False
        self.hard = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        self.soft = keras.losses.KLDivergence()
        self.built = True

    def call(self, x):
        """What the student says."""
        return self.student(x)

    def train_step(self, data):
        """One update."""
        x, y = data
        told = ops.softmax(self.teacher(x))
        with tf.GradientTape() as tape:
            logits = self.student(x, training=True)
            loss = self.hard(y, logits) + self.soft(told, ops.softmax(logits))
        weights = self.student.trainable_weights
        self.optimizer.apply(tape.gradient(loss, weights), weights)
        return {"loss": loss}


@right()
def own_distiller(draw):
    """Right since Keras' losses are means over rows, and the teacher is not trained."""
    width, classes = draw.between(2, 7), draw.between(2, 5)
    model = Distiller(draw, width, classes)
    model.compile(optimizer(draw))
    return distloss.prepare(model), (draw.normal(width), draw.integers(classes))


class Adversaries(keras.Model):
    """Two networks with an optimizer each."""

    def __init__(self, draw, width, latent):
        super().__init__()
        self.critic = _hidden(draw, width, 1)
        self.generator = _hidden(draw, latent, width)
        self.pair = [optimizer(draw), optimizer(draw)]
        self.built = True

    def train_step(self, data):
        """An update of each."""
        real, noise = data
        with tf.GradientTape() as tape:
            fake = self.generator(noise)
            wrong = ops.mean(self.critic(fake)) - ops.mean(self.critic(real))
            critic_loss = wrong + 0.01 * ops.mean(self.critic(real) ** 2)
        weights = self.critic.trainable_weights
        self.pair[0].apply(tape.gradient(critic_loss, weights), weights)
        with tf.GradientTape() as tape:
            loss = -tf.reduce_mean(self.critic(self.generator(noise)))
        weights = self.generator.trainable_weights
        self.pair[1].apply(tape.gradient(loss, weights), weights)
        return {"critic": critic_loss, "loss": loss}


@right()
def own_adversaries(draw):
    """Right since both losses are means over rows, each with an optimizer that sums."""
    width, latent = draw.between(2, 6), draw.between(1, 4)
    model = Adversaries(draw, width, latent)
    model.compile(model.pair[1])
    return distloss.prepare(model), (draw.normal(width), draw.normal(latent))


class ComputesLoss(keras.Model):
    """Adds a mean over rows to what is compiled."""

    def __init__(self, inner):
        super().__init__()
        self.inner = inner
        self.built = True

    def call(self, x):
        """What the inner model says."""
        return self.inner(x)

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, **_others):
        """The compiled loss, and how large outputs are."""
        compiled = super().compute_loss(x, y, y_pred, sample_weight)
        return compiled + 0.1 * tf.reduce_mean(tf.square(y_pred))


@right()
def own_compute_loss(draw):
    """Right since what it adds is a mean over rows, as the compiled loss is."""
    net = nets.net(draw, [nets.dense])
    model = ComputesLoss(net.model)
    model.compile(optimizer(draw), net.head.loss())
    return distloss.prepare(model), net.batch
