"""What the entries share: rows, a small model, the body of a custom loop."""

import keras
import numpy as np
import tensorflow as tf

ROWS = 29  # prime: no number of replicas divides it
LEARNING_RATE = 0.1


def regression_rows():
    """`(x, y)`: all rows differ, later ones are larger, so no shard is like another.

    `x` is `[29, 3]`, `y` is `[29, 1]`, both float32.
    """
    random = np.random.default_rng(5)
    size = np.linspace(0.3, 1.5, ROWS)[:, np.newaxis]
    x = size * random.normal(size=[ROWS, 3])
    y = size * random.normal(size=[ROWS, 1]) + 2 * size
    return x.astype("float32"), y.astype("float32")


def weighted_rows():
    """`(x, y, sample_weight)`: the first rows weigh 10 and more, the others about 1."""
    random = np.random.default_rng(6)
    weight = random.uniform(0.5, 1.5, size=ROWS)
    weight[:7] += 10
    return *regression_rows(), weight.astype("float32")


def token_rows():
    """`(tokens, y)`: rows of 7 tokens, 0 is padding; long rows first, then short ones.

    `tokens` is int32 `[29, 7]`, `y` is float32 `[29, 7, 1]`.
    """
    random = np.random.default_rng(7)
    tokens = random.integers(1, 10, size=[ROWS, 7])
    lengths = np.linspace(7, 1, ROWS).round().astype(int)
    tokens[np.arange(7) >= lengths[:, np.newaxis]] = 0
    y = random.normal(size=[ROWS, 7, 1]) + np.linspace(0, 3, ROWS)[:, None, None]
    return tokens.astype("int32"), y.astype("float32")


def dense(units, activation=None, **arguments):
    """A layer with the same initial weights each time."""
    start = keras.initializers.GlorotUniform(seed=units)
    return keras.layers.Dense(units, activation, kernel_initializer=start, **arguments)


def small_model(**arguments):
    """From `x` to `y` of `regression_rows`. Arguments go to the first layer."""
    return keras.Sequential([keras.Input([3]), dense(4, "tanh", **arguments), dense(1)])


def token_model(**arguments):
    """From `tokens` to `y` of `token_rows`. Arguments go to the embedding."""
    start = keras.initializers.RandomUniform(seed=1)
    embedding = keras.layers.Embedding(10, 4, start, **arguments)
    return keras.Sequential([keras.Input([7], dtype="int32"), embedding, dense(1)])


def sgd(**arguments):
    """Plain SGD: the update shows the gradient as it is."""
    return keras.optimizers.SGD(LEARNING_RATE, **arguments)


def replica_count():
    """N, as user code asks for it."""
    return tf.distribute.get_strategy().num_replicas_in_sync


def row_losses(model, x, y):
    """The squared error of each row, `[rows]`."""
    return keras.losses.mean_squared_error(y, model(x, training=True))


class Loop:
    """The body of a custom loop: `loss_of(model, *batch)`, its gradient, one update."""

    def __init__(self, loss_of, model=None, optimizer=None):
        self.loss_of = loss_of
        self.model = model or small_model()
        self.optimizer = optimizer or sgd()
        if not self.optimizer.built:
            self.optimizer.build(self.model.trainable_variables)

    @property
    def trainable_variables(self):
        """What is trained."""
        return self.model.trainable_variables

    def gradients(self, batch):
        """The loss of this replica's part of the batch, and its gradients."""
        with tf.GradientTape() as tape:
            loss = self.loss_of(self.model, *batch)
        return loss, tape.gradient(loss, self.trainable_variables)

    def train_step(self, batch):
        """One update. Keras optimizers add the gradients of all replicas."""
        loss, gradients = self.gradients(batch)
        pairs = zip(gradients, self.trainable_variables, strict=True)
        self.optimizer.apply_gradients(pairs)
        return loss


class AccumulatingLoop(Loop):
    """Adds up the gradients of `parts` micro-batches, then makes one update.

    `loss_of` is called with the model, one part, and `of_step(batch)` if there is any.
    """

    def __init__(self, loss_of, parts, model=None, of_step=None):
        super().__init__(loss_of, model)
        self.parts, self.of_step = parts, of_step

    def train_step(self, batch):
        """One update. Keras optimizers add the gradients of all replicas."""
        extra = () if self.of_step is None else (self.of_step(batch),)
        parts = [self.gradients((*p, *extra)) for p in in_parts(batch, self.parts)]
        losses, gradients = zip(*parts, strict=True)
        sums = [tf.add_n(terms) for terms in zip(*map(_dense, gradients), strict=True)]
        self.optimizer.apply(self.reduced(sums), self.trainable_variables)
        return self.reported(losses)

    def reported(self, losses):
        """What is shown of the losses of the parts: here they are shares."""
        return tf.add_n(losses)

    def reduced(self, sums):
        """What the optimizer gets: here the sums themselves."""
        return sums


def _dense(gradients):
    return [tf.convert_to_tensor(gradient) for gradient in gradients]


def in_parts(batch, count):
    """This replica's part of the batch, cut into `count` parts of rows."""
    rows = tf.shape(batch[0])[0]
    for index in range(count):
        start, stop = index * rows // count, (index + 1) * rows // count
        yield tuple(values[start:stop] for values in batch)
