"""tf-keras models with a train_step, losses or optimizers of their own.

What is random comes with the rows, so that it follows them to whatever replica they go.
"""

import numpy as np
import tensorflow as tf
import tf_keras
from own_models import (
    BATCH,
    CLASSES,
    FEATURES,
    LATENT,
    NOISE,
    ROWS,
    TARGET,
    WEIGHT,
    X,
    Y,
)
from quick import with_slots
from tf_keras import layers, losses, metrics

RNG = np.random.default_rng(12)
STEPS = 4
WORDS = RNG.integers(1, 9, (ROWS, STEPS))
WORDS[np.arange(STEPS) >= RNG.integers(1, STEPS + 1, (ROWS, 1))] = 0
TAGS = RNG.integers(0, CLASSES, (ROWS, STEPS))


def net(features, *sizes, **last):
    *hidden, out = sizes
    made = tf_keras.Sequential(
        [layers.Dense(size, "tanh") for size in hidden] + [layers.Dense(out, **last)]
    )
    made.build((None, features))
    return made


class Autoencoder(tf_keras.Model):
    """Sampling, two raw means, a regulariser added by hand, trackers in a dict."""

    data = (X, NOISE)

    def __init__(self):
        super().__init__()
        self.encoder = net(FEATURES, 5, 2 * LATENT)
        self.decoder = net(LATENT, 5, FEATURES, kernel_regularizer="l2")
        self.trackers = {n: metrics.Mean(name=n) for n in ("loss", "mse", "kl")}

    @property
    def metrics(self):
        return list(self.trackers.values())

    def call(self, x):
        return self.decoder(self.encoder(x)[:, :LATENT])

    def losses_of(self, x, noise):
        mean, log_var = tf.split(self.encoder(x), 2, axis=-1)
        z = mean + tf.exp(0.5 * log_var) * noise
        mse = tf.reduce_mean(tf.square(self.decoder(z) - x))
        kl = -0.5 * tf.reduce_mean(
            tf.reduce_sum(1 + log_var - mean**2 - tf.exp(log_var), axis=1)
        )
        return mse, kl, mse + 0.1 * kl + sum(self.losses)

    def train_step(self, data):
        with tf.GradientTape() as tape:
            mse, kl, loss = self.losses_of(*data)
        gradients = tape.gradient(loss, self.trainable_weights)
        self.optimizer.apply_gradients(
            zip(gradients, self.trainable_weights, strict=True)
        )
        return self.tracked(loss=loss, mse=mse, kl=kl)

    def test_step(self, data):
        mse, kl, loss = self.losses_of(*data)
        return self.tracked(loss=loss, mse=mse, kl=kl)

    def tracked(self, **values):
        for name, value in values.items():
            self.trackers[name].update_state(value)
        return {name: tracker.result() for name, tracker in self.trackers.items()}


class Adversarial(tf_keras.Model):
    """Two optimizers, three critic steps with a gradient penalty, Wasserstein."""

    data = (X, NOISE)

    def __init__(self):
        super().__init__()
        self.critic = net(FEATURES, 5, 1)
        self.generator = net(LATENT, 5, FEATURES)

    def compile(self, make):
        super().compile()
        self.pair = [make(), {"generator": make()}]

    def train_step(self, data):
        real, noise = data
        for _ in range(3):
            with tf.GradientTape() as tape:
                fake = self.generator(noise)
                penalty = self.penalty(real, fake)
                wrong = tf.reduce_mean(self.critic(fake) - self.critic(real))
                critic_loss = wrong + 2.0 * penalty
            weights = self.critic.trainable_weights
            gradients = tape.gradient(critic_loss, weights)
            self.pair[0].apply_gradients(zip(gradients, weights, strict=True))
        with tf.GradientTape() as tape:
            loss = -tf.reduce_mean(self.critic(self.generator(noise)))
        weights = self.generator.trainable_weights
        self.pair[1]["generator"].minimize(loss, weights, tape=tape)
        return {"critic": critic_loss, "generator": loss}

    def penalty(self, real, fake):
        between = 0.3 * real + 0.7 * fake
        with tf.GradientTape() as tape:
            tape.watch(between)
            score = self.critic(between)
        gradient = tape.gradient(score, between)
        norm = tf.sqrt(tf.reduce_sum(gradient**2, axis=1) + 1e-6)
        return tf.reduce_mean((norm - 1.0) ** 2)


class Guide(tf_keras.Model):
    """The guide's step: what was compiled, one loss a sum; an activity regulariser."""

    data = (X, (TARGET, TARGET[:, :1] ** 2), WEIGHT)

    def __init__(self):
        super().__init__()
        self.body = layers.Dense(5, "tanh", activity_regularizer="l2")
        self.body.build((None, FEATURES))
        self.heads = [net(5, 2, kernel_regularizer="l2"), net(5, 1)]

    def call(self, x):
        hidden = self.body(x)
        return [head(hidden) for head in self.heads]

    def compile(self, make):
        few = losses.Huber(reduction="sum")
        super().compile(
            make(),
            ["mse", few],
            loss_weights=[1.0, 0.1],
            metrics=["mae"],
            weighted_metrics=["mse"],
        )

    def train_step(self, data):
        x, y, weight = data
        with tf.GradientTape() as tape:
            y_pred = self(x, training=True)
            loss = self.compiled_loss(
                y, y_pred, weight, regularization_losses=self.losses
            )
        self.optimizer.minimize(loss, self.trainable_variables, tape=tape)
        self.compiled_metrics.update_state(y, y_pred, weight)
        return {metric.name: metric.result() for metric in self.metrics}


class Weighted(tf_keras.Model):
    """Losses held as attributes, with weights, "sum", and one made in the step."""

    data = (X, TARGET, WEIGHT)

    def __init__(self):
        super().__init__()
        self.net = net(FEATURES, 5, 2)
        self.of_rows = losses.MeanSquaredError()
        self.others = {"sum": losses.Huber(reduction="sum")}
        self.tracker = metrics.Mean("loss")
        self.mae = metrics.MeanAbsoluteError("mae")

    def train_step(self, data):
        x, y, weight = data
        with tf.GradientTape() as tape:
            y_pred = self.net(x, training=True)
            loss = self.of_rows(y, y_pred, sample_weight=weight)
            loss += self.others["sum"](y, y_pred) / 50.0
            loss += losses.MeanAbsoluteError()(y, y_pred)
        gradients = tape.gradient(loss, self.trainable_variables)
        pairs = zip(gradients, self.trainable_variables, strict=True)
        self.optimizer.apply_gradients(pairs)
        self.tracker.update_state(loss)
        self.mae.update_state(y, y_pred, sample_weight=weight)
        return {m.name: m.result() for m in self.metrics}


class Tagger(tf_keras.Model):
    """Masked tokens, by a loss held as an attribute; rows chosen for another."""

    data = (WORDS, TAGS)

    def __init__(self):
        super().__init__()
        self.table = layers.Embedding(9, 5, mask_zero=True)
        self.table.build((None, STEPS))
        self.dense = layers.Dense(CLASSES)
        self.dense.build((None, STEPS, 5))
        self.entropy = losses.SparseCategoricalCrossentropy(from_logits=True)

    def train_step(self, data):
        words, tags = data
        with tf.GradientTape() as tape:
            logits = self.dense(self.table(words))
            of_tags = self.entropy(tags, logits)
            chosen = tf.boolean_mask(logits, tags == 1)
            few = losses.MeanSquaredError()(tf.zeros_like(chosen), chosen)
            loss = of_tags + 0.1 * few
        weights = self.trainable_variables
        gradients = [tf.convert_to_tensor(g) for g in tape.gradient(loss, weights)]
        self.optimizer.apply_gradients(zip(gradients, weights, strict=True))
        return {"objective": loss, "few": few}


class OwnLoss(tf_keras.Model):
    """compute_loss alone: a raw mean besides what was compiled, and a tracker."""

    data = (X, TARGET, WEIGHT)

    def __init__(self):
        super().__init__()
        self.net = net(FEATURES, 5, 2, kernel_regularizer="l2")
        self.absolute = metrics.Mean("absolute")

    def compile(self, make):
        super().compile(make(), "mse", metrics=["mae", root_of_mean])

    def call(self, x):
        return self.net(x)

    def compute_loss(self, x, y, y_pred, sample_weight):
        loss = super().compute_loss(x, y, y_pred, sample_weight)
        absolute = tf.reduce_mean(tf.abs(y_pred))
        self.absolute.update_state(absolute)
        return loss + 0.3 * absolute


def root_of_mean(y_true, y_pred):
    """A number for the batch; a mean of rows."""
    return tf.reduce_mean(tf.sqrt(tf.abs(y_true - y_pred)))


class MeanTeacher(tf_keras.Model):
    """A teacher that follows the student, and normalises."""

    data = (X, Y)

    def __init__(self):
        super().__init__()
        self.student, self.teacher = (net(FEATURES, 6, CLASSES) for _ in range(2))
        self.teacher.set_weights(self.student.get_weights())
        self.teacher.trainable = False
        self.entropy = losses.SparseCategoricalCrossentropy(from_logits=True)

    def train_step(self, data):
        x, y = data
        wanted = tf.nn.softmax(self.teacher(x))
        with tf.GradientTape(persistent=True) as tape:
            logits = self.student(x, training=True)
            of_labels = self.entropy(y, logits)
            alike = tf.reduce_mean((tf.nn.softmax(logits) - wanted) ** 2)
            loss = of_labels + 2.0 * alike
        weights = self.student.trainable_variables
        gradients = tape.gradient(loss, weights)
        self.optimizer.apply_gradients(zip(gradients, weights, strict=True))
        pairs = zip(self.teacher.weights, self.student.weights, strict=True)
        for mine, other in pairs:
            mine.assign(0.8 * mine + 0.2 * other)
        return {"objective": loss, "of_labels": of_labels}


KINDS = (Autoencoder, Adversarial, Guide, Weighted, Tagger, OwnLoss, MeanTeacher)


def sgd():
    return tf_keras.optimizers.SGD(0.1, momentum=0.5)


def adam():
    return tf_keras.optimizers.Adam(0.02, global_clipnorm=0.3)


def old_sgd():
    return tf_keras.optimizers.legacy.SGD(0.1, clipnorm=0.2)


def old_adam():
    return tf_keras.optimizers.legacy.Adam(0.02, clipvalue=0.05)


OWN_COMPILE = (Adversarial, Guide, OwnLoss)


def compiled(kind, optimizer=sgd, **options):
    """A model of this kind, always the same, and its optimizers."""
    tf_keras.utils.set_random_seed(5)
    model = kind()
    made = optimizer if issubclass(kind, OWN_COMPILE) else optimizer()
    model.compile(made, **options)
    if kind is Adversarial:
        with_slots(model.critic, model.pair[0])
        with_slots(model.generator, model.pair[1]["generator"])
    elif kind is not MeanTeacher:  # whose first step makes them
        with_slots(model)
    return model


def dataset(kind, batch=BATCH):
    return tf.data.Dataset.from_tensor_slices(kind.data).batch(batch)


def trained(model, data=None):
    """Weights; each number that fit reports, by name."""
    data = dataset(type(model)) if data is None else data
    history = model.fit(data, epochs=2, shuffle=False, verbose=0).history
    counts = {id(v) for metric in metrics_in(model) for v in metric.variables}
    weights = [v for v in model.variables if id(v) not in counts]
    return [v.numpy() for v in weights], history


def metrics_in(model):
    """Whose variables tf-keras counts among those of the model."""
    return [metric for layer in model._flatten_layers() for metric in layer._metrics]
