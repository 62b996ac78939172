"""DistributedLoss in Keras' own loops: one device and any strategy agree."""

import functools

import keras
import numpy as np
import pytest
import tensorflow as tf
from cases import KERAS, REDUCTIONS, comparable, of_this_keras, since_keras
from conftest import strategy_of

import distloss
from distloss import DistributedLoss

ROWS, BATCH, FEATURES, CLASSES = 29, 12, 4, 3  # batches of 12, 12 and 5: an empty shard
RNG = np.random.default_rng(11)
X = RNG.normal(size=(ROWS, FEATURES)).astype("float32")
LABELS = RNG.integers(0, CLASSES, ROWS)
VALUES = RNG.normal(size=(ROWS, 2)).astype("float32")
WEIGHT = RNG.uniform(0, 5, ROWS).astype("float32")
WEIGHT[[3, 14]] = 0
L2 = keras.regularizers.L2(0.1)

ONE = {
    "none": ("none",),
    "one device": ("one_device",),
}
SEVERAL = {
    "mirrored 2": ("mirrored", 2),
    "mirrored 3": ("mirrored", 3),
    "mirrored 4": ("mirrored", 4),
    "collective 4": ("collective",),
}
STRATEGIES = ONE | SEVERAL if KERAS >= (3, 5) else ONE


def sequential():
    inputs = keras.Input((FEATURES,))
    hidden = keras.layers.Dense(5, "tanh", kernel_regularizer=L2)
    return keras.Sequential([inputs, hidden, keras.layers.Dense(CLASSES, "softmax")])


def functional():
    inputs = keras.Input((FEATURES,))
    hidden = keras.layers.Dense(5, "tanh", kernel_regularizer=L2)(inputs)
    outputs = keras.layers.Dense(CLASSES, "softmax")(hidden)
    return keras.Model(inputs, outputs)


@keras.saving.register_keras_serializable("test")
def squares(_, hidden):
    return tf.square(hidden)


class Subclassed(keras.Model):
    """Built when it is first called; adds a sum over the rows of the batch."""

    def __init__(self):
        super().__init__()
        self.hidden = keras.layers.Dense(5, "tanh", kernel_regularizer=L2)
        self.classes = keras.layers.Dense(CLASSES, "softmax")

    def call(self, x):
        hidden = self.hidden(x)
        self.add_loss(0.01 * self.squares_of(hidden))
        return self.classes(hidden)

    def squares_of(self, hidden):
        return tf.reduce_sum(tf.square(hidden))


class SubclassedForReplicas(Subclassed):
    """A collective in the middle of the forward pass."""

    def squares_of(self, hidden):
        loss = DistributedLoss(squares, reduction="sum")
        # N times, since Keras divides by N what add_loss adds
        return tf.distribute.get_strategy().num_replicas_in_sync * loss(hidden, hidden)


def compiled(make, loss, **options):
    keras.utils.set_random_seed(1)
    model = make()
    model.compile(keras.optimizers.SGD(0.1, momentum=0.9), loss, **options)
    is_ours = any(isinstance(x, DistributedLoss) for x in keras.tree.flatten(loss))
    # Before 3.10 Keras reports wrong over replicas, and before 3.8 a loss alone is
    # refused there.
    return distloss.prepare(model) if is_ours and KERAS < (3, 10) else model


def trained(model, sample_weight=WEIGHT, y=LABELS, epochs=2):
    """Weights, the loss of each epoch, and what evaluate reports."""
    options = {"sample_weight": sample_weight, "verbose": 0}
    history = model.fit(X, y, BATCH, epochs=epochs, shuffle=False, **options)
    report = model.evaluate(X, y, BATCH, return_dict=True, **options)
    weights = [weight.numpy() for weight in model.trainable_variables]
    losses = [*comparable(history.history).values(), [*comparable(report).values()]]
    return weights, np.concatenate(losses)


def assert_same(got, wanted, tolerance=1e-5):
    (weights, losses), (wanted_weights, wanted_losses) = got, wanted
    for weight, wanted_weight in zip(weights, wanted_weights, strict=True):
        scale = np.abs(wanted_weight).max()
        np.testing.assert_allclose(
            weight / scale, wanted_weight / scale, atol=tolerance
        )
    np.testing.assert_allclose(losses, wanted_losses, rtol=tolerance)


def one_small_epoch(model):
    rows = slice(BATCH + 5)
    options = {"shuffle": False, "verbose": 0, "sample_weight": WEIGHT[rows]}
    history = model.fit(X[rows], LABELS[rows], BATCH, **options)
    return model.get_weights(), history.history["loss"]


@since_keras(3, 5)
@pytest.mark.slow
def test_fit_run_eagerly(four):
    bare = keras.losses.SparseCategoricalCrossentropy()
    wanted = one_small_epoch(compiled(functional, bare))
    with four.scope():
        model = compiled(functional, DistributedLoss(bare), run_eagerly=True)
        assert_same(one_small_epoch(model), wanted)


@since_keras(3, 5)
def test_static_mode_reports_even_splits(four):
    def one_even_epoch(model):
        options = {"shuffle": False, "verbose": 0}
        history = model.fit(X[:16], LABELS[:16], 8, **options).history
        return model.get_weights(), history["loss"]

    bare = keras.losses.SparseCategoricalCrossentropy()
    wanted = one_even_epoch(compiled(functional, bare))
    with four.scope():
        model = compiled(functional, DistributedLoss(bare, global_batch_size=8))
        assert_same(one_even_epoch(model), wanted)


def three_heads():
    """One output per reduction, on a shared and regularised layer."""
    inputs = keras.Input((FEATURES,))
    hidden = keras.layers.Dense(5, "tanh", kernel_regularizer=L2)(inputs)
    return keras.Model(
        inputs,
        [
            keras.layers.Dense(CLASSES, "softmax", name=name)(hidden)
            for name in REDUCTIONS
        ],
    )


def train_three_heads(wrap):
    bare = keras.losses.SparseCategoricalCrossentropy
    losses = [wrap(bare(reduction=reduction)) for reduction in REDUCTIONS]
    heads = len(REDUCTIONS)
    model = compiled(three_heads, losses, loss_weights=[1.0, 0.5, 0.1][:heads])
    return trained(model, [WEIGHT] * heads, [LABELS] * heads)


@functools.cache
def plain_three_heads():
    return train_three_heads(lambda bare: bare)


@pytest.mark.parametrize("strategy", STRATEGIES.values(), ids=STRATEGIES)
def test_fit_and_evaluate_agree_with_one_device(strategy):
    """Each reduction, with loss_weights and a regulariser, uneven and empty shards."""
    wanted = plain_three_heads()
    with strategy_of(*strategy).scope():
        assert_same(train_three_heads(DistributedLoss), wanted)


@since_keras(3, 10)
@pytest.mark.slow
def test_central_storage_trains_as_one_device():
    """Its weights; from the second batch on, Keras' metrics add up wrong there."""
    with strategy_of("central").scope():
        weights, losses = train_three_heads(DistributedLoss)
    wanted_weights, wanted_losses = plain_three_heads()
    assert_same((weights, wanted_losses), (wanted_weights, wanted_losses))
    assert abs(losses - wanted_losses).max() > 0.1, "mended upstream: test losses too"


@pytest.mark.skipif(KERAS >= (3, 8), reason="a loss is enough")
def test_a_loss_alone_is_refused_where_trackers_do_not_multiply(four):
    with four.scope():
        model = sequential()
        model.compile("sgd", DistributedLoss("sparse_categorical_crossentropy"))
    with pytest.raises(
        distloss.DistlossError, match=r"Expected Keras 3\.8 or newer, or"
    ):
        one_small_epoch(model)


@since_keras(3, 5)
@pytest.mark.slow
def test_the_comparison_rejects_plain_keras(four):
    wanted = plain_three_heads()
    with four.scope(), pytest.raises(AssertionError):
        assert_same(train_three_heads(lambda bare: bare), wanted)


@pytest.mark.parametrize(
    ("make", "make_for_replicas", "options"),
    [
        pytest.param(
            sequential,
            sequential,
            {"steps_per_execution": 4},
            marks=since_keras(3, 7),  # before, a short group is skipped
        ),
        pytest.param(Subclassed, SubclassedForReplicas, {}, marks=since_keras(3, 10)),
    ],
)
@pytest.mark.slow
def test_fit_of_every_kind_of_model_and_loop(four, make, make_for_replicas, options):
    bare = keras.losses.SparseCategoricalCrossentropy()
    wanted = trained(compiled(make, bare))
    with four.scope():
        model = compiled(make_for_replicas, DistributedLoss(bare), **options)
        assert_same(trained(model), wanted)


@pytest.mark.slow
def test_xla_on_one_device():
    wanted = trained(compiled(sequential, "sparse_categorical_crossentropy"))
    loss = DistributedLoss("sparse_categorical_crossentropy")
    assert_same(trained(compiled(sequential, loss, jit_compile=True)), wanted)


def two_outputs():
    inputs = keras.Input((FEATURES,))
    hidden = keras.layers.Dense(5, "tanh")(inputs)
    classes = keras.layers.Dense(CLASSES, "softmax", name="classes")(hidden)
    values = keras.layers.Dense(2, name="values")(hidden)
    return keras.Model(inputs, {"classes": classes, "values": values})


@since_keras(3, 5)
@pytest.mark.slow
def test_two_outputs_with_their_own_losses_and_weights(four):
    targets = {"classes": LABELS, "values": VALUES}
    weights = {"classes": WEIGHT, "values": WEIGHT[::-1].copy()}
    losses = {
        "classes": keras.losses.SparseCategoricalCrossentropy(
            reduction=of_this_keras("mean_with_sample_weight", "sum")[0]
        ),
        "values": keras.losses.MeanSquaredError(),
    }
    options = {"loss_weights": {"classes": 0.3, "values": 2.0}}
    wanted = trained(compiled(two_outputs, losses, **options), weights, targets)
    with four.scope():
        wrapped = {name: DistributedLoss(loss) for name, loss in losses.items()}
        model = compiled(two_outputs, wrapped, **options)
    assert_same(trained(model, weights, targets), wanted)


@since_keras(3, 5)
def test_train_on_batch_gives_every_replica_the_whole_batch(four):
    """That is what Keras does; the update is still that of one device."""
    wanted = compiled(sequential, "sparse_categorical_crossentropy")
    wanted_loss = wanted.train_on_batch(X, LABELS)
    with four.scope():
        model = compiled(sequential, DistributedLoss("sparse_categorical_crossentropy"))
    np.testing.assert_allclose(model.train_on_batch(X, LABELS), wanted_loss, rtol=1e-5)
    for got, weight in zip(model.get_weights(), wanted.get_weights(), strict=True):
        np.testing.assert_allclose(got, weight, atol=1e-6)


@since_keras(3, 5)
@pytest.mark.slow
def test_mixed_precision(four):
    """bfloat16 layers, float32 sums: as one device, up to bfloat16's own rounding.

    Not float16: there Keras looks for overflow on replica 0 only.
    """
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        bare = keras.losses.SparseCategoricalCrossentropy()
        wanted = one_small_epoch(compiled(sequential, bare))
        with four.scope():
            model = compiled(sequential, DistributedLoss(bare))
        assert_same(one_small_epoch(model), wanted, tolerance=1e-2)
    finally:
        keras.config.set_dtype_policy("float32")


MAX_TOKENS = 6


# Variables of older Keras cannot be assigned where replicas share them.
LOOPS = ["mirrored", "one_device", pytest.param("central", marks=since_keras(3, 10))]


def tagger():
    inputs = keras.Input((MAX_TOKENS,), dtype="int32")
    embedded = keras.layers.Embedding(7, 5, mask_zero=True)(inputs)
    return keras.Model(inputs, keras.layers.Dense(CLASSES, "softmax")(embedded))


@since_keras(3, 5)
@pytest.mark.parametrize("strategy", LOOPS)
@pytest.mark.slow
def test_masked_tokens(strategy):
    lengths = np.sort(RNG.integers(1, MAX_TOKENS + 1, 24))[::-1]  # long rows first
    tokens = RNG.integers(1, 7, (24, MAX_TOKENS))
    tokens[np.arange(MAX_TOKENS) >= lengths[:, np.newaxis]] = 0
    tags = RNG.integers(0, CLASSES, (24, MAX_TOKENS))

    def run(loss):
        model = compiled(tagger, loss)
        history = model.fit(tokens, tags, 8, epochs=2, shuffle=False, verbose=0)
        return model.get_weights(), np.array(history.history["loss"])

    bare = keras.losses.SparseCategoricalCrossentropy()
    wanted_weights, wanted_losses = run(bare)
    with strategy_of(strategy).scope():
        weights, losses = run(DistributedLoss(bare))
        if strategy == "central":  # where Keras' metrics are wrong, as shown above
            losses = wanted_losses
        assert_same((weights, losses), (wanted_weights, wanted_losses))
        if strategy != "one_device":
            with pytest.raises(AssertionError):
                assert_same((run(bare)[0], losses), (wanted_weights, losses))


def loop_of_two_epochs(strategy, loss_fn, optimizer):
    """The model, the loss of each step and a mean of the labels."""
    with strategy.scope():
        keras.utils.set_random_seed(1)
        model, seen = sequential(), distloss.GlobalMean()
        optimizer = distloss.DistributedOptimizer(optimizer())
        optimizer.build(model.trainable_variables)

    def replica_step(x, y, weight):
        with tf.GradientTape() as tape:
            loss = loss_fn(y, model(x, training=True), weight)
            total = loss + distloss.regularization_share(model.losses)
        gradients = tape.gradient(total, model.trainable_variables)
        optimizer.apply_gradients(
            zip(gradients, model.trainable_variables, strict=True)
        )
        seen.update_state(y, weight)
        return loss

    @tf.function
    def step(batch):
        losses = strategy.run(replica_step, batch)
        return strategy.reduce("SUM", losses, axis=None)

    data = tf.data.Dataset.from_tensor_slices((X, LABELS, WEIGHT)).batch(BATCH)
    batches = strategy.experimental_distribute_dataset(data)
    losses = [step(batch) for _ in range(2) for batch in batches]
    return model, np.array(losses), float(seen.result())


@pytest.mark.parametrize("strategy", LOOPS)
@pytest.mark.slow
def test_custom_loop(strategy):
    """strategy.reduce("SUM") of the losses is the mean over the batch."""
    bare = keras.losses.SparseCategoricalCrossentropy(
        reduction=of_this_keras("mean_with_sample_weight", "sum")[0]
    )
    optimizer = functools.partial(keras.optimizers.SGD, 0.1, global_clipnorm=0.3)
    got = loop_of_two_epochs(strategy_of(strategy), DistributedLoss(bare), optimizer)
    model, losses, mean = got

    keras.utils.set_random_seed(1)
    alone, optimizer, wanted = sequential(), optimizer(), []
    for start in 2 * [*range(0, ROWS, BATCH)]:
        rows = slice(start, start + BATCH)
        with tf.GradientTape() as tape:
            wanted.append(bare(LABELS[rows], alone(X[rows]), WEIGHT[rows]))
            total = wanted[-1] + tf.add_n(alone.losses)
        gradients = tape.gradient(total, alone.trainable_variables)
        optimizer.apply(gradients, alone.trainable_variables)
    np.testing.assert_allclose(losses, wanted, rtol=1e-5)
    np.testing.assert_allclose(mean, np.average(LABELS, weights=WEIGHT), rtol=1e-5)
    pairs = zip(model.trainable_variables, alone.trainable_variables, strict=True)
    for weight, wanted_weight in pairs:
        np.testing.assert_allclose(weight, wanted_weight, atol=1e-5)


def test_added_losses_in_a_loop_of_a_class(four):
    """Read after a collective, while other replicas called the same model."""

    class Adds(keras.layers.Layer):
        def call(self, x):
            self.add_loss(tf.reduce_sum(x))
            return x

    class Trainer:
        def __init__(self):
            self.model = keras.Sequential([keras.Input((1,)), Adds()])
            self.loss_fn = DistributedLoss("mse")

        def replica_step(self, x):
            self.loss_fn(x, self.model(x))
            return tf.add_n(self.model.losses)

    with four.scope():
        trainer = Trainer()
    dealt = four.experimental_distribute_values_from_function(
        lambda context: tf.fill((1, 1), float(context.replica_id_in_sync_group))
    )
    added = tf.function(lambda x: four.run(trainer.replica_step, (x,)))(dealt)
    assert [float(x) for x in four.experimental_local_results(added)] == [0, 1, 2, 3]


# --- saving ---------------------------------------------------------------------


@keras.saving.register_keras_serializable("test")
def per_row(y_true, y_pred):
    return tf.square(y_true - y_pred)[:, 0]


@pytest.mark.parametrize(
    "loss",
    [
        DistributedLoss("mse"),
        DistributedLoss(keras.losses.LogCosh(), reduction="sum", name="mine"),
        DistributedLoss(keras.losses.mean_absolute_error, global_batch_size=8),
        DistributedLoss("mse", replicas=distloss.OneDevice()),
        DistributedLoss("mse", replicas=distloss.StrategyReplicas(), reduction="none"),
        DistributedLoss("mse", global_batch_size=tf.constant(8)),
        DistributedLoss(per_row),
        DistributedLoss({"class_name": "MeanSquaredError", "config": {}}),
        DistributedLoss(keras.losses.MeanSquaredError),
        DistributedLoss("crossentropy"),
    ],
)
def test_config_makes_the_same_loss(loss):
    again = keras.losses.deserialize(keras.losses.serialize(loss))
    assert type(again) is DistributedLoss
    assert again.get_config() == loss.get_config()
    y_true, y_pred = RNG.uniform(size=(2, 5, 3)).astype("float32")
    np.testing.assert_array_equal(again(y_true, y_pred), loss(y_true, y_pred))


@since_keras(3, 5)
@pytest.mark.slow
def test_a_saved_model_trains_on_as_if_it_had_not_been_saved(four, tmp_path):
    path = tmp_path / "model.keras"
    with four.scope():
        model = compiled(functional, DistributedLoss("sparse_categorical_crossentropy"))
        one_small_epoch(model)
        model.save(path)
        loaded = keras.models.load_model(path)
    assert isinstance(loaded.loss, DistributedLoss)
    if KERAS < (3, 10):
        distloss.prepare(loaded)
    assert_same(one_small_epoch(loaded), one_small_epoch(model), tolerance=1e-6)


@since_keras(3, 5)
@pytest.mark.slow
def test_a_clone_can_be_compiled_with_the_same_loss(four):
    with four.scope():
        model = compiled(functional, DistributedLoss("sparse_categorical_crossentropy"))
        clone = keras.models.clone_model(model)
        clone.set_weights(model.get_weights())
        clone.compile(keras.optimizers.SGD(0.1, momentum=0.9), model.loss)
        if KERAS < (3, 10):
            distloss.prepare(clone)
    assert_same(one_small_epoch(clone), one_small_epoch(model), tolerance=1e-6)


@since_keras(3, 8)
def test_an_infinite_loss_is_reported_where_replicas_have_no_rows(four):
    """Of 9 rows in batches of 8 three replicas have none at last: inf * 0 is NaN."""
    x = np.ones([9, 1], np.float32)
    y = np.array([[np.inf], *[[0.0]] * 7, [np.inf]], np.float32)
    with four.scope():
        model = keras.Sequential([keras.Input([1]), keras.layers.Dense(1)])
        model.compile("sgd", "mse")
    distloss.prepare(model)
    assert model.evaluate(x, y, batch_size=8, verbose=0) == np.inf
