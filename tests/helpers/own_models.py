"""Models with a train_step, losses or optimizers of their own, as people write them.

What is random comes with the rows, so that it follows them to whatever replica they go.
"""

import keras
import numpy as np
import tensorflow as tf
from keras import layers, ops
from quick import with_slots

ROWS, BATCH, FEATURES, LATENT, CLASSES = 29, 7, 6, 3, 4
# In batches of 7 on 3 replicas: 3, 3, 1, and at the end 1, 0, 0 rows.
RNG = np.random.default_rng(11)
X = RNG.normal(size=(ROWS, FEATURES)).astype("float32")
X[5] *= 2  # so that gradients of rows differ in size, too
NOISE = RNG.normal(size=(ROWS, LATENT)).astype("float32")
Y = RNG.integers(0, CLASSES, ROWS)
TARGET = RNG.normal(size=(ROWS, 2)).astype("float32")
WEIGHT = RNG.uniform(0.0, 5.0, ROWS).astype("float32")


def net(*sizes, activation="tanh", **last):
    *hidden, out = sizes
    return keras.Sequential(
        [layers.Dense(size, activation) for size in hidden]
        + [layers.Dense(out, **last)]
    )


class Autoencoder(keras.Model):
    """Sampling, two raw means, a regulariser added by hand, three trackers."""

    data = (X, NOISE)

    def __init__(self):
        super().__init__()
        self.encoder = net(5, 2 * LATENT)
        self.decoder = net(5, FEATURES, kernel_regularizer="l2")
        self.trackers = {
            name: keras.metrics.Mean(name=name) for name in ("loss", "mse", "kl")
        }
        self.encoder.build((None, FEATURES))
        self.decoder.build((None, LATENT))
        self.built = True

    @property
    def metrics(self):
        return list(self.trackers.values())

    def losses_of(self, x, noise):
        mean, log_var = ops.split(self.encoder(x), 2, axis=-1)
        z = mean + ops.exp(0.5 * log_var) * noise
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


class Adversarial(keras.Model):
    """Two optimizers, three critic steps with a gradient penalty, Wasserstein."""

    data = (X, NOISE)

    def __init__(self):
        super().__init__()
        self.critic = net(5, 1)
        self.generator = net(5, FEATURES)
        self.critic.build((None, FEATURES))
        self.generator.build((None, LATENT))
        self.built = True

    def compile(self, optimizers):
        super().compile()
        self.pair = optimizers

    def train_step(self, data):
        real, noise = data
        for _ in range(3):
            with tf.GradientTape() as tape:
                fake = self.generator(noise)
                penalty = self.penalty(real, fake)
                wrong = ops.mean(self.critic(fake)) - ops.mean(self.critic(real))
                critic_loss = wrong + 2.0 * penalty
            weights = self.critic.trainable_weights
            self.pair[0].apply(tape.gradient(critic_loss, weights), weights)
        with tf.GradientTape() as tape:
            loss = -tf.reduce_mean(self.critic(self.generator(noise)))
        weights = self.generator.trainable_weights
        gradients = tape.gradient(loss, weights)
        self.pair[1].apply_gradients(zip(gradients, weights, strict=True))
        return {"critic": critic_loss, "generator": loss}

    def penalty(self, real, fake):
        between = 0.3 * real + 0.7 * fake
        with tf.GradientTape() as tape:
            tape.watch(between)
            score = self.critic(between)
        gradient = tape.gradient(score, between)
        norm = tf.sqrt(tf.reduce_sum(gradient**2, axis=1) + 1e-6)
        return tf.reduce_mean((norm - 1.0) ** 2)


class Distiller(keras.Model):
    """A frozen teacher, Keras losses held as attributes, compiled metrics."""

    data = (X, Y)

    def __init__(self):
        super().__init__()
        self.teacher, self.student = net(9, CLASSES), net(4, CLASSES)
        for model in (self.teacher, self.student):
            model.build((None, FEATURES))
        self.teacher.trainable = False
        self.student_loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        self.others = {"distillation": keras.losses.KLDivergence()}
        self.built = True

    def compile(self, optimizer):
        super().compile(
            optimizer, metrics=[keras.metrics.SparseCategoricalAccuracy("accuracy")]
        )

    def call(self, x):
        return self.student(x)

    def train_step(self, data):
        x, y = data
        soft = ops.softmax(self.teacher(x, training=False) / 3.0)
        with tf.GradientTape() as tape:
            logits = self.student(x, training=True)
            own = self.student_loss(y, logits)
            other = self.others["distillation"](soft, ops.softmax(logits / 3.0))
            loss = 0.1 * own + 0.9 * other
        weights = self.student.trainable_variables
        self.optimizer.apply_gradients(
            zip(tape.gradient(loss, weights), weights, strict=True)
        )
        for metric in self.metrics:
            if metric.name == "loss":
                metric.update_state(loss)
            else:
                metric.update_state(y, logits)
        return {metric.name: metric.result() for metric in self.metrics}


class OwnLoss(keras.Model):
    """compute_loss alone: a raw mean besides what was compiled, and a tracker."""

    data = (X, TARGET, WEIGHT)

    def __init__(self):
        super().__init__()
        self.net = net(5, 2, kernel_regularizer="l2")
        self.net.build((None, FEATURES))
        self.absolute = keras.metrics.Mean("absolute")
        self.built = True

    def compile(self, optimizer):
        mse = keras.losses.MeanSquaredError(reduction="mean_with_sample_weight")
        super().compile(optimizer, mse, metrics=["mae"])

    def call(self, x):
        return self.net(x)

    def compute_loss(self, x, y, y_pred, sample_weight, training=True):
        loss = super().compute_loss(x, y, y_pred, sample_weight, training)
        absolute = ops.mean(ops.abs(y_pred))
        self.absolute.update_state(absolute)
        return loss + 0.3 * absolute


class Weighted(keras.Model):
    """The guide's step with sample weights, and a Keras loss made in the step."""

    data = (X, TARGET, WEIGHT)

    def __init__(self):
        super().__init__()
        self.net = net(5, 2)
        self.net.build((None, FEATURES))
        self.tracker = keras.metrics.Mean("loss")
        self.mae = keras.metrics.MeanAbsoluteError("mae")
        self.built = True

    @property
    def metrics(self):
        return [self.tracker, self.mae]

    def train_step(self, data):
        x, y, weight = data
        with tf.GradientTape() as tape:
            y_pred = self.net(x, training=True)
            loss = keras.losses.MeanSquaredError()(y, y_pred, sample_weight=weight)
            loss += keras.losses.Huber(reduction="sum")(y, y_pred) / 50.0
        gradients = tape.gradient(loss, self.trainable_variables)
        self.optimizer.apply(gradients, self.trainable_variables)
        self.tracker.update_state(loss)
        self.mae.update_state(y, y_pred, sample_weight=weight)
        return {m.name: m.result() for m in self.metrics}


class Siamese(keras.Model):
    """Triplets; rows are triplets."""

    data = (X, X[::-1].copy(), np.roll(X, 3, 0))

    def __init__(self):
        super().__init__()
        self.net = net(7, LATENT, use_bias=False)  # of which distances know nothing
        self.net.build((None, FEATURES))
        self.loss_tracker = keras.metrics.Mean(name="loss")
        self.built = True

    def train_step(self, data):
        with tf.GradientTape() as tape:
            anchor, positive, negative = (self.net(x) for x in data)
            near = ops.sum(ops.square(anchor - positive), -1)
            far = ops.sum(ops.square(anchor - negative), -1)
            loss = ops.mean(ops.maximum(near - far + 0.5, 0.0))
        gradients = tape.gradient(loss, self.net.trainable_weights)
        self.optimizer.apply_gradients(
            zip(gradients, self.net.trainable_weights, strict=True)
        )
        self.loss_tracker.update_state(loss)
        return {"loss": self.loss_tracker.result()}


class Diffusion(keras.Model):
    """Denoising, with a moving average of the network's weights."""

    data = (X, RNG.normal(size=X.shape).astype("float32"), RNG.uniform(size=(ROWS, 1)))

    def __init__(self):
        super().__init__()
        self.network = net(9, FEATURES)
        self.network.build((None, FEATURES + 1))
        self.ema_network = keras.models.clone_model(self.network)
        self.ema_network.build((None, FEATURES + 1))
        self.ema_network.set_weights(self.network.get_weights())
        self.noise_loss_tracker = keras.metrics.Mean(name="n_loss")
        self.built = True

    def compile(self, optimizer):
        super().compile(optimizer, loss=keras.losses.MeanAbsoluteError())

    @property
    def metrics(self):
        return [self.noise_loss_tracker]

    def train_step(self, data):
        images, noise, time = data
        time = tf.cast(time, tf.float32)
        noisy = ops.cos(time) * images + ops.sin(time) * noise
        with tf.GradientTape() as tape:
            predicted = self.network(ops.concatenate([noisy, time], -1), training=True)
            loss = self.loss(noise, predicted)
        weights = self.network.trainable_weights
        self.optimizer.apply_gradients(
            zip(tape.gradient(loss, weights), weights, strict=True)
        )
        self.noise_loss_tracker.update_state(loss)
        pairs = zip(self.network.weights, self.ema_network.weights, strict=True)
        for weight, average in pairs:
            average.assign(0.9 * average + 0.1 * weight)
        return {m.name: m.result() for m in self.metrics}


class Mixup(keras.Model):
    """Inputs and labels mixed with those that came with each row."""

    data = ((X, Y, np.roll(X, 1, 0), np.roll(Y, 1), RNG.uniform(size=ROWS)),)

    def __init__(self):
        super().__init__()
        self.net = net(7, CLASSES)
        self.net.build((None, FEATURES))
        self.built = True

    def compile(self, optimizer):
        loss = keras.losses.CategoricalCrossentropy(
            from_logits=True, label_smoothing=0.1
        )
        super().compile(optimizer, loss, metrics=["accuracy"])

    def call(self, x):
        return self.net(x)

    def train_step(self, data):
        ((x, y, other_x, other_y, part),) = data
        part = tf.cast(part, tf.float32)[:, tf.newaxis]
        y, other_y = (tf.one_hot(labels, CLASSES) for labels in (y, other_y))
        mixed_x, mixed_y = (
            part * a + (1 - part) * b for a, b in ((x, other_x), (y, other_y))
        )
        return super().train_step((mixed_x, mixed_y))


class Predictor(keras.Model):
    """Two views, a predictor, no gradient through the other side; persistent tape."""

    data = (X, X + 0.3 * RNG.normal(size=X.shape).astype("float32"))

    def __init__(self):
        super().__init__()
        self.encoder, self.predictor = net(8, LATENT), net(4, LATENT)
        self.encoder.build((None, FEATURES))
        self.predictor.build((None, LATENT))
        self.heads = [keras.optimizers.SGD(0.2, momentum=0.5)]
        self.built = True

    def train_step(self, data):
        with tf.GradientTape(persistent=True) as tape:
            z1, z2 = (self.encoder(x) for x in data)
            p1, p2 = self.predictor(z1), self.predictor(z2)
            loss = 0.5 * (self.distance(p1, z2) + self.distance(p2, z1))
        for optimizer, part in (
            (self.optimizer, self.encoder),
            (self.heads[0], self.predictor),
        ):
            gradients = tape.gradient(loss, part.trainable_variables)
            optimizer.apply_gradients(
                zip(gradients, part.trainable_variables, strict=True)
            )
        return {"objective": loss}

    def distance(self, p, z):
        p, z = (ops.normalize(v, axis=1) for v in (p, tf.stop_gradient(z)))
        return -ops.mean(ops.sum(p * z, axis=1))


class MeanTeacher(keras.Model):
    """A teacher that follows the student; some rows have no label."""

    data = (X, np.where(np.arange(ROWS) % 3 == 0, -1, Y))

    def __init__(self):
        super().__init__()
        self.student, self.teacher = net(6, CLASSES), net(6, CLASSES)
        for model in (self.student, self.teacher):
            model.build((None, FEATURES))
        self.teacher.set_weights(self.student.get_weights())
        self.teacher.trainable = False
        self.supervised = keras.losses.SparseCategoricalCrossentropy(
            from_logits=True, reduction="mean_with_sample_weight"
        )
        self.built = True

    def train_step(self, data):
        x, y = data
        known = tf.cast(y >= 0, tf.float32)
        wanted = ops.softmax(self.teacher(x))
        with tf.GradientTape() as tape:
            logits = self.student(x, training=True)
            labels = tf.maximum(y, 0)
            of_labels = self.supervised(labels, logits, sample_weight=known)
            alike = ops.mean((ops.softmax(logits) - wanted) ** 2)
            chosen = tf.boolean_mask(logits, y >= 0)
            few = keras.losses.MeanSquaredError()(tf.zeros_like(chosen), chosen)
            loss = of_labels + 2.0 * alike + 0.1 * few
        weights = self.student.trainable_variables
        gradients = tape.gradient(loss, weights)
        self.optimizer.apply_gradients(zip(gradients, weights, strict=True))
        pairs = zip(self.teacher.weights, self.student.weights, strict=True)
        for mine, other in pairs:
            mine.assign(0.8 * mine + 0.2 * other)
        return {"objective": loss, "of_labels": of_labels}


class ActorCritic(keras.Model):
    """Two heads, advantages, an entropy; a compiled loss for one of the two."""

    data = (X, Y, TARGET[:, :1])

    def __init__(self):
        super().__init__()
        self.body, self.actor, self.critic = net(7, 5), net(CLASSES), net(1)
        self.body.build((None, FEATURES))
        self.actor.build((None, 5))
        self.critic.build((None, 5))
        self.steps = {"all": keras.optimizers.SGD(0.1, nesterov=True, momentum=0.8)}
        self.of_values = keras.losses.Huber()
        self.built = True

    def train_step(self, data):
        x, action, value = data
        with tf.GradientTape() as tape:
            hidden = self.body(x)
            logits, guess = self.actor(hidden), self.critic(hidden)
            log = tf.nn.log_softmax(logits)
            taken = tf.gather(log, action, axis=1, batch_dims=1)
            gain = tf.stop_gradient(value - guess)[:, 0]
            entropy = -tf.reduce_mean(tf.reduce_sum(tf.exp(log) * log, -1))
            policy = -tf.reduce_mean(taken * gain)
            loss = policy + self.of_values(value, guess) - 0.05 * entropy
        weights = self.trainable_variables
        gradients = tape.gradient(loss, weights)
        self.steps["all"].apply_gradients(zip(gradients, weights, strict=True))
        return {"objective": loss, "entropy": entropy}


class Accumulates(keras.Model):
    """Two losses, whose gradients are added up by hand before one update."""

    data = (X, TARGET)

    def __init__(self):
        super().__init__()
        self.net = keras.Sequential(
            [layers.Dense(6, activity_regularizer="l2"), layers.Dense(2)]
        )
        self.net.build((None, FEATURES))
        self.built = True

    def train_step(self, data):
        x, y = data
        total = [0.0] * len(self.trainable_variables)
        for scale in (1.0, 0.5, 0.25):
            with tf.GradientTape() as tape:
                y_pred = self.net(scale * x)
                loss = ops.mean((y_pred - y) ** 2) + sum(self.losses)
            gradients = tape.gradient(loss, self.trainable_variables)
            total = [a + g / 3 for a, g in zip(total, gradients, strict=True)]
        self.optimizer.apply(total, self.trainable_variables)
        return {"objective": loss}


class Minimizes(keras.Model):
    """optimizer.minimize-like use, part of the weights, and an embedding."""

    data = (Y % 3, TARGET)

    def __init__(self):
        super().__init__()
        self.table = layers.Embedding(3, 5, embeddings_regularizer="l2")
        self.net = net(4, 2)
        self.table.build((None,))
        self.net.build((None, 5))
        self.built = True

    def call(self, x):
        return self.net(self.table(x))

    def train_step(self, data):
        words, y = data
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean((self(words) - y) ** 2) + tf.add_n(self.losses)
        weights = self.table.trainable_variables + self.net.layers[0].trainable_weights
        gradients = tape.gradient(loss, weights)
        self.optimizer.apply_gradients(zip(gradients, weights, strict=True))
        return {"objective": loss}


KINDS = (
    Autoencoder, Adversarial, Distiller, OwnLoss, Weighted, Siamese, Diffusion, Mixup,
    Predictor, MeanTeacher, ActorCritic, Accumulates, Minimizes,
)  # fmt: skip


class MeanOfRows(keras.Sequential):
    """The squared error, a mean of the rows that a replica has."""

    def train_step(self, data):
        x, y, _ = keras.utils.unpack_x_y_sample_weight(data)
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean((self(x, training=True) - y) ** 2)
        weights = self.trainable_variables
        self.optimizer.apply(tape.gradient(loss, weights), weights)
        return {"of_batch": loss}  # for Keras would show its own as "loss"


def sgd():
    return keras.optimizers.SGD(0.1)


def adam():
    return keras.optimizers.Adam(0.02, global_clipnorm=0.3)


def compiled(kind, optimizer=sgd):
    """A model of this kind, always the same, and its optimizers."""
    keras.utils.set_random_seed(5)
    model = kind()
    if kind is Adversarial:
        model.compile([optimizer(), optimizer()])
        with_slots(model.critic, model.pair[0])
        with_slots(model.generator, model.pair[1])
    else:
        model.compile(optimizer())
    return model


def dataset(kind, batch=BATCH):
    return tf.data.Dataset.from_tensor_slices(kind.data).batch(batch)


def trained(model, data=None):
    """Weights; each number that fit reports, by name."""
    data = dataset(type(model)) if data is None else data
    history = model.fit(data, epochs=2, shuffle=False, verbose=0).history
    return [np.array(w) for w in model.get_weights()], history
