"""The first batch of a script is the one that `fit` hands to its training step."""

import inspect

import keras
import numpy as np
import pytest
import tensorflow as tf

from distloss._audit.child import script_batch
from distloss._audit.child.contract import checked_batch

RNG = np.random.default_rng(0)
X = RNG.normal(size=(50, 3)).astype("float32")
Y = RNG.integers(0, 3, size=(50,))
WEIGHT = RNG.uniform(1, 2, size=(50,)).astype("float32")
CLASSES = {0: 1.0, 1: 2.0, 2: 4.0}
PAIRS = tf.data.Dataset.from_tensor_slices((X, Y))


class Batches(keras.utils.PyDataset):
    """Batches of ten."""

    def __len__(self):
        return 5

    def __getitem__(self, index):
        rows = slice(10 * index, 10 * index + 10)
        return X[rows], Y[rows]


def generated():
    while True:
        yield X[:7], Y[:7], WEIGHT[:7]


CASES = {
    "arrays": {"x": X, "y": Y},
    "arrays in batches": {"x": X, "y": Y, "batch_size": 12},
    "weights": {"x": X, "y": Y, "sample_weight": WEIGHT, "batch_size": 12},
    "class weights": {"x": X, "y": Y, "class_weight": CLASSES},
    "few rows": {"x": X[:9], "y": Y[:9]},
    "lists of arrays": {"x": [X, X[:, :1]], "y": {"a": Y, "b": Y}, "batch_size": 5},
    "split": {"x": X, "y": Y, "validation_split": 0.8, "batch_size": 32},
    "data set": {"x": PAIRS.batch(8)},
    "infinite data set": {"x": PAIRS.repeat().batch(8)},
    "data set and class weights": {"x": PAIRS.batch(8), "class_weight": CLASSES},
    "data set of dictionaries": {
        "x": PAIRS.map(lambda x, y: ({"x": x}, {"y": y}, 2.0)).batch(8)
    },
    "PyDataset": {"x": Batches()},
    "PyDataset and class weights": {"x": Batches(), "class_weight": CLASSES},
    "generator": {"x": generated},
}


class Caught(Exception):
    """Ends `fit` in its first step."""


class Recorder(keras.Model):
    """Keeps what its first step gets."""

    def train_step(self, data):
        self.seen = tf.nest.map_structure(lambda leaf: leaf, data)
        raise Caught

    def call(self, inputs):
        return inputs


def arguments(case):
    made = dict(CASES[case])
    if inspect.isgeneratorfunction(made["x"]):
        made["x"] = made["x"]()
    return made


def model():
    made = Recorder()
    made.compile("sgd", "mse", run_eagerly=True)
    return made


def by_fit(case):
    recorder = model()
    with pytest.raises(Caught):
        recorder.fit(**arguments(case), shuffle=False, verbose=0)
    return recorder.seen


def captured(case):
    given = inspect.signature(keras.Model.fit).bind(None, **arguments(case))
    given.apply_defaults()
    return script_batch.of_fit(given.arguments)


def as_audited(batch):
    rows, _ = batch.cut(None)
    return checked_batch(script_batch.as_it_is(rows), 2, model())


@pytest.mark.parametrize("case", CASES)
def test_the_batch_is_the_one_of_fit(case):
    wanted, found = by_fit(case), as_audited(captured(case))
    wanted = tuple(one for one in wanted if one is not None)
    found = tuple(one for one in found if one is not None)
    tf.nest.assert_same_structure(wanted, found)
    pairs = zip(tf.nest.flatten(wanted), tf.nest.flatten(found), strict=True)
    for one, other in pairs:
        np.testing.assert_array_equal(one, other)
        assert one.dtype == other.dtype


@pytest.mark.parametrize(
    ("case", "is_full"),
    [
        ("arrays", False),
        ("lists of arrays", True),
        ("few rows", True),
        ("split", True),
        ("data set", False),
        ("infinite data set", True),
        ("generator", False),
    ],
)
def test_it_is_known_whether_all_batches_have_as_many_rows(case, is_full):
    assert captured(case).is_full == is_full


def test_a_batch_is_cut_to_the_rows_that_are_asked_for():
    batch = script_batch.Batch(({"x": tf.constant(X)}, None, WEIGHT))
    (inputs, missing, weight), note = batch.cut(4)
    np.testing.assert_array_equal(inputs["x"], X[:4])
    assert missing is None
    np.testing.assert_array_equal(weight, WEIGHT[:4])
    assert "first 4 of the 50" in note
    assert batch.cut(None)[1] == batch.cut(50)[1] == ""
