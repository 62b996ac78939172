"""GlobalMean: sums of any parts give the mean of the whole."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from distloss import DistlossError, GlobalMean


@settings(max_examples=50, deadline=None)
@given(
    st.lists(st.lists(st.tuples(st.floats(-9, 9, width=32), st.floats(0, 9, width=32))))
)
def test_any_parts_give_the_mean_of_the_whole(parts):
    metric = GlobalMean()
    for part in parts:
        values, weights = zip(*part, strict=True) if part else ([], [])
        metric.update_state(tf.constant(values, tf.float32), weights)
    pairs = np.array([pair for part in parts for pair in part], float).reshape(-1, 2)
    total = pairs[:, 1].sum()
    wanted = (pairs[:, 0] * pairs[:, 1]).sum() / total if total else 0
    np.testing.assert_allclose(metric.result(), wanted, rtol=1e-4, atol=1e-5)


def test_replicas_with_uneven_rows_give_the_mean_of_the_whole(four):
    """Where the mean of the replicas' means is another number."""
    rows = [[1.0, 2.0, 3.0], [10.0], [], [4.0, 16.0]]
    with four.scope():
        metric = GlobalMean()
    dealt = four.experimental_distribute_values_from_function(
        lambda context: tf.constant(rows[context.replica_id_in_sync_group], tf.float32)
    )

    @tf.function
    def step(values):
        four.run(metric.update_state, (values,))

    step(dealt)
    step(dealt)
    flat = np.concatenate(rows)
    assert float(metric.result()) == pytest.approx(flat.mean(), rel=1e-6)
    assert metric.weight.numpy() == 2 * len(flat)
    means = [np.mean(row) if row else 0 for row in rows]
    assert abs(np.mean(means) - flat.mean()) > 0.1
    metric.reset_state()
    assert float(metric.result()) == 0


def test_masks_and_row_weights_of_token_values():
    values = tf.constant([[1.0, 2.0], [3.0, 6.0]])
    values._keras_mask = tf.constant([[True, True], [True, False]])
    metric = GlobalMean(name="tokens")
    metric.update_state(values, sample_weight=[1.0, 2.0])
    assert float(metric.result()) == (1 + 2 + 6) / 4
    assert metric.name == "tokens"


def test_a_scalar_is_one_element():
    metric = GlobalMean()
    metric.update_state(4.0)
    metric.update_state(1.0, sample_weight=2.0)
    assert float(metric.result()) == 2.0


def test_config_makes_the_same_metric():
    metric = keras.metrics.deserialize(keras.metrics.serialize(GlobalMean("mine")))
    assert isinstance(metric, GlobalMean)
    assert metric.name == "mine"


def test_weights_that_do_not_broadcast_are_refused():
    with pytest.raises(DistlossError, match=r"weights.shape=\(3,\)"):
        GlobalMean().update_state([1.0, 2.0], sample_weight=[1.0, 2.0, 3.0])
