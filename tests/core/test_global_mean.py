"""GlobalMean counts on: beyond what float32 can count, from older checkpoints."""

import os
import pathlib
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf
from conftest import strategy_of

from distloss import DistlossError, GlobalMean

FULL = 2**24  # where float32 stops to count by one
CHECKPOINTS = pathlib.Path(__file__).parent / "checkpoints"


def filled(metric):
    """`metric` after as many rows as float32 can count, all of value 1."""
    metric.update_state([1.0], sample_weight=[float(FULL)])
    return metric


@pytest.mark.parametrize("compiled", [None, False, True])
def test_single_rows_count_however_many_there_are(compiled):
    metric = filled(GlobalMean())
    update = metric.update_state
    if compiled is not None:
        update = tf.function(update, jit_compile=compiled)
    for _ in range(1001):
        update(tf.constant([3.0]))
    wanted = (FULL + 3 * 1001) / (FULL + 1001)
    np.testing.assert_allclose(metric.result(), wanted, rtol=1e-7)
    assert metric.result().dtype == tf.float32


@pytest.mark.parametrize("kind", ["mirrored", "central"])
def test_single_rows_of_replicas_count(kind):
    strategy = strategy_of(kind)
    with strategy.scope():
        metric = GlobalMean()
    many = [tf.constant([1.0])], [tf.constant([float(FULL)])]
    step = tf.function(lambda *row: strategy.run(metric.update_state, row))
    step(*many[0], *many[1])
    for _ in range(101):
        step(tf.constant([3.0]), tf.constant([1.0]))
    wanted = (FULL + 3 * 101) / (FULL + 101)
    np.testing.assert_allclose(metric.result(), wanted, rtol=1e-7)
    metric.reset_state()
    step(tf.constant([3.0]), tf.constant([1.0]))
    assert float(metric.result()) == 3


def test_random_sums_are_those_of_float64():
    rng = np.random.default_rng(2)
    values = rng.lognormal(sigma=6, size=(300, 5)).astype("float32")
    weights = rng.lognormal(sigma=6, size=(300, 5)).astype("float32")
    metric = GlobalMean(dtype="float64")
    update = tf.function(metric.update_state)
    for row in zip(values.astype("float64"), weights, strict=True):
        update(*map(tf.constant, row))
    wanted = np.average(values.astype("float64"), weights=weights.astype("float64"))
    np.testing.assert_allclose(metric.result(), wanted, rtol=1e-14)


def test_half_precision_results_do_not_overflow_on_the_way():
    metric = GlobalMean(dtype="float16")
    for _ in range(5):
        metric.update_state(tf.fill([30_000], tf.constant(4.0, tf.float16)))
    metric.update_state([20.0] * 10_000)
    result = metric.result()
    assert (result.dtype, float(result)) == (tf.float16, 5.0)


def test_integers_keep_their_digits_in_float64():
    metric = GlobalMean(dtype="float64")
    metric.update_state(tf.constant([FULL + 1, FULL + 3], tf.int64))
    assert float(metric.result()) == FULL + 2


def test_an_infinite_value_stays_infinite():
    metric = GlobalMean()
    for value in (1.0, np.inf, 1.0):
        metric.update_state([value])
    assert float(metric.result()) == np.inf


def test_a_checkpoint_of_two_numbers_is_restored_and_counted_on():
    """Written when S and W were one float32 number each: mean 3 of 2^24 rows."""
    metric = GlobalMean()
    holder = tf.train.Checkpoint(total=metric.total, weight=metric.weight)
    holder.restore(str(CHECKPOINTS / "global_mean-1")).assert_consumed()
    assert float(metric.result()) == 3
    metric.update_state([FULL * 3.0])
    np.testing.assert_allclose(metric.result(), FULL * 6 / (FULL + 1), rtol=1e-7)
    for _ in range(1000):
        metric.update_state([0.0])
    np.testing.assert_allclose(metric.result(), FULL * 6 / (FULL + 1001), rtol=1e-7)


@pytest.mark.parametrize(
    ("values", "weights", "message"),
    [
        ([1j], None, "values.*complex128"),
        ([1.0], [1 + 1j], "weights.*complex128"),
        (["a"], None, "values.*string"),
        ([1.0], ["a"], "weights.*string"),
        ([1.0], {"a": 1}, "weights.*dict"),
        ([1.0, None], None, "values.*list"),
        ([1.0], [None], "weights.*list"),
        (tf.ragged.constant([[1.0], [1.0, 2.0]]), None, "values.*RaggedTensor"),
    ],
)
def test_what_is_no_number_is_refused(values, weights, message):
    with pytest.raises(DistlossError, match=rf"(?s)^Expected {message}") as caught:
        GlobalMean().update_state(values, sample_weight=weights)
    assert isinstance(caught.value, TypeError)


def test_a_complex_mask_is_refused():
    values = tf.constant([1.0, 2.0])
    values._keras_mask = tf.constant([1j, 0])
    with pytest.raises(DistlossError, match=r"^Expected mask.*complex128"):
        GlobalMean().update_state(values)


def test_no_values_count_nothing_as_in_keras():
    for metric in (GlobalMean(), keras.metrics.Mean()):
        metric.update_state(np.zeros([0]))
        metric.update_state(np.zeros([0, 3]), sample_weight=np.zeros([0]))
        assert float(metric.result()) == 0


@pytest.mark.parametrize("kind", ["none", "mirrored", "central"])
def test_what_is_saved_is_restored(kind, tmp_path):
    """On as many replicas as there are; the digits that float32 has."""
    strategy = strategy_of(kind)
    results = []
    with strategy.scope():
        metrics = GlobalMean(), GlobalMean()
    for metric in metrics:
        holder = tf.train.Checkpoint(total=metric.total, weight=metric.weight)
        if not results:
            strategy.run(metric.update_state, (tf.constant([2.0, 5.0]),))
            path = holder.save(str(tmp_path / "saved"))
        else:
            holder.restore(path).assert_consumed()
        strategy.run(metric.update_state, (tf.constant([7.0]),))
        results.append(float(metric.result()))
    assert results == [np.float32(14 / 3)] * 2


OF_TF_KERAS = """
import tensorflow as tf
from distloss import GlobalMean
metric = GlobalMean()
assert isinstance(metric, tf.keras.metrics.Metric)
holder = tf.train.Checkpoint(total=metric.total, weight=metric.weight)
holder.restore({old!r}).assert_consumed()
metric.update_state([{full} * 3.0])
for _ in range(1000):
    metric.update_state([0.0])
saved = tf.train.Checkpoint(metric=metric).save({new!r})
copy = GlobalMean()
tf.train.Checkpoint(metric=copy).restore(saved).assert_existing_objects_matched()
print(float(metric.result()), float(copy.result()))
"""


def test_the_metric_of_tf_keras_counts_on_as_well(tmp_path):
    old, new = str(CHECKPOINTS / "global_mean-1"), str(tmp_path / "new")
    done = subprocess.run(
        [sys.executable, "-c", OF_TF_KERAS.format(old=old, new=new, full=FULL)],
        env={**os.environ, "TF_USE_LEGACY_KERAS": "1", "TF_CPP_MIN_LOG_LEVEL": "2"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    results = [float(word) for word in done.stdout.split()]
    np.testing.assert_allclose(results, [FULL * 6 / (FULL + 1001)] * 2, rtol=2e-7)
