"""prepare(): one line, and any split and any parts train as one device does."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from cases import KERAS, comparable, since_keras
from conftest import strategy_of
from dense_gradients import given_dense
from keras import layers, optimizers

import distloss
from distloss import DistributedLoss, DistributedOptimizer, prepare
from distloss._errors import ContextError
from distloss._formula import reduce
from distloss._formula.step_context import MicrobatchContext

pytestmark = pytest.mark.as_users_run
ROWS, BATCH, TOKENS, WORDS = 29, 9, 6, 7  # shards of 3, 3, 3, 0 and of 1, 1, 0, 0 rows
RNG = np.random.default_rng(4)
# Older Keras adds a sum over rows, which prepare refuses.
ACTIVITY = "l2" if KERAS >= (3, 14) else None


def sentences():
    """Word numbers, of which 0 is a mask; each sentence has a word."""
    words = RNG.integers(1, WORDS, (ROWS, TOKENS))
    lengths = RNG.integers(1, TOKENS + 1, ROWS)
    return np.where(np.arange(TOKENS) < lengths[:, np.newaxis], words, 0)


INPUTS = sentences(), sentences()
TARGETS = RNG.normal(size=(ROWS, TOKENS, 1)).astype("float32"), RNG.integers(0, 3, ROWS)
WEIGHT = RNG.uniform(0, 9, ROWS).astype("float32")
DATA = INPUTS, TARGETS, (WEIGHT[:, np.newaxis], WEIGHT[::-1].copy())


class Adds(layers.Layer):
    """Adds a mean over rows to the loss."""

    def __init__(self):
        super().__init__()
        self.supports_masking = True

    def call(self, x):
        self.add_loss(keras.ops.mean(keras.ops.square(x)))
        return x


def compiled(optimizer=None, **options):
    """Two outputs with different masks, weights, regularisers and added losses."""
    keras.utils.set_random_seed(1)
    inputs = [keras.Input((TOKENS,), dtype="int32") for _ in range(2)]
    of_tokens, of_rows = (layers.Embedding(WORDS, 4, mask_zero=True)(x) for x in inputs)
    tokens = layers.Dense(1, kernel_regularizer="l2", name="tokens")(of_tokens)
    pooled = layers.GlobalAveragePooling1D()(of_rows)
    hidden = Adds()(layers.Dense(5, activity_regularizer=ACTIVITY)(pooled))
    rows = layers.Dense(3, "softmax", name="rows")(hidden)
    model = keras.Model(inputs, [tokens, rows])
    model.compile(
        optimizer or optimizers.SGD(0.3, momentum=0.9, global_clipnorm=0.5),
        ["mse", "sparse_categorical_crossentropy"],
        loss_weights=[0.7, 2.0],
        metrics=[["mae"], ["accuracy"]],
        **options,
    )
    return model


def dataset():
    return tf.data.Dataset.from_tensor_slices(DATA).batch(BATCH)


def trained(model):
    """Weights; each number that fit and evaluate report, by name."""
    history = model.fit(dataset(), epochs=2, shuffle=False, verbose=0).history
    report = model.evaluate(dataset(), verbose=0, return_dict=True)
    reports = {**history, **{f"val_{k}": report[k] for k in report}}
    return model.get_weights(), comparable(reports)


def assert_same(got, wanted):
    for weight, other in zip(got[0], wanted[0], strict=True):
        np.testing.assert_allclose(weight, other, atol=1e-5 * np.abs(other).max())
    assert got[1].keys() == wanted[1].keys()
    for name in wanted[1]:
        np.testing.assert_allclose(got[1][name], wanted[1][name], rtol=1e-5)


@pytest.fixture(scope="module")
def one_device():
    model = compiled()
    given_dense(model.optimizer)  # for plain Keras clips slices apart
    return trained(model)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "microbatches"),
    [
        ("none", 1),
        ("none", 3),
        pytest.param("mirrored", 1, marks=since_keras(3, 5)),
        pytest.param("mirrored", 3, marks=since_keras(3, 5)),
    ],
)
def test_any_split_and_any_parts_train_as_one_device(kind, microbatches, one_device):
    with strategy_of(kind).scope():
        model = compiled()
    prepared = prepare(model, microbatches=microbatches)
    assert prepared is model
    assert_same(trained(model), one_device)


@pytest.mark.slow
def test_parts_run_eagerly_train_as_one_device(one_device):
    model = prepare(compiled(run_eagerly=True), microbatches=2)
    weights, history = trained(model)
    # Keras weighs the losses of single outputs by rows only where it knows their number
    alike = [name for name in history if name not in ("tokens_loss", "rows_loss")]
    alike = [name for name in alike if not name.endswith(("tokens_loss", "rows_loss"))]
    got, wanted = ({k: h[k] for k in alike} for h in (history, one_device[1]))
    assert_same((weights, got), (one_device[0], wanted))


@pytest.mark.slow
def test_the_comparison_rejects_parts_with_their_own_denominators(
    one_device, monkeypatch
):
    def own_mean(part, sums):
        mean = reduce.share(sums.total, sums.weight)
        part.weights.append(mean)
        part.shares.append(mean)
        return mean / 3

    monkeypatch.setattr(MicrobatchContext, "normalize", own_mean)
    with pytest.raises(AssertionError, match="Not equal to tolerance"):
        assert_same(trained(prepare(compiled(), microbatches=3)), one_device)


def of_tokens_only(*more_layers):
    """One loss of masked tokens, so that a step knows one denominator."""
    keras.utils.set_random_seed(1)
    inputs = keras.Input((TOKENS,), dtype="int32")
    hidden = layers.Embedding(WORDS, 4, mask_zero=True)(inputs)
    for layer in more_layers:
        hidden = layer(hidden)
    outputs = layers.Dense(1, kernel_regularizer="l2")(hidden)
    model = keras.Model(inputs, outputs)
    rule = optimizers.SGD(0.1, momentum=0.9)
    model.compile(rule, "mse", metrics=["mae"], weighted_metrics=["mse"])
    return model


def trained_on_tokens(model):
    arrays = INPUTS[0], TARGETS[0], WEIGHT[:, np.newaxis]
    batches = tf.data.Dataset.from_tensor_slices(arrays).batch(BATCH)
    history = model.fit(batches, epochs=2, shuffle=False, verbose=0).history
    return model.get_weights(), history


@pytest.mark.parametrize(
    ("kind", "microbatches"),
    [
        ("none", 3),
        pytest.param("mirrored", 1, marks=since_keras(3, 5)),
        pytest.param("mirrored", 3, marks=since_keras(3, 5)),
    ],
)
def test_one_loss_trains_as_one_device(kind, microbatches):
    with strategy_of(kind).scope():
        model = of_tokens_only()
    prepare(model, microbatches=microbatches)
    assert_same(trained_on_tokens(model), trained_on_tokens(of_tokens_only()))


@since_keras(3, 5)
@pytest.mark.parametrize("microbatches", [1, 3])
@pytest.mark.slow
def test_a_layer_that_adds_a_loss_brings_another_denominator(microbatches):
    with strategy_of("mirrored").scope():
        model = of_tokens_only(Adds())
    prepare(model, microbatches=microbatches)
    assert_same(trained_on_tokens(model), trained_on_tokens(of_tokens_only(Adds())))


def collectives_of_a_step(make, outputs=1, **options):
    """How many collectives one replica takes part in, and in its loops."""
    strategy = strategy_of("collective")
    batch = tf.ones((8, 2)), [tf.ones((8, 1))] * outputs
    with strategy.scope():
        model = prepare(make(), **options)
        model._symbolic_build(data_batch=batch)

    @tf.function(autograph=False)
    def step():
        strategy.run(model.train_step, (batch,))

    graph = step.get_concrete_function().graph.as_graph_def()
    bodies = [graph.node, *(body.node_def for body in graph.library.function)]
    names = [node.op for body in bodies for node in body]
    found = sum(name.startswith("Collective") for name in names)
    return found / strategy.num_replicas_in_sync


def scaled():
    return small(optimizers.LossScaleOptimizer(optimizers.SGD()))


@since_keras(3, 8)
@pytest.mark.slow
def test_the_denominator_of_a_step_travels_with_its_gradients():
    clipped = lambda: small(optimizers.Adam(global_clipnorm=1.0))  # noqa: E731
    assert collectives_of_a_step(clipped) == 1
    # the gradients of sums would be too large
    assert collectives_of_a_step(scaled) == 2


@since_keras(3, 8)
def test_several_denominators_of_a_step_are_one_sum():
    """Of two losses and an added one, with what is reported; then the gradients."""

    def two_losses():
        inputs = keras.Input((2,))
        hidden = Adds()(layers.Dense(3)(inputs))
        model = keras.Model(inputs, [layers.Dense(1)(hidden) for _ in range(2)])
        model.compile("sgd", ["mse", "mae"])
        return model

    assert collectives_of_a_step(two_losses, outputs=2) == 2


@since_keras(3, 8)
@pytest.mark.slow
def test_a_step_in_parts_has_no_more_collectives_however_many_they_are():
    for microbatches in (2, 5):
        assert collectives_of_a_step(small, microbatches=microbatches) == 1
        # denominators, gradients, and what is reported
        assert collectives_of_a_step(scaled, microbatches=microbatches) == 3


def small(optimizer="sgd", loss="mse", **options):
    keras.utils.set_random_seed(1)
    model = keras.Sequential(
        [keras.Input((2,)), layers.Dense(3, "tanh"), layers.Dense(1)]
    )
    model.compile(optimizer, loss, **options)
    return model


X = RNG.normal(size=(20, 2)).astype("float32")
Y = RNG.normal(size=(20, 1)).astype("float32")


def fit(model, epochs=1, **options):
    options = {"batch_size": 8, "shuffle": False, "verbose": 0, **options}
    return model.fit(X, Y, epochs=epochs, **options).history


@since_keras(3, 5)
@pytest.mark.parametrize("microbatches", [1, 2])
@pytest.mark.slow
def test_a_fixed_loss_scale_is_no_part_of_the_update(microbatches, four):
    one_device = small(optimizers.SGD(0.1))
    with four.scope():
        model = small(optimizers.SGD(0.1, loss_scale_factor=64.0))
    prepare(model, microbatches=microbatches)
    wanted, got = ({**fit(m), "weights": m.get_weights()} for m in (one_device, model))
    np.testing.assert_allclose(got["loss"], wanted["loss"], rtol=1e-5)
    for weight, other in zip(got["weights"], wanted["weights"], strict=True):
        np.testing.assert_allclose(weight, other, atol=1e-6)


def test_preparing_twice_changes_nothing():
    model = prepare(small(loss=["mse"]))
    before = model.optimizer, model._compile_loss
    prepare(model)
    assert before == (model.optimizer, model._compile_loss)
    assert type(model.optimizer).__bases__[1] is optimizers.SGD


def test_a_model_that_was_compiled_again_must_be_prepared_again():
    model = prepare(small())
    model.compile("sgd", "mse")
    with pytest.raises(ContextError, match="compiled again"):
        fit(model)
    prepare(model)
    fit(model)


@pytest.mark.slow
def test_callbacks_validation_prediction_and_steps_per_execution_keep_working():
    def run(model):
        rates, stop = [], keras.callbacks.EarlyStopping("val_loss", patience=0)
        schedule = keras.callbacks.LearningRateScheduler(
            lambda epoch: 0.1 / (1 + epoch)
        )
        log = keras.callbacks.LambdaCallback(
            on_epoch_end=lambda *_: rates.append(
                float(model.optimizer.learning_rate.numpy())
            )
        )
        callbacks = [schedule, log, stop]
        options = {"validation_data": (X, Y), "callbacks": callbacks}
        if KERAS < (3, 7):  # which may skip a last group that is short
            options |= {"batch_size": 5, "validation_batch_size": 5}
        history = fit(model, 4, **options)
        return [
            *history["loss"],
            *history["val_loss"],
            *rates,
            *model.predict(X, verbose=0),
        ]

    wanted = run(small(steps_per_execution=2))
    for microbatches in (1, 2):
        model = prepare(small(steps_per_execution=2), microbatches=microbatches)
        np.testing.assert_allclose(np.hstack(run(model)), np.hstack(wanted), rtol=1e-5)


@pytest.mark.slow
def test_training_resumes_from_a_file(tmp_path):
    through = prepare(small(optimizers.Adam(0.1)), microbatches=2)
    fit(through, 4)
    first = prepare(small(optimizers.Adam(0.1)), microbatches=2)
    fit(first, 2)
    first.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert type(loaded.optimizer) is optimizers.Adam  # a file of plain Keras
    fit(prepare(loaded, microbatches=2), 2)
    for got, wanted in zip(loaded.get_weights(), through.get_weights(), strict=True):
        np.testing.assert_allclose(got, wanted, rtol=1e-6)
    assert int(loaded.optimizer.iterations.numpy()) == 12


def test_state_of_the_optimizer_is_kept():
    model = small(optimizers.Adam(0.1))
    fit(model)
    slots = [v.numpy() for v in model.optimizer.variables]
    prepare(model)
    assert isinstance(model.optimizer, DistributedOptimizer)
    for variable, value in zip(model.optimizer.variables, slots, strict=True):
        np.testing.assert_array_equal(variable.numpy(), value)


@since_keras(3, 5)
@pytest.mark.skipif(
    KERAS[:2] == (3, 7), reason="Keras 3.7 makes no Dropout under a strategy"
)
@pytest.mark.slow
def test_layers_with_state_and_mixed_precision_in_parts(four):
    """Replicas stay the same, and an empty shard makes no NaN."""
    with four.scope():
        keras.utils.set_random_seed(1)
        inputs = keras.Input((2,))
        hidden = layers.Dense(3, "tanh", dtype="mixed_float16")(inputs)
        hidden = layers.Dropout(0.5)(hidden)
        outputs = layers.Dense(1, dtype="float32")(hidden)
        model = keras.Model(inputs, outputs)
        inner = optimizers.SGD(0.1, clipnorm=0.5)
        model.compile(optimizers.LossScaleOptimizer(inner), "mse")
    prepare(model, microbatches=2)
    batches = tf.data.Dataset.from_tensor_slices((X, Y)).batch(9)  # 3, 3, 3, 0
    before = model.get_weights()
    model.fit(batches, shuffle=False, verbose=0)
    for weight, old in zip(model.weights, before, strict=True):
        first, *others = (
            v.numpy() for v in four.experimental_local_results(weight.value)
        )
        assert np.isfinite(first).all()
        assert weight.shape == () or np.abs(first - old).max() > 0
        if weight.trainable:
            assert all(np.array_equal(first, other) for other in others)


# --- what must raise ------------------------------------------------------------


@pytest.mark.parametrize(
    ("call", "built_in", "message"),
    [
        (lambda: prepare(small(), microbatches=0), ValueError, "microbatches=0"),
        (lambda: prepare(small(), microbatches=2.0), TypeError, "microbatches=2.0"),
        (lambda: prepare(small(), microbatches=True), TypeError, "microbatches=True"),
        (lambda: prepare(small(), replicas=4), TypeError, "replicas=4"),
        (lambda: prepare("model"), TypeError, "model='model'"),
        (
            lambda: prepare(keras.Sequential([layers.Dense(1)])),
            ValueError,
            "model.compile",
        ),
        (
            lambda: prepare(
                small(loss=keras.losses.MeanSquaredError(reduction="none"))
            ),
            ValueError,
            "reduction='none'",
        ),
        (
            lambda: prepare(small(optimizers.SGD(gradient_accumulation_steps=2))),
            ValueError,
            "gradient_accumulation_steps=2",
        ),
    ],
)
def test_bad_input_says_what_to_do(call, built_in, message):
    with pytest.raises(distloss.DistlossError, match=message) as raised:
        call()
    assert isinstance(raised.value, built_in)


def test_a_model_of_another_scope_is_refused(four):
    outside = small()
    with four.scope(), pytest.raises(ContextError, match="made outside it"):
        prepare(outside)
    made_outside = optimizers.SGD()
    with four.scope():
        model = small(made_outside)
    with pytest.raises(
        ContextError, match=r"(?i)optimizer 'sgd.*' was made in another"
    ):
        prepare(model)


def of_one_layer(strategy, **options):
    with strategy.scope():
        model = keras.Sequential([keras.Input((2,)), layers.Dense(1, **options)])
        model.compile("sgd", "mse")
    return model


@pytest.mark.skipif(KERAS >= (3, 14), reason="Keras 3.14 adds a mean")
def test_a_sum_over_rows_that_old_keras_adds_is_refused():
    model = of_one_layer(strategy_of("none"), activity_regularizer="l2")
    fit(prepare(model))
    with pytest.raises(ValueError, match=r"adds a sum .* Keras 3\.14"):
        fit(prepare(model, microbatches=2))


@pytest.mark.skipif(KERAS >= (3, 5), reason="Keras 3.5 builds models before steps")
def test_a_keras_that_builds_on_each_replica_is_refused(four):
    with pytest.raises(distloss.DistlossError, match=r"Expected Keras 3\.5 or newer"):
        prepare(of_one_layer(four))


def test_a_distributed_loss_in_the_forward_pass_is_refused():
    class AddsDistributed(layers.Layer):
        def call(self, x):
            self.add_loss(DistributedLoss("mse")(x, 2 * x))
            return x

    for microbatches in (1, 2):
        model = keras.Sequential(
            [keras.Input((2,)), AddsDistributed(), layers.Dense(1)]
        )
        model.compile("sgd", "mse", run_eagerly=True)
        with pytest.raises(ContextError, match="in the model's forward pass"):
            fit(prepare(model, microbatches=microbatches))


def test_a_sparse_batch_is_not_cut():
    sparse = tf.sparse.from_dense(X)
    with pytest.raises(TypeError, match=r"tf\.sparse\.to_dense"):
        distloss._prepare.microbatches.cut((sparse, Y), 2).part(tf.constant(0))
