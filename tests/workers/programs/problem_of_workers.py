"""One small problem for several workers: what they train on, and how."""

import json
import pathlib
import time
import traceback

import keras
import numpy as np
import tensorflow as tf

import distloss

ROWS, SIZE, TOKENS, EPOCHS = 27, 8, 3, 2
_rng = np.random.default_rng(5)
IDS = np.arange(ROWS)
X = _rng.normal(size=(ROWS, TOKENS, 3)).astype("float32")
X[_rng.random((ROWS, TOKENS)) < 0.25] = 0  # masked tokens
Y = _rng.normal(size=(ROWS, TOKENS, 1)).astype("float32")
WEIGHT = _rng.uniform(0.1, 5.0, (ROWS, 1)).astype("float32")

FILES = (15, 7, 5)  # rows
WEIGHTED = "mean_with_sample_weight"
LOSS = distloss.DistributedLoss("mse", reduction=WEIGHTED)
# rows of each batch that go to each of 3 workers: the last at times has none
DEALT = ((1, 5, 2), (4, 4, 0), (0, 2, 6), (2, 1, 0))


def optimizer_of(name):
    if name == "SGD":
        return keras.optimizers.SGD(0.1, momentum=0.9, global_clipnorm=0.3)
    return keras.optimizers.Adam(0.02)


def wrapped(name, **options):
    """What makes that optimizer, in the scope of a strategy."""
    return lambda: distloss.DistributedOptimizer(optimizer_of(name), **options)


def network():
    """A model that skips masked tokens, with a penalty on its weights."""
    penalty = keras.regularizers.L2(0.05)
    hidden = keras.layers.Dense(4, "tanh", kernel_regularizer=penalty)
    layers = [keras.layers.Masking(), hidden, keras.layers.Dense(1)]
    return keras.Sequential([keras.Input((TOKENS, 3)), *layers])


def compiled(optimizer, reduction=WEIGHTED):
    model = network()
    loss = keras.losses.MeanSquaredError(reduction=reduction)
    metrics = [keras.metrics.MeanAbsoluteError(name="mae")]
    model.compile(optimizer, loss, metrics=metrics)
    return model


class OwnStep(keras.Model):
    """A step of raw means and a masked, weighted Keras loss; a tracker of its own."""

    def __init__(self):
        super().__init__()
        self.net = network()
        self.weighted = keras.losses.MeanSquaredError(reduction=WEIGHTED)
        self.tracker = keras.metrics.Mean("tracked")
        self.built = True

    def train_step(self, data):
        x, y, weight = data
        with tf.GradientTape() as tape:
            y_pred = self.net(x, training=True)
            fourth = tf.reduce_mean(tf.square(y_pred - y) ** 2)
            loss = fourth + self.weighted(y, y_pred, weight) + sum(self.losses)
        weights = self.trainable_variables
        self.optimizer.apply(tape.gradient(loss, weights), weights)
        self.tracker.update_state(loss)
        return {"objective": self.tracker.result(), "fourth": fourth}


class TwoOptimizers(keras.Model):
    """A body and a head with an optimizer each, updated twice and once."""

    def __init__(self):
        super().__init__()
        self.body = keras.Sequential([keras.Input((3,)), keras.layers.Dense(4, "tanh")])
        self.head = keras.Sequential([keras.Input((4,)), keras.layers.Dense(1)])
        self.built = True

    def compile(self, optimizers):
        super().compile()
        self.optimizers = optimizers

    def train_step(self, data):
        x, y, _ = data
        for at, part in ((0, self.body), (1, self.head), (0, self.body)):
            with tf.GradientTape() as tape:
                error = self.head(self.body(x[:, 0])) - y[:, 0]
                loss = tf.reduce_mean(tf.abs(error) ** 3)
            weights = part.trainable_variables
            self.optimizers[at].apply(tape.gradient(loss, weights), weights)
        return {"cubic": loss}


def own_step():
    model = OwnStep()
    model.compile(optimizer_of("SGD"))
    return model


def two_optimizers():
    model = TwoOptimizers()
    model.compile([optimizer_of("SGD"), optimizer_of("SGD")])
    return model


OWN = {"own_step": own_step, "two_optimizers": two_optimizers}


def rows_of(ids):
    """The rows with these numbers, from constants in the graph."""
    return ids, *(tf.gather(array, ids) for array in (X, Y, WEIGHT))


def write_files(folder):
    """Files of unequal size that hold numbers of rows, one a line."""
    for index, ids in enumerate(np.split(IDS, np.cumsum(FILES)[:-1])):
        (folder / f"{index}.rows").write_text("".join(f"{i}\n" for i in ids))


def from_files(folder, policy):
    """Batches of the rows whose numbers are in the lines of files in `folder`."""
    lines = tf.data.TextLineDataset(
        [str(file) for file in sorted(folder.glob("*.rows"))]
    )
    return sharded(lines.map(lambda line: tf.strings.to_number(line, tf.int64)), policy)


def sharded(numbers, policy):
    """The rows with these numbers in batches, for TensorFlow to deal to workers."""
    options = tf.data.Options()
    options.experimental_distribute.auto_shard_policy = policy
    return numbers.batch(SIZE).map(rows_of).with_options(options)


def dealt(context):
    """What one of 3 workers holds of each batch, by `DEALT`."""
    parts = np.split(IDS, np.cumsum(np.ravel(DEALT))[:-1])
    mine = parts[context.input_pipeline_id :: len(DEALT[0])]
    dataset = tf.data.Dataset.from_generator(
        lambda: iter(mine), output_signature=tf.TensorSpec([None], tf.int64)
    )
    return dataset.map(rows_of)


def without_ids(_, *batch):
    return batch


def flat(variables):
    return [float(x) for v in variables for x in np.ravel(np.array(v))]


def step_of(strategy, model, optimizer, error, loss_of):
    """The update of one distributed batch, which returns its loss."""

    def replica_step(_, x, y, weight):
        with tf.GradientTape() as tape:
            y_pred = model(x, training=True)
            loss = loss_of(model, y, y_pred, weight)
        gradients = tape.gradient(loss, model.trainable_variables)
        pairs = zip(gradients, model.trainable_variables, strict=True)
        optimizer.apply_gradients(pairs)
        error.update_state(tf.abs(y_pred - y)[..., 0], weight)
        return loss

    @tf.function(reduce_retracing=True)
    def step(batch):
        losses = strategy.run(replica_step, batch)
        return strategy.reduce("SUM", losses, axis=None)

    return step


def trained_in_a_loop(strategy, batches, loss_of, optimizer):
    """Weights, the loss of each step, a mean, and this worker's rows of each step.

    Args:
      strategy: the workers.
      batches: distributed, of (ids, x, y, weight).
      loss_of: (model, y, y_pred, weight) -> what a replica differentiates.
      optimizer: () -> what updates.
    """
    with strategy.scope():
        model, error = network(), distloss.GlobalMean()
        optimizer = optimizer()
        optimizer.build(model.trainable_variables)
    start = flat(model.weights)
    step = step_of(strategy, model, optimizer, error, loss_of)
    rows, losses = [], []
    for _ in range(EPOCHS):
        for batch in batches:
            (mine,) = strategy.experimental_local_results(batch[0])
            rows.append(mine.numpy().tolist())
            losses.append(float(step(batch)))
    return {
        "start": start,
        "weights": flat(model.weights),
        "losses": losses,
        "mean": float(error.result()),
        "rows": rows,
        "iterations": int(optimizer.iterations.value.numpy()),
    }


def distributed_loss(model, y, y_pred, weight):
    penalty = distloss.regularization_share(model.losses)
    return LOSS(y, y_pred, weight) + penalty


def share_of_mean(model, y, y_pred, weight):
    penalty = distloss.regularization_share(model.losses)
    values = tf.reduce_mean((y_pred - y) ** 2, -1)
    weights = tf.cast(y_pred._keras_mask, tf.float32) * weight
    return distloss.mean_share(values, weights) + penalty


def mean_of_means(model, y, y_pred, weight):
    """What a worker makes of its own rows, by plain Keras: the negative control."""
    loss_fn = keras.losses.MeanSquaredError(reduction=WEIGHTED)
    loss = loss_fn(y, y_pred, weight) + tf.add_n(model.losses)
    return loss / tf.distribute.get_strategy().num_replicas_in_sync


def prepared(strategy, optimizer, **options):
    with strategy.scope():
        return distloss.prepare(compiled(optimizer_of(optimizer)), **options)


def fitted(model, batches, **options):
    """Weights before and after, and history."""
    start = flat(model.weights)
    history = model.fit(batches, epochs=EPOCHS, shuffle=False, verbose=0, **options)
    weights = flat(model.weights)
    return {"start": start, "weights": weights, "history": history.history}


def results_of(checks):
    """What each check returns, or how it failed, by its name."""
    results = {}
    for check in checks:
        print(f"{time.monotonic():.0f}: {check.__name__}", flush=True)
        try:
            results[check.__name__] = check()
        except Exception:
            traceback.print_exc()
            results[check.__name__] = {"failed": traceback.format_exc()}
    return results


def write(folder, worker, results, name="results"):
    path = pathlib.Path(folder) / f"{name}{worker}.json"
    path.with_suffix(".part").write_text(json.dumps(results))
    path.with_suffix(".part").rename(path)
