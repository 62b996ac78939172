"""Keras 3.16 deals batches to processes itself: whole ones, or a part of each.

https://github.com/keras-team/keras/pull/23046 for arrays, 23044 for a PyDataset
"""

import types

import keras
import numpy as np
import pytest
import tensorflow as tf
from cases import KERAS
from conftest import strategy_of
from keras.src.trainers.data_adapters import get_data_adapter
from keras.src.trainers.data_adapters.array_data_adapter import ArrayDataAdapter
from keras.src.trainers.data_adapters.tf_dataset_adapter import TFDatasetAdapter

import distloss
from distloss._audit.checks.diagnosis import sharding_of
from distloss._errors import ContextError
from distloss._prepare.checks import check_dealt_once

SIZE, PROCESSES = 4, 2
X = np.arange(24, dtype="float32").reshape(12, 2)
Y = X.sum(1, keepdims=True)


def dealing(process, *, is_on=True):
    """What `keras.distribution` knows in one of several processes."""
    return types.SimpleNamespace(
        auto_shard_dataset=is_on,
        num_processes=PROCESSES,
        num_data_shards=PROCESSES,
        num_model_replicas=PROCESSES,
        data_shard_id=process,
        get_tensor_layout=lambda _path: None,
        distribute_dataset=lambda dataset: dataset,
        _is_multi_process=False,  # by which 3.15 refuses arrays instead
    )


@pytest.fixture
def dealt(monkeypatch):
    """Data adapters that deal as those of Keras 3.16 do; and who tells them."""

    def whole_batches(adapter):
        dataset = of_arrays(adapter)
        told = keras.distribution.distribution()
        if told is None or not told.auto_shard_dataset:
            return dataset
        return dataset.shard(told.num_data_shards, told.data_shard_id)

    def part_of_each(adapter):
        dataset = of_dataset(adapter)
        told = keras.distribution.distribution()
        if told is None or not told.auto_shard_dataset:
            return dataset
        parts = dataset.rebatch(SIZE // told.num_data_shards)
        return parts.shard(told.num_data_shards, told.data_shard_id)

    of_arrays, of_dataset = (
        ArrayDataAdapter.get_tf_dataset,
        (TFDatasetAdapter.get_tf_dataset),
    )
    if KERAS < (3, 16):
        monkeypatch.setattr(ArrayDataAdapter, "get_tf_dataset", whole_batches)
        monkeypatch.setattr(TFDatasetAdapter, "get_tf_dataset", part_of_each)
    yield keras.distribution.set_distribution
    keras.distribution.set_distribution(None)


def rows_of(adapter):
    """The rows of the first batch."""
    x, _ = next(iter(adapter.get_tf_dataset()))
    return x.numpy()[:, 0].tolist()


def of_all_processes(make, dealt):
    """The rows of the first update, from all processes."""
    rows = []
    for process in range(PROCESSES):
        dealt(dealing(process))
        rows += rows_of(make())
    dealt(None)
    return rows


def arrays():
    return get_data_adapter(X, Y, batch_size=SIZE)


def data_set():
    return get_data_adapter(tf.data.Dataset.from_tensor_slices((X, Y)).batch(SIZE))


def test_arrays_dealt_whole_make_a_batch_of_all_processes(dealt):
    """Which is what is refused, and what makes a data set another thing."""
    assert len(rows_of(arrays())) == SIZE
    assert len(of_all_processes(arrays, dealt)) == PROCESSES * SIZE
    assert of_all_processes(data_set, dealt) == X[:SIZE, 0].tolist()


def fitted(told, dealt, data):
    with strategy_of("mirrored", 2).scope():
        model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
        model.compile(keras.optimizers.SGD(0.01), "mse")
        model.set_weights([np.ones((2, 1)), np.zeros(1)])
    distloss.prepare(model)
    dealt(told)
    model.fit(data(), batch_size=None, verbose=0, shuffle=False)
    return model


@pytest.mark.parametrize("adapter", [arrays, data_set])
@pytest.mark.parametrize("process", range(PROCESSES))
def test_fit_of_a_prepared_model_refuses_what_keras_deals(dealt, process, adapter):
    words = "deals them into 2 shares before. Set its auto_shard_dataset = False"
    with pytest.raises(ContextError, match=words):
        fitted(dealing(process), dealt, adapter)


@pytest.mark.parametrize("told", [None, dealing(1, is_on=False)])
def test_it_trains_on_what_keras_does_not_deal(dealt, told):
    model = fitted(told, dealt, arrays)
    alone = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    alone.compile(keras.optimizers.SGD(0.01), "mse")
    alone.set_weights([np.ones((2, 1)), np.zeros(1)])
    alone.fit(X, Y, batch_size=SIZE, verbose=0, shuffle=False)
    for got, wanted in zip(model.get_weights(), alone.get_weights(), strict=True):
        np.testing.assert_allclose(got, wanted, rtol=0, atol=1e-6)


class Processes(distloss.StrategyReplicas):
    """So many, as of Horovod."""

    keras_sums_metrics = False

    def __init__(self, count):
        vars(self)["number"] = count

    def count(self):
        return self.number


def test_processes_of_horovod_may_get_what_keras_deals_to_as_many(dealt):
    dealt(dealing(1))
    check_dealt_once(Processes(PROCESSES))
    with pytest.raises(ContextError, match="into 2 shares before"):
        check_dealt_once(Processes(PROCESSES + 1))


@pytest.mark.parametrize(
    ("adapter", "causes"), [(arrays, ["batch-grows-with-replicas"]), (data_set, [])]
)
def test_the_audit_names_whole_batches(dealt, adapter, causes):
    on_one, on_many = [rows_of(adapter())], []
    for process in range(PROCESSES):
        dealt(dealing(process))
        on_many.append(rows_of(adapter()))
    assert [one.cause for one in sharding_of(on_one, on_many)] == causes


def test_evaluate_refuses_it_too(dealt):
    model = fitted(None, dealt, arrays)
    dealt(dealing(0))
    with pytest.raises(ContextError, match="auto_shard_dataset"):
        model.evaluate(X, Y, batch_size=SIZE, verbose=0)
