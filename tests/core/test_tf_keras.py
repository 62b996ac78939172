"""tf-keras (Keras 2): losses, optimizers, prepared models, metrics, the audit."""

import contextlib
import functools
import itertools
import os
import pathlib
import subprocess
import sys

import builds_tf_keras
import numpy as np
import pytest
import tensorflow as tf
import tf_keras
from cases import LOSSES, WEIGHTS, batch_of, batches_of
from conftest import REPLICAS, strategy_of
from dense_gradients import given_dense
from test_fit import BATCH, LABELS, ROWS, VALUES, WEIGHT, X, assert_same
from training import (
    Variant,
    assert_same_training,
    train_on_strategy,
    train_one_device,
)

import distloss
from distloss import DistributedLoss, DistributedOptimizer, prepare
from distloss._errors import (
    ArgumentError,
    ArgumentTypeError,
    ContextError,
    ScalarLossError,
)

KINDS = [name for name in LOSSES if hasattr(tf_keras.losses, name)]
L2 = tf_keras.regularizers.L2(0.1)
RNG = np.random.default_rng(5)
WORDS = RNG.integers(1, 9, (ROWS, 4))
WORDS[np.arange(4)[np.newaxis] >= RNG.integers(1, 5, ROWS)[:, np.newaxis]] = 0
TAGS = RNG.integers(0, 3, (ROWS, 4))


# -- losses, in a loop of one's own


def variants(name, wrap):
    """The loss with each reduction of tf-keras and each kind of weights."""
    make = getattr(tf_keras.losses, name)
    pairs = itertools.product(("auto", "sum"), WEIGHTS)
    return [Variant(wrap(make(reduction=how)), kind) for how, kind in pairs]


def mean_of_means(loss):
    """As `fit` of tf-keras takes it."""
    loss._allow_sum_over_batch_size = True
    count = 1 if loss.reduction == "sum" else REPLICAS
    return lambda *args: loss(*args) / count


def test_a_loop_trains_as_one_device_where_means_of_means_do_not(four):
    """An even, a short and a masked batch, and one with an empty shard."""
    name = "SparseCategoricalCrossentropy"
    case, batches = LOSSES[name], batches_of(LOSSES[name], REPLICAS)
    wanted = train_one_device(case, variants(name, lambda loss: loss), batches)
    got = train_on_strategy(four, case, variants(name, DistributedLoss), batches)
    assert_same_training(got, wanted)
    plain = variants(name, mean_of_means)[:1]
    wrong = train_on_strategy(four, case, plain, batches[:2])
    right = [part[:1] if part.ndim == 3 else part[:2, :1] for part in wanted]
    with pytest.raises(AssertionError):
        assert_same_training(wrong, right)


def test_each_loss_means_what_it_means_in_tf_keras():
    assert len(KINDS) >= 17
    reductions = ("auto", "sum_over_batch_size", "sum", "none")
    for name, how in itertools.product(KINDS, reductions):
        case = LOSSES[name]
        batch = batch_of(case, "even", (5, 3))
        y_pred = case.activation(tf.constant(batch.x[..., :4]))
        y_pred._keras_mask = tf.convert_to_tensor(batch.mask)
        bare = getattr(tf_keras.losses, name)(reduction=how)
        loss = DistributedLoss(bare)
        assert isinstance(loss, tf_keras.losses.Loss)
        for weight in (None, batch.row_weight[:, np.newaxis], batch.token_weight):
            wanted = bare(batch.y, y_pred, weight)
            np.testing.assert_allclose(loss(batch.y, y_pred, weight), wanted, 1e-5)


def test_a_loss_with_branches_is_converted_as_tf_keras_does():
    def huber(y_true, y_pred):
        if tf.reduce_max(y_pred) > 10.0:
            return tf.abs(y_true - y_pred)
        return tf.square(y_true - y_pred)

    wrapper = tf_keras.__internal__.losses.LossFunctionWrapper
    loss, zeros = tf.function(DistributedLoss(wrapper(huber))), tf.zeros([2, 1])
    assert float(loss(zeros, tf.constant([[1.0], [3.0]]))) == 5.0
    assert float(loss(zeros, tf.constant([[1.0], [30.0]]))) == 15.5


# -- fit


def compiled(loss, optimizer, scope):
    """One output per reduction, on a shared and regularised layer."""
    with scope:
        tf_keras.utils.set_random_seed(1)
        inputs = tf_keras.Input((X.shape[1],))
        hidden = tf_keras.layers.Dense(5, "tanh", kernel_regularizer=L2)(inputs)
        heads = [tf_keras.layers.Dense(3, "softmax", name=n)(hidden) for n in "abc"]
        model = tf_keras.Model(inputs, heads)
        bare = tf_keras.losses.SparseCategoricalCrossentropy
        losses = [loss(bare(reduction=how)) for how in ("auto", *SUMS)]
        model.compile(optimizer(), losses, loss_weights=[1.0, 0.5, 0.1])
    return model


SUMS = ("sum_over_batch_size", "sum")


def clipped_sgd():
    return tf_keras.optimizers.SGD(0.1, momentum=0.9, global_clipnorm=0.5)


def trained(model, x=X, y=(LABELS,) * 3, batch=BATCH):
    """Weights, the losses of the epoch, and what evaluate reports."""
    weights, losses = fitted(model, x, y, batch)
    options = {"sample_weight": [WEIGHT] * len(y), "verbose": 0}
    report = model.evaluate(x, list(y), batch, **options)
    return weights, np.concatenate([losses, report])


def fitted(model, x, y, batch):
    options = {"sample_weight": [WEIGHT] * len(y), "verbose": 0, "shuffle": False}
    history = model.fit(x, list(y), batch, **options).history
    weights = [weight.numpy() for weight in model.trainable_variables]
    return weights, np.concatenate(list(history.values()))


@functools.cache
def plain_heads():
    return trained(compiled(lambda loss: loss, clipped_sgd, contextlib.nullcontext()))


def test_fit_and_evaluate_agree_with_one_device(four):
    """Short batches, an empty shard, row weights; clipped; each reduction."""
    model = compiled(
        DistributedLoss, lambda: DistributedOptimizer(clipped_sgd()), four.scope()
    )
    assert_same(trained(model), plain_heads())
    assert isinstance(model.optimizer, tf_keras.optimizers.SGD)


def test_plain_tf_keras_is_off(four):
    model = compiled(lambda loss: loss, clipped_sgd, four.scope())
    (weights, losses), (wanted_weights, wanted_losses) = trained(model), plain_heads()
    with pytest.raises(AssertionError):
        assert_same((weights, wanted_losses), plain_heads(), 1e-3)
    with pytest.raises(AssertionError):
        assert_same((wanted_weights, losses), plain_heads(), 1e-3)


@pytest.mark.parametrize("kind", ["optimizers", "optimizers.legacy"])
def test_clipping_is_of_the_sum(four, kind):
    optimizers = functools.reduce(getattr, kind.split("."), tf_keras)
    with four.scope():
        optimizer = DistributedOptimizer(optimizers.SGD(1.0, clipnorm=1.0))
        weight = tf.Variable([3.0])
    assert isinstance(optimizer, optimizers.SGD)

    def replica_step(gradient):
        optimizer.apply_gradients([(gradient, weight)])

    step = tf.function(lambda local: four.run(replica_step, (local,)))

    step(per_replica(four, [[10.0], [-9.0], [0.0], [0.0]]))
    np.testing.assert_allclose(weight.numpy(), [2.0])
    step(per_replica(four, [[10.0], [-9.5], [0.0], [0.0]]))
    np.testing.assert_allclose(weight.numpy(), [1.5])


def per_replica(strategy, values):
    return strategy.experimental_distribute_values_from_function(
        lambda context: tf.constant(values[context.replica_id_in_sync_group])
    )


def test_overflow_on_one_replica_skips_the_step_on_all(four):
    with four.scope():
        inner = tf_keras.optimizers.SGD(1.0)
        scaled = tf_keras.mixed_precision.LossScaleOptimizer(inner, initial_scale=4.0)
        optimizer = DistributedOptimizer(scaled)
        weight = tf.Variable([3.0])

    @tf.function
    def step(local):
        def replica_step(gradient):
            optimizer.get_scaled_loss(tf.constant(1.0))
            gradients = optimizer.get_unscaled_gradients([gradient])
            optimizer.apply_gradients(zip(gradients, [weight], strict=True))

        four.run(replica_step, (local,))

    step(per_replica(four, [[0.0], [float("inf")], [0.0], [0.0]]))
    assert (weight.numpy().tolist(), float(optimizer.loss_scale)) == ([3.0], 2.0)
    step(per_replica(four, [[2.0], [2.0], [0.0], [0.0]]))
    assert weight.numpy().tolist() == [1.0]


# -- prepare


class Adds(tf_keras.layers.Layer):
    def call(self, x):
        self.add_loss(0.05 * tf.reduce_mean(x**2))
        return x


def tagger(scope, wrap=lambda model: model, scaled=False):
    """Masked tokens and a value per row; identifiers; an added loss of its rows."""
    with scope:
        tf_keras.utils.set_random_seed(1)
        inputs = tf_keras.Input((4,), dtype="int32")
        hidden = tf_keras.layers.Embedding(9, 5, mask_zero=True)(inputs)
        hidden = tf_keras.layers.Dense(4, "tanh", kernel_regularizer=L2)(hidden)
        mean = Adds()(tf_keras.layers.GlobalAveragePooling1D()(hidden))
        tags = tf_keras.layers.Dense(3, "softmax", name="tags")(hidden)
        value = tf_keras.layers.Dense(2, name="value")(mean)
        model = tf_keras.Model(inputs, [tags, value])
        optimizer = clipped_sgd()
        if scaled:
            optimizer = tf_keras.mixed_precision.LossScaleOptimizer(optimizer)
        losses = ["sparse_categorical_crossentropy", "mse"]
        model.compile(optimizer, losses, metrics={"tags": "accuracy"})
        return wrap(model)


TAGGED = (WORDS, (TAGS, VALUES), 14)  # batches of 14, 14 and 1 rows


@functools.cache
def plain_tagger():
    model = tagger(contextlib.nullcontext())
    given_dense(model.optimizer)  # for tf-keras clips slices apart
    return fitted(model, *TAGGED), model.evaluate(
        WORDS, [TAGS, VALUES], 14, sample_weight=[WEIGHT] * 2, verbose=0
    )


def test_a_prepared_model_trains_as_one_device(four):
    """Masks, row weights, an added loss, a regulariser, empty shards, clipping."""
    (weights, losses), report = plain_tagger()
    wanted = weights, np.concatenate([losses, report])
    assert_same(trained(tagger(four.scope(), prepare), *TAGGED), wanted)


def test_microbatches_train_as_whole_batches():
    in_parts = functools.partial(prepare, microbatches=3)
    model = tagger(strategy_of("mirrored", 2).scope(), in_parts, scaled=True)
    assert_same(fitted(model, *TAGGED), plain_tagger()[0])


def functions_of(losses):
    return [tf_keras.losses.get(loss) for loss in losses]


@pytest.mark.filterwarnings("ignore:You are saving your model as an HDF5")
def test_prepare_keeps_the_model_and_its_files(tmp_path):
    model = tagger(contextlib.nullcontext())
    optimizer = model.optimizer
    config = model.get_compile_config()
    assert prepare(model) is model
    assert isinstance(model.optimizer, type(optimizer))
    container, wrapped = model.compiled_loss, model.optimizer
    prepare(model)
    assert (model.compiled_loss, model.optimizer) == (container, wrapped)
    assert model.get_compile_config() == config
    model.fit(WORDS[:4], [TAGS[:4], VALUES[:4]], verbose=0)
    for name in ("model.keras", "model.h5"):
        model.save(tmp_path / name)
        with tf_keras.saving.custom_object_scope({"Adds": Adds}):
            loaded = tf_keras.models.load_model(tmp_path / name)
        found, wanted = map(functions_of, (loaded.loss, model.loss))
        assert found == wanted
        assert type(loaded.optimizer) is tf_keras.optimizers.SGD
        assert int(loaded.optimizer.iterations) == 1
    model.compile("sgd", "mse")
    with pytest.raises(ContextError, match="compiled again"):
        model.fit(WORDS[:4], [TAGS[:4], VALUES[:4]], verbose=0)


def test_models_that_cannot_be_prepared_are_refused(four):
    model = tf_keras.Sequential([tf_keras.layers.Dense(1)])
    with pytest.raises(ArgumentError, match=r"Call model\.compile"):
        prepare(model)
    model.compile("sgd", tf_keras.losses.MeanSquaredError(reduction="none"))
    with pytest.raises(ArgumentError, match="reduction='none'"):
        prepare(model)
    with four.scope(), pytest.raises(ContextError, match="made outside it"):
        prepare(model)
    with pytest.raises(ArgumentError, match="Expected the replicas"):
        prepare(model, replicas=distloss.HorovodReplicas())


def test_what_cannot_be_distributed_is_refused():
    optimizer = DistributedOptimizer(tf_keras.optimizers.SGD())
    with pytest.raises(ArgumentTypeError, match="distributed already"):
        DistributedOptimizer(optimizer)
    with pytest.raises(ArgumentError, match="microbatches="):
        DistributedOptimizer(tf_keras.optimizers.SGD(), accumulation_steps=2)
    with pytest.raises(ArgumentTypeError, match="identifier such as 'adam'"):
        DistributedOptimizer(tf_keras.layers.Dense(1))

    loss = DistributedLoss(tf_keras.losses.MeanSquaredError())
    with pytest.raises(ArgumentTypeError, match="a DistributedLoss already"):
        DistributedLoss(loss)
    with pytest.raises(ArgumentError, match="Expected reduction="):
        DistributedLoss(tf_keras.losses.MeanSquaredError(), reduction="average")
    wrapper = tf_keras.__internal__.losses.LossFunctionWrapper
    with pytest.raises(ScalarLossError):
        DistributedLoss(wrapper(lambda y, y_pred: tf.reduce_mean(y_pred)))([1.0], [2.0])


# -- tf.keras is tf-keras


TESTS = pathlib.Path(__file__).parents[1]
LEGACY = """
import sys
sys.path[:0] = {tests!r}
import conftest
conftest.pytest_configure()
import keras, numpy as np, tensorflow as tf, distloss

loss = distloss.DistributedLoss("mse", reduction="mean_with_sample_weight")
assert isinstance(loss, tf.keras.losses.Loss)
assert float(loss([[0.0], [0.0]], [[1.0], [3.0]], sample_weight=[3.0, 1.0])) == 3
square = distloss.DistributedLoss(lambda y, y_pred: (y - y_pred) ** 2)
assert isinstance(square, tf.keras.losses.Loss)
three = distloss.DistributedLoss(keras.losses.MeanSquaredError())
assert isinstance(three, keras.losses.Loss)
assert isinstance(distloss.DistributedOptimizer("adam"), tf.keras.optimizers.Adam)

loaded = tf.keras.models.load_model({path!r})
assert loaded.loss.global_reduction == "mean_with_sample_weight"
assert loaded.loss.replicas == distloss.OneDevice()

class Model(tf.keras.Sequential):
    def train_step(self, data):
        x, y = data
        self.seen.update_state(y, sample_weight=x[:, 0])
        return {{metric.name: metric.result() for metric in self.metrics}}

x = np.linspace(1, 5, 29, dtype="float32")[:, np.newaxis]
y = x**2
with conftest.strategy_of("mirrored").scope():
    model = Model([tf.keras.layers.Dense(1)])
    model.seen = distloss.GlobalMean("seen")
    model.compile()
history = model.fit(x, y, batch_size=12, verbose=0, epochs=2).history
np.testing.assert_allclose(history["seen"], (x * y).sum() / x.sum(), 1e-6)
mean = distloss.GlobalMean("m")
copy = type(mean).from_config(mean.get_config())
assert (copy.name, copy.replicas) == ("m", None)
print("agrees")
"""


def test_without_arguments_of_a_keras_tf_keras_decides(tmp_path):
    """And a compiled DistributedLoss loads after `import distloss`."""
    model = tf_keras.Sequential([tf_keras.layers.Dense(1, input_shape=[2])])
    loss = DistributedLoss(
        tf_keras.losses.Huber(2.0),
        reduction="mean_with_sample_weight",
        replicas=distloss.OneDevice(),
    )
    model.compile(DistributedOptimizer(tf_keras.optimizers.SGD(0.5)), loss)
    path = str(tmp_path / "model.keras")
    model.save(path)
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            LEGACY.format(tests=[str(TESTS), str(TESTS / "helpers")], path=path),
        ],
        env={**os.environ, "TF_USE_LEGACY_KERAS": "1", "TF_CPP_MIN_LOG_LEVEL": "2"},
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )
    assert done.stdout.endswith("agrees\n"), done.stderr


# -- the audit


def audited(name):
    return distloss.audit(f"{builds_tf_keras.__file__}:{name}", replicas=(1, 2))


def test_the_audit_names_what_is_wrong(forked):
    """tf-keras divides by N what a loss function returns, and so a scalar, too."""
    causes = {finding.cause for finding in audited("scalar_loss_and_clipping").findings}
    assert {"mean-of-means", "clip-before-sum"} <= causes
    assert "sum-of-means" not in causes


def test_the_audit_agrees_with_a_prepared_model(forked):
    report = audited("prepared")
    assert report.agrees, report.findings
