"""DistributedLoss: on one device it is the bare loss; what it takes and refuses."""

import itertools

import keras
import numpy as np
import pytest
import tensorflow as tf
from cases import (
    CLASSES,
    KERAS,
    LOSSES,
    NOT_IN_THIS_KERAS,
    TOKENS,
    LossCase,
    batch_of,
    of_this_keras,
    since_keras,
)
from chosen import dealt
from conftest import strategy_of

import distloss
from distloss import DistlossError, DistributedLoss, OneDevice

ALL_REDUCTIONS = [
    "sum_over_batch_size",
    "mean",
    "mean_with_sample_weight",
    "sum",
    "none",
]
REFUSED = ["SparseCategoricalFocalCrossentropy"] if KERAS >= (3, 16) else []
ROWS = 6
RNG = np.random.default_rng(5)

# every shape that Keras takes for element losses [ROWS, TOKENS]
TOKEN_WEIGHTS = {
    "none": None,
    "number": 2.5,
    "scalar": np.float32(0.5),
    "rows": RNG.uniform(0, 3, (ROWS, 1)).astype("float32"),
    "tokens": RNG.uniform(0, 3, (ROWS, TOKENS)).astype("float32"),
    "one more axis": RNG.uniform(0, 3, (ROWS, TOKENS, 1)).astype("float32"),
    "same for all rows": RNG.uniform(0, 3, (1, TOKENS)).astype("float32"),
    "integers": RNG.integers(0, 3, (ROWS, TOKENS)),
    "zeros": np.zeros((ROWS, 1), "float32"),
}
# and for element losses [ROWS]
ROW_WEIGHTS = {
    "none": None,
    "number": 2.5,
    "rows": RNG.uniform(0, 3, ROWS).astype("float32"),
    "one more axis": RNG.uniform(0, 3, (ROWS, 1)).astype("float32"),
    "booleans": np.array([True, False, True, True, False, True]),
}


def circle_labels(rng, rows):
    return rng.integers(0, 2, rows)


HAS_CIRCLE = hasattr(keras.losses, "Circle")
CIRCLE = LossCase(
    lambda **options: keras.losses.Circle(**options),
    lambda logits: tf.math.l2_normalize(logits[:, 0], -1),
    circle_labels,
    per_token=False,
)


def values_and_gradients(loss, case, weight, mask):
    batch = batch_of(case, "even", (ROWS,))
    logits = tf.Variable(RNG_LOGITS)
    with tf.GradientTape() as tape:
        y_pred = case.activation(logits * 1.0)
        if mask:
            y_pred._keras_mask = tf.constant(batch.mask)
        value = loss(batch.y, y_pred, sample_weight=weight)
    return value.numpy(), tape.gradient(value, logits).numpy()


RNG_LOGITS = RNG.normal(size=(ROWS, TOKENS, CLASSES)).astype("float32")


NAMES = [*LOSSES, *["Circle"] * HAS_CIRCLE]


@pytest.mark.parametrize("name", NAMES)
def test_one_device_gives_the_bare_loss(name):
    """Each loss with each reduction; with each kind of weights every third loss."""
    case = LOSSES.get(name, CIRCLE)
    weights = TOKEN_WEIGHTS if case.per_token else ROW_WEIGHTS
    masks = [False, True] if case.per_token else [False]
    ways = itertools.product(of_this_keras(*ALL_REDUCTIONS), weights, masks)
    for reduction, kind, mask in dealt(ways, NAMES.index(name), 3):
        bare = case.make(reduction=reduction)
        given = case, weights[kind], mask
        got = values_and_gradients(DistributedLoss(bare), *given)
        wanted = values_and_gradients(bare, *given)
        for ours, theirs in zip(got, wanted, strict=True):
            scale = np.abs(theirs).max() + 1e-12
            np.testing.assert_allclose(
                ours / scale,
                theirs / scale,
                atol=2e-6,
                rtol=0,
                err_msg=f"{reduction}, weights {kind}, mask {mask}",
            )


def test_every_keras_loss_is_in_the_table():
    classes = {
        name
        for name, value in vars(keras.losses).items()
        if isinstance(value, type) and issubclass(value, keras.losses.Loss)
    }
    circle = ["Circle"] * HAS_CIRCLE
    assert classes - {"Loss"} - NOT_IN_THIS_KERAS == {*LOSSES, *circle, *REFUSED}
    for name in REFUSED:
        with pytest.raises(DistlossError, match="whose class overrides __call__"):
            DistributedLoss(getattr(keras.losses, name)())


def test_row_weights_of_token_losses_weigh_rows():
    """Keras 3 raises; for as many tokens as rows it would weigh token positions."""
    y_true, y_pred = np.zeros((3, 3, 2)), RNG.normal(size=(3, 3, 2))
    weight = np.array([1.0, 2.0, 4.0])
    wanted = (np.square(y_pred).mean(-1) * weight[:, np.newaxis]).mean()
    loss = DistributedLoss("mse")
    np.testing.assert_allclose(loss(y_true, y_pred, weight), wanted, rtol=1e-6)


def test_a_mask_from_the_loss_itself_counts():
    """SparseCategoricalCrossentropy marks the elements of ignore_class."""
    bare = keras.losses.SparseCategoricalCrossentropy(ignore_class=0)
    y_true, y_pred = np.array([[0, 1, 2], [0, 0, 3]]), tf.nn.softmax(RNG_LOGITS[:2])
    wanted = bare(y_true, y_pred)
    np.testing.assert_allclose(DistributedLoss(bare)(y_true, y_pred), wanted, rtol=1e-6)


def test_nested_predictions_are_aligned_leaf_by_leaf():
    def absolute(y_true, y_pred):
        return tf.abs(y_true["a"] - y_pred["a"])

    y_true, y_pred = {"a": np.arange(3.0)}, {"a": np.zeros((3, 1))}
    assert float(DistributedLoss(absolute)(y_true, y_pred)) == 1.0


@since_keras(3, 7)
@pytest.mark.parametrize("reduction", ["mean", "mean_with_sample_weight"])
def test_weights_that_all_rows_share_count_once(four, reduction):
    """Also where the number of rows is open, as in a traced function."""
    values = tf.constant(RNG.normal(size=(7, 3, 1)), tf.float32)
    weight = tf.constant([[1.0, 2.0, 4.0]])
    bounds = tf.constant([0, 3, 5, 5, 7])
    bare = keras.losses.MeanSquaredError(reduction=reduction)

    @tf.function
    def step():
        def replica_step():
            me = tf.distribute.get_replica_context().replica_id_in_sync_group
            mine = values[bounds[me] : bounds[me + 1]]
            return DistributedLoss(bare)(tf.zeros_like(mine), mine, weight)

        return four.reduce("SUM", four.run(replica_step), axis=None)

    wanted = bare(tf.zeros_like(values), values, weight)
    np.testing.assert_allclose(step(), wanted, rtol=1e-6)


def test_sums_of_half_precision_predictions_are_taken_in_float32():
    y_pred = np.ones((70_000, 1))
    for dtype in (tf.float16, tf.bfloat16):
        loss = DistributedLoss("mse", reduction="sum")
        value = loss(tf.zeros((70_000, 1), dtype), tf.cast(y_pred, dtype))
        assert value.dtype == tf.float32
        assert float(value) == 70_000  # float16 ends at 65,504, bfloat16 counts to 256


@since_keras(3, 5)
def test_a_loss_that_computes_in_half_precision_is_summed_in_float32():
    half = keras.losses.MeanSquaredError(reduction="sum", dtype="bfloat16")
    value = DistributedLoss(half)(np.zeros((1000, 1)), np.ones((1000, 1), "float32"))
    assert (value.dtype, float(value)) == (tf.float32, 1000.0)


def test_float64_predictions_are_computed_in_float64():
    y_true, y_pred = np.zeros((3, 2)), tf.constant([[1 + 1e-12, 1]] * 3, tf.float64)
    value = DistributedLoss("mse")(y_true, y_pred)
    assert value.dtype == tf.float64
    assert abs(float(value) - (1 + 1e-12)) < 1e-15


@pytest.mark.parametrize(
    "identifier",
    [
        "mse",
        "MeanSquaredError",
        "mean_squared_error",
        keras.losses.mean_squared_error,
        keras.losses.MeanSquaredError(),
        keras.losses.MeanSquaredError,
        {"class_name": "MeanSquaredError", "config": {}},
        lambda y_true, y_pred: tf.reduce_mean(tf.square(y_true - y_pred), -1),
    ],
)
def test_takes_what_compile_takes(identifier):
    y_true, y_pred = RNG.normal(size=(2, 3, 4))
    wanted = np.square(y_true - y_pred).mean()
    got = DistributedLoss(identifier)(y_true, y_pred)
    np.testing.assert_allclose(got, wanted, rtol=1e-6)


def test_crossentropy_is_chosen_by_shape_as_compile_does():
    probabilities = tf.nn.softmax(RNG_LOGITS[:, 0])
    classes = np.arange(ROWS) % CLASSES
    sparse = keras.losses.SparseCategoricalCrossentropy()(classes, probabilities)
    dense = keras.losses.CategoricalCrossentropy()(
        np.eye(CLASSES)[classes[::-1]], probabilities
    )
    loss = DistributedLoss("crossentropy")
    np.testing.assert_allclose(loss(classes, probabilities), sparse, rtol=1e-6)
    one_hot = np.eye(CLASSES)[classes[::-1]]
    np.testing.assert_allclose(loss(one_hot, probabilities), dense, rtol=1e-6)


def test_targets_with_an_axis_more_are_squeezed_as_keras_does():
    y_true, y_pred = np.arange(4.0), np.arange(4.0)[:, np.newaxis] + 1
    assert float(DistributedLoss("mse")(y_true, y_pred)) == 1.0


def test_loss_and_name_come_from_the_wrapped_loss():
    wrapped = keras.losses.Huber(name="mine", reduction="sum")
    loss = DistributedLoss(wrapped)
    assert (loss.name, loss.reduction) == ("mine", "sum")
    assert DistributedLoss(wrapped, name="other", reduction="mean").name == "other"
    assert DistributedLoss("mse").name == "mse"


def test_no_weight_anywhere_gives_zero_and_zero_gradient():
    case = LOSSES["MeanSquaredError"]
    for reduction in ALL_REDUCTIONS:
        loss = DistributedLoss("mse", reduction=reduction)
        weight = np.zeros((ROWS, 1))
        value, gradient = values_and_gradients(loss, case, weight, mask=False)
        assert not value.any()
        assert not gradient.any()


@pytest.mark.parametrize("masked", [True, False])
def test_no_weight_on_any_replica_gives_zero_and_zero_gradient(four, masked):
    x = tf.Variable([[1.0, 2.0]])

    @tf.function
    def step(reduction):
        def replica_step():
            with tf.GradientTape() as tape:
                y_pred = tf.ones((3, 2)) * x
                if masked:
                    y_pred._keras_mask = tf.zeros((3,), tf.bool)
                loss = DistributedLoss("mse", reduction=reduction)
                value = loss(tf.zeros((3, 2)), y_pred, None if masked else tf.zeros(3))
            return value, tape.gradient(value, x)

        return [four.reduce("SUM", r, axis=None) for r in four.run(replica_step)]

    for reduction in ALL_REDUCTIONS[:-1]:
        value, gradient = step(reduction)
        assert float(value) == 0
        assert not gradient.numpy().any()


def test_infinite_loss_is_reported_as_infinite(four):
    """Not as the NaN of inf - inf."""

    def replica_step():
        y_pred = tf.fill((1, 1), np.float32(1e30))
        return DistributedLoss("mse")(tf.zeros((1, 1)), y_pred)

    value = tf.function(lambda: four.reduce("SUM", four.run(replica_step), axis=None))()
    assert float(value) == np.inf


def test_xla_compiles_it():
    case = LOSSES["SparseCategoricalCrossentropy"]
    batch = batch_of(case, "even", (ROWS,))
    for reduction in ALL_REDUCTIONS:
        loss = DistributedLoss("sparse_categorical_crossentropy", reduction=reduction)

        @tf.function(jit_compile=True)
        def compiled(logits, loss=loss):
            with tf.GradientTape() as tape:
                tape.watch(logits)
                y_pred = tf.nn.softmax(logits)
                y_pred._keras_mask = tf.constant(batch.mask)
                value = loss(batch.y, y_pred, batch.row_weight)
            return value, tape.gradient(value, logits)

        logits = tf.constant(RNG_LOGITS)
        for got, wanted in zip(
            compiled(logits), compiled.python_function(logits), strict=True
        ):
            np.testing.assert_allclose(got, wanted, rtol=1e-5, atol=1e-7)


# --- static mode ----------------------------------------------------------------


@pytest.mark.parametrize("rows", [8, np.int64(8), tf.constant(8)])
@pytest.mark.parametrize("sizes", [(2, 2, 2, 2), (3, 0, 1, 2)])
def test_static_mode_follows_compute_average_loss(four, rows, sizes):
    """Also for a short batch: 6 rows divided by 8."""
    values = tf.constant(RNG.normal(size=(sum(sizes), 1)), tf.float32)
    weight = tf.constant(RNG.uniform(0, 3, sum(sizes)), tf.float32)
    bounds = tf.constant(np.cumsum([0, *sizes]))
    loss = DistributedLoss("mse", global_batch_size=rows)

    @tf.function
    def step():
        def replica_step():
            me = tf.distribute.get_replica_context().replica_id_in_sync_group
            mine = values[bounds[me] : bounds[me + 1]]
            my_weight = weight[bounds[me] : bounds[me + 1]]
            wanted = tf.nn.compute_average_loss(
                tf.square(mine[:, 0]), sample_weight=my_weight, global_batch_size=8
            )
            return loss(tf.zeros_like(mine), mine, my_weight), wanted

        return [four.reduce("SUM", r, axis=None) for r in four.run(replica_step)]

    got, wanted = step()
    np.testing.assert_allclose(got, wanted, rtol=1e-6)
    np.testing.assert_allclose(got, np.sum(values[:, 0] ** 2 * weight) / 8, rtol=1e-6)


def test_static_mode_counts_the_elements_of_a_row():
    y_pred = RNG.normal(size=(4, 3, 5))
    loss = DistributedLoss("mse", global_batch_size=4)
    bare = keras.losses.MeanSquaredError()
    y_true = np.zeros_like(y_pred)
    np.testing.assert_allclose(loss(y_true, y_pred), bare(y_true, y_pred), rtol=1e-6)


COLLECTIVES = ("CollectiveReduce", "NcclAllReduce", "CollectiveGather")


def collectives_of(step):
    """How many numbers each collective op of one step sums."""
    graph = step.get_concrete_function().graph
    return [
        op.inputs[0].shape.num_elements()
        for op in graph.get_operations()
        if op.type.startswith(COLLECTIVES)
    ]


@pytest.mark.parametrize(
    ("options", "scalars"),
    [
        ({}, 2),
        ({"reduction": "mean_with_sample_weight"}, 3),
        ({"reduction": "sum"}, 1),
        ({"reduction": "none"}, None),
        ({"global_batch_size": 8}, None),
        ({"global_batch_size": 8, "reduction": "sum"}, None),
        ({"replicas": OneDevice()}, None),
    ],
)
def test_at_most_one_collective_of_a_few_scalars(options, scalars):
    strategy = strategy_of("collective")
    loss = DistributedLoss("mse", **options)

    @tf.function
    def step():
        def replica_step():
            x = tf.ones((2, 1))
            with tf.GradientTape() as tape:
                tape.watch(x)
                value = loss(tf.zeros((2, 1)), x, sample_weight=[1.0, 2.0])
            return tape.gradient(value, x)

        return strategy.run(replica_step)

    replicas = strategy.num_replicas_in_sync
    assert collectives_of(step) == ([] if scalars is None else [scalars] * replicas)


# --- bad input ------------------------------------------------------------------


class OwnCall(keras.losses.Loss):
    def __call__(self, y_true, y_pred, sample_weight=None):
        return 0.0


@pytest.mark.parametrize(
    ("loss", "options", "built_in", "message"),
    [
        ("mse", {"reduction": "average"}, ValueError, "reduction='average'"),
        ("msee", {}, ValueError, "loss='msee'"),
        (3, {}, TypeError, "loss=3"),
        (None, {}, TypeError, "loss=None"),
        (DistributedLoss("mse"), {}, TypeError, "DistributedLoss already"),
        (OwnCall(), {}, TypeError, "overrides __call__"),
        ("mse", {"global_batch_size": -8}, ValueError, "global_batch_size=-8"),
        ("mse", {"global_batch_size": 0}, ValueError, "global_batch_size=0"),
        ("mse", {"global_batch_size": 8.0}, TypeError, "global_batch_size=8.0"),
        ("mse", {"global_batch_size": "8"}, TypeError, "global_batch_size='8'"),
        ("mse", {"global_batch_size": True}, TypeError, "global_batch_size=True"),
        (
            "mse",
            {"global_batch_size": tf.constant([8])},
            TypeError,
            "global_batch_size",
        ),
        (
            "mse",
            {"global_batch_size": tf.constant(-1)},
            ValueError,
            "global_batch_size",
        ),
        ("mse", {"replicas": 4}, TypeError, "replicas=4"),
        ("mse", {"replicas": OneDevice}, TypeError, "Pass an instance"),
    ],
)
def test_bad_arguments_are_refused(loss, options, built_in, message):
    with pytest.raises(DistlossError, match=r"^Expected") as caught:
        DistributedLoss(loss, **options)
    assert isinstance(caught.value, built_in)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    "scalar",
    [
        lambda y_true, y_pred: tf.reduce_mean(tf.square(y_true - y_pred)),
        lambda y_true, y_pred: 3.0,
        keras.losses.Dice(),
        keras.losses.Tversky(),
    ],
)
def test_a_scalar_loss_is_refused(scalar):
    loss = DistributedLoss(scalar)
    with pytest.raises(DistlossError, match="Got a scalar") as caught:
        loss(np.ones((2, 3)), np.ones((2, 3)))
    assert isinstance(caught.value, ValueError)
    with pytest.raises(DistlossError, match="Got a scalar"):
        tf.function(loss)(tf.ones((2, 3)), tf.ones((2, 3)))


@pytest.mark.parametrize(
    ("y_shape", "weight_shape"),
    [
        ((4, 2), (3,)),
        ((4, 5, 2), (5,)),
        ((4, 5, 2), (3,)),
        ((4, 5, 2), (4, 3)),
        ((4, 2), (4, 4)),
        ((1, 2), (3,)),
    ],
)
def test_weights_that_do_not_broadcast_name_both_shapes(y_shape, weight_shape):
    loss = DistributedLoss("mse")
    with pytest.raises(DistlossError, match="broadcast") as caught:
        loss(np.ones(y_shape), np.ones(y_shape), np.ones(weight_shape))
    assert isinstance(caught.value, ValueError)
    for shape in (weight_shape, y_shape[:-1]):
        assert str(tf.TensorShape(shape)) in str(caught.value)


def test_cross_replica_context_is_refused(four):
    loss = DistributedLoss("mse")
    tensors = tf.zeros((2, 1)), tf.ones((2, 1))
    with four.scope():
        for call in (loss, tf.function(loss)):
            with pytest.raises(DistlossError, match="replica context") as caught:
                call(*tensors)
            assert isinstance(caught.value, RuntimeError)
        alone = DistributedLoss("mse", replicas=OneDevice())
        assert float(alone(*tensors)) == 1  # the way out that the message names


@pytest.mark.parametrize(
    "loss",
    [
        *[keras.losses.Dice(axis=(0, 1)) for name in LOSSES if name == "Dice"],
        keras.losses.CosineSimilarity(axis=0),
        lambda y_true, y_pred: tf.reduce_mean(tf.square(y_true - y_pred), 0),
        lambda y_true, y_pred: tf.reshape(tf.reduce_mean(y_true - y_pred), [1]),
    ],
)
def test_a_loss_without_rows_is_refused(loss):
    """Where the number of rows is open, as in `fit`."""
    spec = tf.TensorSpec([None, 3, 2])
    traced = tf.function(DistributedLoss(loss), input_signature=[spec, spec])
    with pytest.raises(DistlossError, match="without the rows"):
        traced.get_concrete_function()


def test_a_loss_of_unknown_rank_is_refused():
    def hidden(y_true, y_pred):
        return tf.py_function(lambda x: tf.reduce_mean(x), [y_pred], tf.float32)

    traced = tf.function(lambda x: DistributedLoss(hidden)(x, x))
    with pytest.raises(DistlossError, match="known rank"):
        traced(tf.ones((2, 3)))


@since_keras(3, 7)
def test_a_loss_that_compares_rows_is_refused_on_replicas(four):
    labels, embeddings = np.array([0, 0, 1]), np.eye(3, dtype="float32")
    for circle in (keras.losses.Circle(), "circle"):
        loss = DistributedLoss(circle)
        loss(labels, embeddings)
        with pytest.raises(DistlossError, match="compares each row"):
            four.run(loss, (labels, embeddings))


def test_errors_are_public_through_their_root():
    assert distloss.DistlossError is DistlossError
