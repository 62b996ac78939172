"""What is known of the batches after the first, which are read where nothing tells."""

import inspect
import itertools

import keras
import numpy as np
import pytest
import tensorflow as tf

from distloss._audit.child import epoch, script_batch
from distloss._audit.child.epoch import rows_and_count_of

X = np.arange(50, dtype="float32")[:, None]


class Sequence(keras.utils.PyDataset):
    """Batches of so many rows."""

    def __init__(self, size, broken=99):
        super().__init__()
        self.size, self.broken = size, broken

    def __len__(self):
        return -(-len(X) // self.size)

    def __getitem__(self, index):
        if index == self.broken:
            raise OSError("a file that is not there")
        return X[index * self.size :][: self.size], X[index * self.size :][: self.size]


def batches(*sizes):
    for size in sizes:
        yield X[:size], X[:size]


def generated(*sizes):
    spec = (tf.TensorSpec([None, 1]),) * 2
    made = lambda: batches(*sizes)  # noqa: E731
    return tf.data.Dataset.from_generator(made, output_signature=spec)


@pytest.mark.parametrize(
    ("make", "steps", "wanted"),
    [
        (lambda: batches(8, 8, 8), None, (8, -1)),
        (lambda: batches(8, 8, 3), None, (8, 19)),
        (lambda: batches(8, 3, 8), None, (0, 0)),
        (lambda: batches(8, 8, 9), None, (0, 0)),
        (lambda: batches(8), None, (8, -1)),
        (lambda: batches(8, 8, 3), 2, (8, -1)),
        (lambda: batches(8, 8, 3), 3, (8, 19)),
        (lambda: itertools.cycle(batches(8)), 20, (8, -1)),
        (lambda: itertools.cycle(batches(8)), None, (0, 0)),
        (lambda: batches(*[8] * 99), 20, (8, -1)),
        (lambda: batches(*[8] * 99), None, (0, 0)),
        (lambda: Sequence(25), None, (25, -1)),
        (lambda: Sequence(12), None, (12, 50)),
        (lambda: Sequence(12, broken=3), None, (0, 0)),
        (lambda: Sequence(12, broken=3), 3, (12, -1)),
        (lambda: generated(8, 8, 8), None, (8, -1)),
        (lambda: generated(8, 8, 2), None, (8, 18)),
    ],
)
def test_the_batches_of_an_epoch_are_read(make, steps, wanted, monkeypatch):
    monkeypatch.setattr(epoch, "SECONDS", 60.0)
    data = make()
    first = script_batch.first_of(data)
    assert rows_and_count_of(data, first, steps) == wanted


def test_slow_batches_are_not_waited_for(monkeypatch):
    monkeypatch.setattr(epoch, "SECONDS", -1.0)
    data = batches(8, 8, 8)
    assert rows_and_count_of(data, next(data), None) == (0, 0)


def captured(x, **given):
    bound = inspect.signature(keras.Model.fit).bind(None, x, **given)
    bound.apply_defaults()
    return script_batch.of_fit(bound.arguments)


def test_what_was_read_is_said_and_so_is_what_is_not_audited():
    read = captured(batches(8, 8), validation_data=(X, X))
    assert (read.size, read.count, read.is_full) == (8, -1, True)
    assert [what for what, _ in read.notes] == ["batches of later epochs", "validation"]
    known = captured(tf.data.Dataset.from_tensor_slices((X, X)).batch(10))
    assert (known.size, known.count, known.is_full, known.notes) == (10, 50, True, ())
    assert captured(X, y=X, validation_split=0.5).notes == read.notes[1:]
    assert not captured(batches(8, 3, 8)).notes


def test_a_data_set_that_was_dealt_out_is_one_batch_again():
    strategy = tf.distribute.MirroredStrategy(
        ["CPU:0", "CPU:1"], cross_device_ops=tf.distribute.ReductionToOneDevice()
    )
    data = tf.data.Dataset.from_tensor_slices((X, {"y": X})).batch(10)
    for dealt in (
        strategy.experimental_distribute_dataset(data),
        strategy.distribute_datasets_from_function(lambda _: data.unbatch().batch(5)),
    ):
        batch = captured(dealt)
        np.testing.assert_array_equal(batch.rows[0], X[:10])
        np.testing.assert_array_equal(batch.rows[1]["y"], X[:10])
        assert [part[0].shape[0] for part in batch.dealt] == [5, 5]
        np.testing.assert_array_equal(batch.dealt[1][0], X[5:10])
