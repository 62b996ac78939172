"""One small problem, whole for one process and dealt unevenly to Horovod's."""

import keras
import numpy as np
import tensorflow as tf

ROWS, SIZE, EPOCHS = 29, 8, 2
_rng = np.random.default_rng(5)
X = _rng.normal(size=(ROWS, 3)).astype("float32")
IDS = _rng.integers(0, 6, size=(ROWS, 4)).astype("int32")
Y = _rng.normal(size=(ROWS, 1)).astype("float32")
WEIGHT = _rng.uniform(0.1, 5.0, size=ROWS).astype("float32")

MEAN, WEIGHTED = "sum_over_batch_size", "mean_with_sample_weight"
OPTIMIZERS = {
    "SGD": lambda: keras.optimizers.SGD(0.1, global_clipnorm=0.3),
    "Adam": lambda: keras.optimizers.Adam(0.01),
}


def dealt(rank, size=SIZE):
    """The rows of each batch that `rank` of 3 holds: half, the rest, at times none."""
    for number, start in enumerate(range(0, ROWS, size)):
        stop = min(start + size, ROWS)
        half = start + (stop - start) // 2
        third = half + 1 if number % 2 else stop
        edges = (start, half, third, stop)
        yield slice(edges[rank], edges[rank + 1])


def whole(size=SIZE):
    for start in range(0, ROWS, size):
        yield slice(start, min(start + size, ROWS))


def elastic_batch(step):
    """The rows of a step of the elastic job, whoever takes them."""
    return np.arange(ROWS)[step % 4 :: 2]


def batches(spans, arrays=(X, Y, WEIGHT)):
    """A data set of the rows of each span."""
    spans = list(spans)
    signature = tuple(tf.TensorSpec([None, *a.shape[1:]], a.dtype) for a in arrays)

    def generator():
        for span in spans:
            yield tuple(array[span] for array in arrays)

    dataset = tf.data.Dataset.from_generator(generator, output_signature=signature)
    return dataset.apply(tf.data.experimental.assert_cardinality(len(spans)))


def dense(optimizer, loss, **options):
    keras.utils.set_random_seed(1)
    hidden = keras.layers.Dense(4, "tanh", name="hidden")
    # named, for Horovod's own tape takes the names of its collectives from them
    outer = keras.layers.Dense(1, name="outer")
    model = keras.Sequential([keras.Input((3,)), hidden, outer], name="dense")
    model.compile(optimizer, loss, **options)
    return model


def dense_of_tf_keras(optimizer, loss):
    import tf_keras

    tf_keras.utils.set_random_seed(1)
    hidden = tf_keras.layers.Dense(4, "tanh", input_shape=(3,))
    model = tf_keras.Sequential([hidden, tf_keras.layers.Dense(1)])
    model.compile(optimizer, loss, weighted_metrics=["mae"])
    return model


def adam_of_tf_keras():
    import tf_keras

    return tf_keras.optimizers.Adam(0.01, global_clipnorm=0.3)


def embedding(optimizer, loss):
    keras.utils.set_random_seed(1)
    words = keras.layers.Embedding(6, 3)
    pooled = keras.layers.GlobalAveragePooling1D()
    inner = keras.Input((4,), dtype="int32")
    model = keras.Model(inner, keras.layers.Dense(1)(pooled(words(inner))))
    model.compile(optimizer, loss)
    return model


class MeanActivity(keras.layers.Layer):
    """Adds a loss that is a mean over rows."""

    def call(self, x):
        self.add_loss(0.3 * tf.reduce_mean(tf.reduce_sum(x**2, -1)))
        return x


def two_outputs(optimizer, losses):
    keras.utils.set_random_seed(1)
    inner = keras.Input((3,))
    regularizer = keras.regularizers.L2(0.05)
    hidden = keras.layers.Dense(4, "tanh", kernel_regularizer=regularizer)(inner)
    hidden = MeanActivity()(hidden)
    outputs = [keras.layers.Dense(1, name=name)(hidden) for name in ("a", "b")]
    model = keras.Model(inner, outputs)
    metrics = [["mae"], ["mae"]]
    weights = [1.0, 0.5]
    model.compile(optimizer, losses, loss_weights=weights, weighted_metrics=metrics)
    return model


class OwnMeans(keras.Model):
    """A step of raw means, a weighted Keras loss, a regulariser, a tracker."""

    def __init__(self):
        super().__init__()
        keras.utils.set_random_seed(1)
        self.net = keras.Sequential(
            [
                keras.Input((3,)),
                keras.layers.Dense(4, "tanh", kernel_regularizer="l2"),
                keras.layers.Dense(1),
            ]
        )
        self.tracker = keras.metrics.Mean("tracked")
        self.weighted = keras.losses.MeanSquaredError(reduction=WEIGHTED)
        self.built = True

    def call(self, x):
        return self.net(x)

    def train_step(self, data):
        x, y, weight = data
        with tf.GradientTape() as tape:
            y_pred = self.net(x, training=True)
            fourth = tf.reduce_mean((y_pred - y) ** 4)
            loss = fourth + self.weighted(y, y_pred, weight) + sum(self.losses)
        weights = self.trainable_variables
        self.optimizer.apply(tape.gradient(loss, weights), weights)
        self.tracker.update_state(loss)
        return {"objective": self.tracker.result(), "fourth": fourth}


class TwoOptimizers(keras.Model):
    """A critic and a generator, each with an optimizer, the critic two steps."""

    def __init__(self):
        super().__init__()
        keras.utils.set_random_seed(1)
        self.critic, self.generator = (
            keras.Sequential(
                [
                    keras.Input((3,)),
                    keras.layers.Dense(4, "tanh"),
                    keras.layers.Dense(n),
                ]
            )
            for n in (1, 3)
        )
        self.built = True

    def compile(self, optimizers):
        super().compile()
        self.optimizers = dict(zip(("critic", "generator"), optimizers, strict=True))

    def train_step(self, data):
        x, _, weight = data
        noise = x * weight[:, tf.newaxis] / 3.0
        for name in ("critic", "critic", "generator"):
            model = getattr(self, name)
            with tf.GradientTape() as tape:
                real, made = self.critic(x), self.critic(self.generator(noise))
                loss = tf.reduce_mean(made) - tf.reduce_mean(tf.tanh(real))
                loss = loss if name == "critic" else -tf.reduce_mean(made)
            weights = model.trainable_variables
            self.optimizers[name].apply(tape.gradient(loss, weights), weights)
        return {"generator": loss}


def own_means():
    model = OwnMeans()
    model.compile(OPTIMIZERS["SGD"]())
    return model


def two_optimizers():
    model = TwoOptimizers()
    model.compile([OPTIMIZERS["SGD"](), OPTIMIZERS["SGD"]()])
    return model


OWN = {"own_means": own_means, "two_optimizers": two_optimizers}


def two_targets(spans):
    dataset = batches(spans)
    return dataset.map(lambda x, y, w: (x, (y, 2 * y + 1), (w, w**2)))


def flat(variables):
    return [float(x) for v in variables for x in np.ravel(np.array(v))]


def fitted(model, dataset, **options):
    """Weights and history after `EPOCHS`."""
    history = model.fit(dataset, epochs=EPOCHS, shuffle=False, verbose=0, **options)
    return {"weights": flat(model.weights), "history": history.history}
