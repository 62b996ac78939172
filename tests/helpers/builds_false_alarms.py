"""Steps that look suspicious and are right, or wrong for another reason than it looks.

Each is a `build` of the audit. What is right here was once found wrong. DISTLOSS_SEED
draws other rows, another number of them, and other weights.
"""

import os
import random

import keras
import numpy as np
import tensorflow as tf
from keras import layers

import distloss

SEED = int(os.environ.get("DISTLOSS_SEED", "0"))
ROWS = 22 + SEED % 7


def rows():
    draws = np.random.default_rng(SEED)
    size = np.linspace(0.5, 2, ROWS)[:, np.newaxis]
    x = draws.normal(size=[ROWS, 3]) * size
    return x.astype("float32"), (x[:, :1] + size).astype("float32")


def dense(units, activation=None):
    start = keras.initializers.GlorotUniform(seed=units + 100 * SEED)
    return layers.Dense(units, activation, kernel_initializer=start)


def small(name="small"):
    return keras.Sequential([keras.Input([3]), dense(4, "tanh"), dense(1)], name=name)


def losses_of(model, x, y):
    return tf.reduce_sum((model(x, training=True) - y) ** 2, -1)


class Loop:
    """The body of a custom loop; `loss_of(model, x, y)` is a share of the batch."""

    def __init__(self, loss_of, model=None, optimizer=None):
        self.loss_of, self.model = loss_of, model or small()
        self.optimizer = optimizer or keras.optimizers.SGD(0.1)
        self.optimizer.build(self.model.trainable_variables)

    @property
    def trainable_variables(self):
        return self.model.trainable_variables

    def gradients(self, batch):
        with tf.GradientTape() as tape:
            loss = self.loss_of(self.model, *batch)
        return loss, tape.gradient(loss, self.trainable_variables)

    def train_step(self, batch):
        loss, gradients = self.gradients(batch)
        self.optimizer.apply(gradients, self.trainable_variables)
        return loss


def mean_loss(model, x, y):
    return distloss.mean_share(losses_of(model, x, y))


def sum_loss(model, x, y):
    return tf.reduce_sum(losses_of(model, x, y))


# -- clipping


MEANS = distloss.mean_share, distloss.mean_share


class TwoOptimizers:
    """Two models, an optimizer and a kind of mean each; the mean loss is shown."""

    def __init__(self, first, second, *means):
        self.models = small("a"), small("b")
        self.optimizers = first, second
        self.means = means
        for optimizer, model in zip(self.optimizers, self.models, strict=True):
            optimizer.build(model.trainable_variables)

    @property
    def trainable_variables(self):
        return [v for model in self.models for v in model.trainable_variables]

    def train_step(self, batch):
        x, y = batch
        losses = []
        each = zip(self.models, self.optimizers, self.means, strict=True)
        for model, optimizer, mean in each:
            with tf.GradientTape() as tape:
                loss = mean(losses_of(model, x, y + len(losses)))
            gradients = tape.gradient(loss, model.trainable_variables)
            optimizer.apply(gradients, model.trainable_variables)
            losses.append(loss)
        return tf.add_n(losses) / 2


def prepared_sgd(**settings):
    return distloss.DistributedOptimizer(keras.optimizers.SGD(0.1, **settings))


def one_of_two_optimizers_clips():
    first = prepared_sgd(global_clipnorm=0.1)
    return TwoOptimizers(first, prepared_sgd(), *MEANS), rows()


def two_optimizers_clip_each_its_way():
    first, second = prepared_sgd(global_clipnorm=0.1), prepared_sgd(clipvalue=0.05)
    return TwoOptimizers(first, second, *MEANS), rows()


def two_optimizers_clip_and_both_sum_means():
    """Wrong, N times too large; each clips the sum, and what it clips is its own."""
    first, second = prepared_sgd(global_clipnorm=0.1), prepared_sgd(clipvalue=0.05)
    return TwoOptimizers(first, second, tf.reduce_mean, tf.reduce_mean), rows()


class WithCopy(Loop):
    """Keeps a moving average of the network, which is in `trainable_variables`."""

    def __init__(self, loss_of, optimizer):
        super().__init__(loss_of, optimizer=optimizer)
        self.copy = small("copy")
        for variable in self.copy.trainable_variables:
            variable.assign(3.0 * variable + 1.0)

    @property
    def trainable_variables(self):
        return self.model.trainable_variables + self.copy.trainable_variables

    def train_step(self, batch):
        loss = super_step(self, batch)
        pairs = zip(
            self.copy.trainable_variables, self.model.trainable_variables, strict=True
        )
        for average, variable in pairs:
            average.assign(0.9 * average + 0.1 * variable)
        return loss


def super_step(loop, batch):
    with tf.GradientTape() as tape:
        loss = loop.loss_of(loop.model, *batch)
    gradients = tape.gradient(loss, loop.model.trainable_variables)
    loop.optimizer.apply(gradients, loop.model.trainable_variables)
    return loss


def average_of_weights_beside_clipping():
    return WithCopy(mean_loss, prepared_sgd(global_clipnorm=0.1)), rows()


def clipped_activations():
    """Each row is clipped by its own norm, before any gradient is taken."""

    def loss_of(model, x, y):
        return mean_loss(model, tf.clip_by_norm(x, 1.0, axes=[1]), y)

    return Loop(loss_of), rows()


# -- constants, weights


class Halving(keras.optimizers.schedules.LearningRateSchedule):
    """Divides by 1000 and by 30, neither of which is a number of rows."""

    def __call__(self, step):
        step = tf.cast(step, tf.float32)
        return 0.1 / (1 + step / 1000.0 + step / 30.0)

    def get_config(self):
        return {}


def half_of_a_sum():
    def loss_of(model, x, y):
        return sum_loss(model, x, y) / 2.0

    return Loop(loss_of, optimizer=keras.optimizers.SGD(0.001)), rows()


def sum_with_a_schedule():
    return Loop(sum_loss, optimizer=keras.optimizers.SGD(Halving())), rows()


def sum_of_scaled_inputs():
    """A column of the rows is divided by 30."""

    def loss_of(model, x, y):
        shift = tf.tanh(x[:, 0] / 30.0)
        return tf.reduce_sum(losses_of(model, x, y) * shift**2)

    return Loop(loss_of, optimizer=keras.optimizers.SGD(0.01)), rows()


def sum_of_counted_penalties():
    """The penalty on the weights is divided by 30, and counted N-th."""

    def loss_of(model, x, y):
        penalty = tf.add_n([tf.nn.l2_loss(v) for v in model.trainable_variables])
        penalty = distloss.regularization_share([penalty / 30.0])
        return sum_loss(model, x, y) + penalty

    return Loop(loss_of, optimizer=keras.optimizers.SGD(0.001)), rows()


def sum_of_many():
    """A thousandth of a sum: no number of rows that this batch may be short of."""

    def loss_of(model, x, y):
        return sum_loss(model, x, y) / 1000.0

    return Loop(loss_of), rows()


def _nominal(loss_of):
    return Loop(loss_of), rows()


def nominal_sum():
    return _nominal(lambda m, x, y: sum_loss(m, x, y) / 32)


def nominal_rows():
    return _nominal(lambda m, x, y: tf.reduce_sum(losses_of(m, x, y) / 32))


def nominal_argument():
    def loss_of(model, x, y):
        values = losses_of(model, x, y)
        return tf.nn.compute_average_loss(values, global_batch_size=128)

    return Loop(loss_of), rows()


def _weighed(weight):
    def loss_of(model, x, y):
        values = losses_of(model, x, y)
        return tf.nn.compute_average_loss(values, weight(x), global_batch_size=ROWS)

    return Loop(loss_of, optimizer=keras.optimizers.SGD(0.001)), rows()


def scalar_weight():
    return _weighed(lambda _: 5.0)


def width_as_weight():
    return _weighed(lambda x: tf.cast(tf.shape(x)[1], tf.float32))


def rows_as_weight():
    return _weighed(lambda _: float(ROWS))


# -- embeddings


class Positions(layers.Layer):
    """Adds to each token of each row what is learned for its position."""

    def __init__(self):
        super().__init__()
        start = keras.initializers.RandomUniform(seed=SEED)
        self.table = layers.Embedding(3, 1, start)

    def build(self, shape):
        self.table.build(None)

    def call(self, x):
        return x + self.table(keras.ops.arange(3))[None, :, 0]


def positions_model():
    return keras.Sequential([keras.Input([3]), Positions(), dense(4, "tanh"), dense(1)])


def token_rows():
    draws = np.random.default_rng(SEED + 9)
    ids = draws.integers(0, 5, [ROWS, 3]).astype("int32")
    ids[: ROWS // 2] = 1  # the first rows are alike, the others are not
    return ids, draws.normal(size=[ROWS, 1]).astype("float32") + 1


def token_model():
    start = keras.initializers.RandomUniform(seed=SEED)
    table = layers.Embedding(5, 2, start)
    flat = layers.Flatten()
    return keras.Sequential([keras.Input([3], dtype="int32"), table, flat, dense(1)])


class AddsUpSlices(Loop):
    """Adds up slices by index, after they are summed over replicas."""

    def train_step(self, batch):
        loss, gradients = self.gradients(batch)
        summed = distloss.StrategyReplicas().sum_gradients(gradients)
        count = distloss.StrategyReplicas().count()
        gradients = [added_up(gradient) for gradient in summed]
        if self.optimizer.global_clipnorm:
            gradients, _ = tf.clip_by_global_norm(gradients, 0.1)
        gradients = [per_replica(gradient, count) for gradient in gradients]
        self.optimizer.apply(gradients, self.trainable_variables)
        return loss


def added_up(gradient):
    if not isinstance(gradient, tf.IndexedSlices):
        return gradient
    indices, where = tf.unique(gradient.indices)
    values = tf.math.unsorted_segment_sum(gradient.values, where, tf.size(indices))
    return tf.IndexedSlices(values, indices, gradient.dense_shape)


def per_replica(gradient, count):
    """The whole on the first replica, nothing on others: Keras adds them up again."""
    context = tf.distribute.get_replica_context()
    first = tf.cast(context.replica_id_in_sync_group == 0, tf.int32)
    if not isinstance(gradient, tf.IndexedSlices):
        return gradient * tf.cast(first, gradient.dtype)
    rows = tf.shape(gradient.indices)[0] * first
    return tf.IndexedSlices(
        gradient.values[:rows], gradient.indices[:rows], gradient.dense_shape
    )


def tokens_added_up():
    loop = AddsUpSlices(mean_loss, token_model(), keras.optimizers.Adam(0.01))
    return loop, token_rows()


def positions_added_up():
    loop = AddsUpSlices(mean_loss, positions_model(), keras.optimizers.Adam(0.01))
    return loop, rows()


def tokens_with_sgd():
    loop = Loop(mean_loss, token_model(), keras.optimizers.SGD(0.1, momentum=0.9))
    return loop, token_rows()


def tokens_with_adam():
    loop = Loop(mean_loss, token_model(), keras.optimizers.Adam(0.01))
    return loop, token_rows()


def positions_with_adam():
    loop = Loop(mean_loss, positions_model(), keras.optimizers.Adam(0.01))
    return loop, rows()


def dense_tokens_with_adam():
    class Dense(Loop):
        def gradients(self, batch):
            loss, gradients = super().gradients(batch)
            return loss, [tf.convert_to_tensor(gradient) for gradient in gradients]

    loop = Dense(mean_loss, token_model(), keras.optimizers.Adam(0.01))
    return loop, token_rows()


class ClipsSummedTokens(Loop):
    """Clips after the sum, slices as they come."""

    clip = staticmethod(lambda gs: tf.clip_by_global_norm(gs, 0.1)[0])

    def train_step(self, batch):
        loss, gradients = self.gradients(batch)
        summed = distloss.StrategyReplicas().sum_gradients(gradients)
        count = distloss.StrategyReplicas().count()
        gradients = [per_replica(gradient, count) for gradient in self.clip(summed)]
        self.optimizer.apply(gradients, self.trainable_variables)
        return loss


def tokens_clipped_by_norm():
    return ClipsSummedTokens(mean_loss, token_model()), token_rows()


def positions_clipped_by_norm():
    return ClipsSummedTokens(mean_loss, positions_model()), rows()


def _clipping_optimizer(model, batch, **settings):
    optimizer = keras.optimizers.SGD(0.1, **settings)
    model.compile(optimizer, distloss.DistributedLoss("mse"))
    return model, batch


def tokens_clipped_before_the_sum():
    """Wrong: Keras clips on each replica, values of slices as if they were dense."""
    return _clipping_optimizer(token_model(), token_rows(), clipvalue=0.05)


def dense_clipped_before_the_sum():
    return _clipping_optimizer(small(), rows(), global_clipnorm=0.1)


# -- several gradients in one step


def two_means_shown():
    sgd = keras.optimizers.SGD
    return TwoOptimizers(sgd(0.1), sgd(0.1), *MEANS), rows()


def a_mean_beside_a_sum():
    """One model learns from a mean, the other from a sum."""
    first, second = keras.optimizers.SGD(0.1), keras.optimizers.SGD(0.001)
    both = TwoOptimizers(first, second, distloss.mean_share, tf.reduce_sum)
    return both, rows()


class TwoTasks(Loop):
    """Two losses of one model, a tape each; their mean is shown."""

    def train_step(self, batch):
        x, y = batch
        first, one = self.gradients((x, y))
        second, other = self.gradients((x, 3.0 - y))
        sums = [a + b for a, b in zip(one, other, strict=True)]
        self.optimizer.apply(sums, self.trainable_variables)
        return (first + second) / 2


def two_tasks_of_one_model():
    return TwoTasks(mean_loss), rows()


class SharpnessAware(Loop):
    """Steps uphill first, by the gradient of the whole batch or that of its rows."""

    def __init__(self, summed):
        super().__init__(mean_loss)
        self.summed = summed

    def train_step(self, batch):
        loss, uphill = self.gradients(batch)
        if self.summed:
            uphill = distloss.StrategyReplicas().sum_gradients(uphill)
        norm = tf.sqrt(tf.add_n([tf.reduce_sum(g * g) for g in uphill]) + 1e-12)
        steps = [0.5 * g / norm for g in uphill]
        x, y = batch
        weights = self.trainable_variables
        moved = [w + step for w, step in zip(weights, steps, strict=True)]
        with tf.GradientTape() as tape:
            tape.watch(moved)
            hidden = tf.tanh(x @ moved[0] + moved[1])
            value = tf.reduce_sum((hidden @ moved[2] + moved[3] - y) ** 2, -1)
            there = distloss.mean_share(value)
        self.optimizer.apply(tape.gradient(there, moved), weights)
        return loss


def sharpness_of_the_batch():
    return SharpnessAware(True), rows()


def sharpness_of_the_rows():
    return SharpnessAware(False), rows()


class ClipsByHand(Loop):
    """By its norm, in plain arithmetic, before or after the sum over replicas."""

    def __init__(self, summed):
        super().__init__(mean_loss)
        self.summed = summed

    def train_step(self, batch):
        loss, gradients = self.gradients(batch)
        replicas = distloss.StrategyReplicas()
        if self.summed:
            gradients = replicas.sum_gradients(gradients)
        norm = tf.sqrt(tf.add_n([tf.reduce_sum(g * g) for g in gradients]))
        factor = tf.minimum(1.0, 0.1 / norm) / (replicas.count() if self.summed else 1)
        gradients = [g * factor for g in gradients]
        self.optimizer.apply(gradients, self.trainable_variables)
        return loss


def clipped_by_hand_after_the_sum():
    return ClipsByHand(True), rows()


def clipped_by_hand_before_the_sum():
    return ClipsByHand(False), rows()


# -- chance


def _noisy(noise):
    """The loss of inputs with noise."""

    def loss_of(model, x, y):
        return mean_loss(model, x + noise(x), y)

    return Loop(loss_of), rows()


def number(drawn):
    return tf.cast(drawn, tf.float32)


def noise_of_operations():
    def noise(x):
        shape = tf.shape(x)
        return (
            tf.random.normal([])
            + tf.random.normal(shape)
            + tf.random.truncated_normal(shape)
            + number(tf.random.uniform(shape, 0, 5, tf.int32))
            + tf.random.gamma([shape[0]], [0.5, 1.0, 2.0])
            + tf.random.gamma([], 0.5 + tf.abs(x))
            + tf.random.poisson([], tf.abs(x))
            + number(tf.random.categorical(x, 3))
        )

    return _noisy(noise)


def noise_without_state():
    """Row i of each replica gets the same number, and another one on one device."""

    def noise(x):
        shape, seed = tf.shape(x), [1, 2]
        return (
            tf.random.stateless_normal(shape, seed)
            + tf.random.stateless_uniform(shape, seed)
            + tf.random.stateless_truncated_normal(shape, seed)
            + tf.random.stateless_parameterized_truncated_normal(shape, seed)
            + number(tf.random.stateless_uniform(shape, seed, 0, 5, tf.int32))
            + number(tf.random.stateless_binomial(shape, seed, 4.0, 0.3))
            + number(tf.random.stateless_poisson(shape, seed, [1.0, 2.0, 3.0]))
            + tf.random.stateless_gamma(shape, seed, 2.0)
            + number(tf.random.stateless_categorical(x, 3, seed))
            + tf.nn.experimental.stateless_dropout(x, 0.5, seed)
        )

    return _noisy(noise)


def noise_of_generators():
    seeded = tf.random.Generator.from_seed(3)
    unseeded = tf.random.Generator.from_non_deterministic_state()

    def noise(x):
        shape = tf.shape(x)
        return (
            seeded.normal(shape)
            + unseeded.uniform(shape)
            + seeded.truncated_normal(shape)
            + number(unseeded.uniform(shape, 0, 5, tf.int32))
            + number(seeded.binomial(shape, 4.0, 0.3))
            + number(seeded.uniform_full_int(shape, tf.int32)) / 2.0**31
        )

    return _noisy(noise)


def noise_of_keras():
    seeds = keras.random.SeedGenerator(1)

    def noise(x):
        shape = (tf.shape(x)[0], 3)
        return (
            number(keras.random.randint(shape, 0, 5, seed=seeds))
            + keras.random.gamma(shape, 2.0, seed=seeds)
            + keras.random.beta(shape, 2.0, 3.0, seed=seeds)
            + keras.random.binomial(shape, 4.0, 0.3, seed=seeds)
            + number(keras.random.categorical(x, 3, seed=seeds))
            + 0.3 * keras.random.shuffle(x, seed=seeds)
        )

    return _noisy(noise)


def mixed_rows():
    """Mixes each row with another one: a pinned draw mixes it with itself."""

    def noise(x):
        other = tf.random.experimental.stateless_shuffle(x, [1, 2])
        return 0.3 * tf.random.shuffle(x) + 0.2 * other

    return _noisy(noise)


def noise_while_traced():
    """Drawn while the step is traced, once for each replica."""

    def noise(_x):
        drawn = np.random.normal(size=[3]).astype("float32")
        return drawn + random.gauss(0, 1)

    return _noisy(noise)


def noise_of_numpy_in_the_step():
    def noise(x):
        drawn = tf.numpy_function(lambda: np.random.normal(size=3), [], tf.float64)
        return tf.ensure_shape(tf.cast(drawn, tf.float32), [3])

    return _noisy(noise)


def sampled_classes():
    """Negatives that an operation draws by itself, which nobody can pin."""

    class Sampled(Loop):
        def __init__(self):
            super().__init__(self.sampled)
            self.classes = tf.Variable(tf.ones([50, 1]) * 0.1)
            self.bias = tf.Variable(tf.zeros([50]))

        def sampled(self, model, x, _):
            labels = tf.cast(tf.abs(x[:, :1]) * 10, tf.int64)
            values = tf.nn.sampled_softmax_loss(
                self.classes, self.bias, labels, model(x), 5, 50
            )
            return distloss.mean_share(values)

    return Sampled(), rows()


def augmented_images():
    steps = [
        keras.Input([8, 8, 1]),
        layers.RandomFlip(seed=1),
        layers.RandomRotation(0.2, seed=2),
        layers.RandomTranslation(0.2, 0.2, seed=3),
        layers.RandomZoom(0.2, seed=4),
        layers.RandomContrast(0.2, seed=5),
        layers.RandomBrightness(0.2, seed=6),
    ]
    model = keras.Sequential([*steps, layers.Flatten(), dense(1)])
    model.compile("sgd", "mse")
    draws = np.random.default_rng(SEED + 4)
    x = draws.normal(size=[ROWS, 8, 8, 1]).astype("float32")
    y = x.sum((1, 2)) + np.linspace(0, 3, ROWS)[:, None]
    return distloss.prepare(model), (x, y.astype("float32"))


# -- constants that build draws

AT_IMPORT = np.random.normal(size=[3]).astype("float32")


def _projected(constant):
    return _noisy(lambda x: 0.1 * x * constant)


def drawn_without_seed():
    makers = np.random.default_rng(), np.random.RandomState()
    makers += (np.random.Generator(np.random.Philox()),)
    drawn = AT_IMPORT + sum(maker.normal(size=[3]) for maker in makers)
    return _projected(drawn.astype("float32"))


def drawn_by_python_without_seed():
    return _projected(np.float32(random.Random().gauss(0, 1)))


def drawn_by_the_system():
    """No seed can make it the same for each child."""
    return _projected(np.float32(random.SystemRandom().gauss(0, 1)))


# -- what layers add


class Adds(layers.Layer):
    """Passes on its input, and adds to the loss what `added` makes of it."""

    def __init__(self, added, name=None):
        super().__init__(name=name)
        self.added = added

    def call(self, inputs):
        self.add_loss(self.added(tf.reduce_sum(inputs**2, -1)))
        return inputs


def _adding(added, loss_of, **arguments):
    layers_of = [keras.Input([3]), dense(4, "tanh")]
    layers_of += [Adds(one, f"adds_{i}") for i, one in enumerate(added)]
    layers_of.append(layers.Dense(1, kernel_initializer="ones", **arguments))
    return Loop(loss_of, keras.Sequential(layers_of)), rows()


def data_and_share(model, x, y):
    return mean_loss(model, x, y) + distloss.regularization_share(model.losses)


def added_sum_is_shared():
    return _adding([tf.reduce_sum], data_and_share)


def added_mean_is_shared():
    return _adding([tf.reduce_mean], data_and_share)


def added_sum_and_mean_are_shared():
    return _adding([tf.reduce_mean, tf.reduce_sum], data_and_share)


def added_sum_beside_a_regularizer():
    return _adding([tf.reduce_sum], data_and_share, kernel_regularizer="l2")


def data_and_added(model, x, y):
    return mean_loss(model, x, y) + tf.add_n(model.losses)


def added_sum_is_added():
    return _adding([tf.reduce_sum], data_and_added)


def added_mean_is_not_shared():
    return _adding([tf.reduce_mean], data_and_added)


class AddsWeights(layers.Layer):
    """Adds a penalty on a weight of its own."""

    def build(self, _shape):
        self.scale = self.add_weight(shape=[4], initializer="ones")

    def call(self, inputs):
        self.add_loss(0.1 * tf.reduce_sum(self.scale**2))
        return inputs * self.scale


def _penalized(loss_of):
    layers_of = [keras.Input([3]), dense(4, "tanh"), AddsWeights(), dense(1)]
    return Loop(loss_of, keras.Sequential(layers_of)), rows()


def added_weights_are_shared():
    return _penalized(data_and_share)


def added_weights_are_not_shared():
    return _penalized(data_and_added)
