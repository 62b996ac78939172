"""Gradients sent in 16 bits: what is sent so, what stays whole, what it costs."""

import contextlib
import itertools
import pathlib
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf
from chosen import some
from conftest import strategy_of
from faults import KINDS, faulty
from own_models import MeanOfRows
from test_buckets import graph_of_sums

import distloss
from distloss import HorovodReplicas, StrategyReplicas
from distloss._errors import ArgumentError
from distloss._formula.checked_sums import checked_sums
from distloss.callbacks import StepCheck

sys.path.insert(0, str(pathlib.Path(__file__).parents[2] / "scripts"))
import clean_sums
import compression_errors

GUIDE = pathlib.Path(__file__).parents[2] / "examples/guides/precision_and_clipping.md"
DTYPES = {"fp16": tf.float16, "bf16": tf.bfloat16}
ROUNDOFF = {"fp16": 2.0**-11, "bf16": 2.0**-8}
RNG = np.random.default_rng(4)

# -- the argument


@pytest.mark.parametrize("replicas", [HorovodReplicas, StrategyReplicas])
@pytest.mark.parametrize("wrong", ["int8", "float16", None, 16, ["fp16"], tf.float16])
def test_other_compressions_are_refused(replicas, wrong):
    with pytest.raises(ArgumentError) as raised:
        replicas(compression=wrong)
    assert "Expected compression= to be one of 'none', 'fp16'" in str(raised.value)
    assert f"Got compression={wrong!r}" in str(raised.value)


def test_horovod_adds_up_no_bfloat16():
    with pytest.raises(ArgumentError, match="adds up no bfloat16"):
        HorovodReplicas(compression="bf16")


@pytest.mark.parametrize("compression", ["none", "fp16", "bf16"])
def test_it_is_saved(compression):
    replicas = StrategyReplicas(compression=compression)
    assert StrategyReplicas.from_config(replicas.get_config()) == replicas
    assert (replicas == StrategyReplicas()) == (compression == "none")
    assert replicas.sums_are_exact == (compression == "none")


def test_files_of_before_have_none():
    assert StrategyReplicas.from_config({"bucket_bytes": 7}).compression == "none"


# -- what is sent


def sums_of(strategy, replicas, parts):
    """What each replica gets for its part, a list of tensors."""

    @tf.function
    def run():
        def of_one():
            index = replicas.index()
            flat = [tf.nest.flatten(part, expand_composites=True) for part in parts]
            mine = [tf.stack(tensors)[index] for tensors in zip(*flat, strict=True)]
            return replicas.sum_gradients(
                tf.nest.pack_sequence_as(parts[0], mine, expand_composites=True)
            )

        return [strategy.experimental_local_results(x) for x in strategy.run(of_one)]

    return run()


@pytest.mark.parametrize("kind", ["mirrored", "collective", "central"])
@pytest.mark.parametrize("compression", ["fp16", "bf16"])
@pytest.mark.parametrize("bucket_bytes", [None, 1])
def test_dense_gradients_are_added_up_in_it_and_come_back_as_they_were(
    kind, compression, bucket_bytes
):
    """Two replicas have something: there is one way to add up two numbers."""
    strategy = strategy_of(kind)
    replicas = StrategyReplicas(compression=compression, bucket_bytes=bucket_bytes)
    short = DTYPES[compression]
    some = RNG.normal(size=(2, 3, 50))
    sizes = [(50,), (5, 10)]
    dtypes = [tf.float32, tf.float64, tf.float16, tf.bfloat16]
    zero = [tf.zeros(sizes[i % 2], t) for i, t in enumerate(dtypes)]
    parts = [[tf.cast(tf.reshape(x[0], z.shape), z.dtype) for z in zero] for x in some]
    parts = [parts[0], zero, parts[1], zero]
    with strategy.scope():
        found = sums_of(strategy, replicas, parts)
    for at, (of_all, dtype) in enumerate(zip(found, dtypes, strict=True)):
        sent = short if dtype.size > 2 else dtype
        assert replicas.sent_as(dtype) == sent
        first, second = (tf.cast(parts[i][at], sent) for i in (0, 2))
        wanted = tf.cast(first + second, dtype)
        for got in of_all:
            assert got.dtype == dtype
            np.testing.assert_array_equal(got, wanted)
        if dtype.size > 2:  # so it was really sent in 16 bits
            assert not np.array_equal(wanted, parts[0][at] + parts[2][at])


@pytest.mark.parametrize("compression", ["none", "fp16", "bf16"])
def test_collectives_have_its_dtype(compression):
    graph = graph_of_sums(StrategyReplicas(compression=compression))
    dtypes = [
        operation.inputs[0].dtype
        for operation in graph.get_operations()
        if operation.type.startswith("CollectiveReduce")
    ]
    assert dtypes == [DTYPES.get(compression, tf.float32)] * 4


@pytest.mark.parametrize("kind", ["mirrored", "collective"])
@pytest.mark.parametrize("compression", ["fp16", "bf16"])
def test_sparse_gradients_stay_whole(kind, compression):
    strategy = strategy_of(kind)
    replicas = StrategyReplicas(compression=compression)
    values = RNG.normal(size=(4, 2, 3)).astype("float32")
    indices = np.array([[0, 4], [1, 4], [2, 0], [3, 1]])
    parts = [
        [tf.IndexedSlices(*map(tf.constant, (v, i, [5, 3]))), tf.constant(v)]
        for v, i in zip(values, indices, strict=True)
    ]
    with strategy.scope():
        slices, dense = sums_of(strategy, replicas, parts)
    wanted = np.zeros((5, 3))
    np.add.at(wanted, indices, values.astype("float64"))
    for got in slices:
        assert isinstance(got, tf.IndexedSlices)
        np.testing.assert_allclose(tf.convert_to_tensor(got), wanted, atol=1e-6)
    off = np.abs(np.array(dense[0]) - values.sum(0, dtype="float64")).max()
    assert ROUNDOFF[compression] / 50 < off < 16 * ROUNDOFF[compression]


def test_one_replica_sends_nothing():
    gradient = tf.constant([1e-9, 1e9])
    [got] = StrategyReplicas(compression="fp16").sum_gradients([gradient])
    np.testing.assert_array_equal(got, gradient)


def test_what_is_beyond_float16_is_not_beyond_bfloat16(four):
    """And what is lost is an infinity or a zero, as the guide says."""
    parts = [[tf.constant([65_504.0, 65_520.0, 2.0**-24, 2.0**-26, 1e38])]]
    parts += 3 * [[tf.zeros(5)]]
    with four.scope():
        [[half, *_]] = sums_of(four, StrategyReplicas(compression="fp16"), parts)
        [[brain, *_]] = sums_of(four, StrategyReplicas(compression="bf16"), parts)
    np.testing.assert_array_equal(half, [65_504, np.inf, 2.0**-24, 0, np.inf])
    np.testing.assert_allclose(brain, parts[0][0], rtol=2.0**-8)


def test_the_guide_tells_what_it_costs():
    """As far as four replicas go."""
    lines = GUIDE.read_text().splitlines()
    strategies = [strategy_of("mirrored", count) for count in (2, 4)]
    rows = compression_errors.rows_of(strategies)
    assert len(rows) == 6
    for kind, compression, (two, four) in rows:
        line = f'| {kind} | `"{compression}"` | {two} | {four} | '
        assert [found for found in lines if found.startswith(line)], line


# -- what must not be sent in 16 bits: by what sums are divided

FEATURES, OUTPUTS = 4, 128


def layers():
    return [
        keras.Input((FEATURES,)),
        keras.layers.Dense(OUTPUTS, use_bias=False, kernel_initializer="zeros"),
    ]


def compiled(loss="mse", optimizer="sgd", kind=keras.Sequential):
    model = kind(layers())
    model.compile(optimizer, loss, jit_compile=False)
    return model


def rule():
    return keras.optimizers.SGD(1.0)


def prepared(replicas, **options):
    return distloss.prepare(compiled(optimizer=rule()), replicas=replicas, **options)


def prepared_own_step(replicas, **options):
    model = compiled(None, rule(), MeanOfRows)
    return distloss.prepare(model, replicas=replicas, **options)


def wrapped(replicas, **options):
    optimizer = distloss.DistributedOptimizer(rule(), replicas=replicas, **options)
    return compiled(distloss.DistributedLoss("mse", replicas=replicas), optimizer)


def wrapped_optimizer(replicas, **options):
    """Its loss knows nothing of compression."""
    optimizer = distloss.DistributedOptimizer(rule(), replicas=replicas, **options)
    return compiled(distloss.DistributedLoss("mse"), optimizer)


def prepared_of_tf_keras(replicas, **options):
    import tf_keras

    start = {"use_bias": False, "kernel_initializer": "zeros"}
    layer = tf_keras.layers.Dense(OUTPUTS, input_shape=(FEATURES,), **start)
    model = tf_keras.Sequential([layer])
    model.compile(tf_keras.optimizers.SGD(1.0), "mse")
    return distloss.prepare(model, replicas=replicas, **options)


def accumulated(replicas, **options):
    loss = distloss.DistributedLoss("mse", replicas=replicas)
    options = {"accumulation_steps": 2, "loss": loss, **options}
    optimizer = distloss.DistributedOptimizer(rule(), replicas=replicas, **options)
    return compiled(loss, optimizer)


def in_parts(replicas, **options):
    return prepared(replicas, microbatches=2, **options)


WAYS = [
    prepared,
    prepared_own_step,
    prepared_of_tf_keras,
    in_parts,
    wrapped,
    wrapped_optimizer,
    accumulated,
]


# Rows of a replica, and of all, that float16 and bfloat16 round by 2^-11 and 2^-8, and
# more than float16 knows of.
COUNTS = (("fp16", 4 * 2049), ("bf16", 4 * 257), ("fp16", 70_000))
CASES = itertools.product(COUNTS, WAYS, (False, True))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("count", "way", "check_sums"),
    some(CASES, 5),
    ids=lambda value: getattr(value, "__name__", None),
)
def test_rows_are_counted_whole(four, count, way, check_sums):
    compression, rows = count
    per_step, rows = rows, 2 * rows if way is accumulated else rows
    random = np.random.default_rng(rows)
    x = random.normal(size=(rows, FEATURES)).astype("float32")
    y = random.normal(size=(rows, OUTPUTS)).astype("float32") + x[:, :1]
    with four.scope():
        model = way(StrategyReplicas(compression=compression), check_sums=check_sums)
    history = model.fit(x, y, batch_size=per_step, shuffle=False, verbose=0)
    wide, target = x.astype("float64"), y.astype("float64")
    [[reported]] = history.history.values()
    assert reported == pytest.approx((target**2).mean(), rel=1e-5)
    parts = -2 * np.einsum("nrf,nro->nfo", *(np.split(a, 4) for a in (wide, target)))
    parts /= rows * OUTPUTS
    wanted, got = parts.sum(0), -np.array(model.get_weights()[0], "float64")
    # each part is rounded when it is sent, and each of three sums, and so are the
    # gradients' own float32 numbers
    roundoff = ROUNDOFF[compression]
    allowed = 4.5 * roundoff * np.abs(parts).sum(0)
    if compression == "fp16":
        allowed += 4 * 2.0**-25
    if way is not accumulated:  # of which each replica has rows of both halves
        assert (np.abs(got - wanted) <= allowed).all()
    # but what all are divided by is not: their mean is right
    large = np.abs(wanted) > np.abs(wanted).max() / 4
    assert large.sum() >= OUTPUTS
    assert abs(got[large].sum() / wanted[large].sum() - 1) < roundoff / 4


# -- sums that are checked


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [tf.float32, tf.float64])
@pytest.mark.parametrize("compression", ["fp16", "bf16"])
def test_clean_sums_raise_no_alarm(four, monkeypatch, compression, dtype):
    monkeypatch.setattr(clean_sums, "DTYPES", (dtype,))
    done, alarms = clean_sums.false_alarms(150, 3, {4: four}, compression)
    assert alarms == []
    assert sum(done.values()) == 150


@pytest.mark.slow
def test_alarms_are_raised_where_the_cast_is_not_tolerated(four, monkeypatch):
    """The negative control: these sums are rounded, as those of 16 bits."""
    monkeypatch.setattr(clean_sums, "DTYPES", (tf.float32,))
    monkeypatch.setattr(StrategyReplicas, "sent_as", lambda _self, dtype: dtype)
    _, alarms = clean_sums.false_alarms(16, 3, {4: four}, "fp16")
    assert len(alarms) >= 8


def hurt(strategy, kind, compression, gradients):
    """Two steps of SGD, of which the second is hurt on replica 2."""
    with strategy.scope():
        replicas, fault = faulty(StrategyReplicas(compression=compression))
        weight = keras.Variable(np.zeros((64, 16), "float32"), name="w")
        optimizer = distloss.DistributedOptimizer(
            keras.optimizers.SGD(1.0), replicas=replicas, check_sums=True
        )
        optimizer.build([weight])

    @tf.function
    def step(number):
        def of_one():
            mine = gradients(tf.stack([number, replicas.index()]))
            optimizer.apply_gradients([(mine, weight)])

        strategy.run(of_one)

    step(tf.constant(1))
    before = np.array(weight.value)
    assert np.abs(before).max() > 0.1
    fault.kind, fault.at = kind, 2
    with pytest.raises(distloss.CorruptedSumError) as raised, distloss.sum_errors():
        step(tf.constant(2))
    np.testing.assert_array_equal(weight.value, before)
    return raised.value


def dense(seed):
    # Sums below 2, of which a flipped bit makes more than all: what it makes of others
    # is lost in the rounding of bfloat16.
    return 0.1 * tf.random.stateless_normal([64, 16], seed)


def sparse(seed):
    values = tf.random.stateless_normal([8, 16], seed)
    return tf.IndexedSlices(values, 7 * tf.range(8), tf.constant([64, 16]))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "compression"), some(itertools.product(KINDS, ["fp16", "bf16"]), 3)
)
def test_wrong_sums_are_caught(four, kind, compression):
    error = hurt(four, kind, compression, dense)
    assert (error.step, error.replicas) == (2, (2,))


@pytest.mark.slow
@pytest.mark.parametrize("compression", ["fp16", "bf16"])
def test_wrong_sums_of_sparse_gradients_are_caught(four, compression):
    error = hurt(four, "flipped", compression, sparse)
    assert (error.step, error.variables) == (2, ("w",))


@pytest.mark.slow
def test_gradients_too_small_for_float16_are_not_named(four):
    """They are zeros after the sum, but not for what went wrong with another."""
    with four.scope():
        replicas, fault = faulty(StrategyReplicas(compression="fp16"))
        weights = [keras.Variable(np.zeros(64, "float32"), name=n) for n in ("a", "b")]
        optimizer = distloss.DistributedOptimizer(
            rule(), replicas=replicas, check_sums=True
        )
        optimizer.build(weights)
    fault.kind = "swapped"

    @tf.function
    def step():
        def of_one():
            mine = tf.random.stateless_normal([64], tf.stack([1, replicas.index()]))
            optimizer.apply_gradients(zip([mine, 1e-9 * mine], weights, strict=True))

        four.run(of_one)

    with pytest.raises(distloss.CorruptedSumError) as raised, distloss.sum_errors():
        step()
    assert raised.value.variables == ("a",)


@pytest.mark.parametrize("compression", ["fp16", "bf16"])
def test_slices_are_checked_as_float32(compression):
    slices = sparse([1, 2])
    replicas = StrategyReplicas(compression=compression)
    checked = checked_sums(replicas, [[slices]], "w", tf.constant(1, tf.int64))
    assert checked.is_clean
    [allowed] = checked.evidence.tolerances
    assert 0 < float(allowed) < 1e-4 * float(tf.norm(slices.values))


@pytest.mark.slow
def test_an_overflow_is_told_from_a_wrong_sum(four):
    def large(seed):
        return tf.where(seed[0] == 2, 1e5, 1.0) * dense(seed)

    with pytest.raises(distloss.NonfiniteGradientError, match="too large for float16"):
        hurt(four, None, "fp16", large)


@pytest.mark.slow
@pytest.mark.parametrize("compression", ["fp16", "bf16"])
def test_a_loss_scale_looks_after_what_float16_cannot_hold(four, compression):
    """The update is left out on all replicas, and the scale is halved, once."""
    with four.scope():
        model = keras.Sequential(layers())
        scaled = keras.optimizers.LossScaleOptimizer(rule(), initial_scale=2.0**30)
        model.compile(scaled, "mse", jit_compile=False)
        distloss.prepare(model, replicas=StrategyReplicas(compression=compression))
    x = np.ones((8, FEATURES), "float32")
    model.fit(x, np.ones((8, OUTPUTS), "float32"), batch_size=8, verbose=0)
    [kernel] = model.get_weights()
    if compression == "fp16":
        np.testing.assert_array_equal(kernel, 0)
        assert float(model.optimizer.dynamic_scale.numpy()) == 2.0**29
    else:
        np.testing.assert_allclose(kernel, 2 / OUTPUTS, rtol=2.0**-7)
        assert float(model.optimizer.dynamic_scale.numpy()) == 2.0**30


# -- steps that are checked


@pytest.mark.slow
@pytest.mark.parametrize("compression", ["fp16", "bf16"])
@pytest.mark.parametrize("is_right", [True, False])
def test_a_step_check_takes_rounding_for_rounding(compression, is_right):
    """And a loss that is not divided by the replicas for what it is."""
    strategy = strategy_of("mirrored")
    replicas = StrategyReplicas(compression=compression)
    with strategy.scope():
        keras.utils.set_random_seed(1)
        hidden = [keras.Input((FEATURES,)), keras.layers.Dense(16, "relu")]
        model = keras.Sequential([*hidden, keras.layers.Dense(1)])
        if is_right:
            model.compile("sgd", "mse", jit_compile=False)
            distloss.prepare(model, replicas=replicas)
        else:
            optimizer = distloss.DistributedOptimizer("sgd", replicas=replicas)
            mean = lambda y, y_pred: tf.reduce_mean((y - y_pred) ** 2)  # noqa: E731
            model.compile(optimizer, mean, jit_compile=False)
    x = RNG.normal(size=(12, FEATURES)).astype("float32")
    check = StepCheck(on_failure="warn")
    warned = pytest.warns(UserWarning, match="4 replicas do not give the gradient")
    with contextlib.nullcontext() if is_right else warned:
        model.fit(x, x[:, :1] ** 2, batch_size=12, verbose=0, callbacks=[check])
    [report] = check.reports
    assert report.agrees is is_right
    assert report.causes == (() if is_right else ("sum-of-means",))
