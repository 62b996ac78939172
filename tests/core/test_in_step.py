"""Empty batches of every kind, as `in_step` adds them."""

import pytest
import tensorflow as tf

from distloss import DistlossError, OneDevice
from distloss.data import empty_batches, in_step

RAGGED = tf.ragged.constant([[[1.0, 2.0]], [], [[3.0, 4.0]]], inner_shape=(2,))
DEEP = tf.ragged.constant([[[1, 2], []], [], [[3]]], tf.int32, row_splits_dtype="int32")
UNIFORM = tf.RaggedTensor.from_uniform_row_length(
    tf.ragged.constant([[1], [2, 3], [], [4], [], [5]]), 2
)
SPARSE = tf.sparse.from_dense([[0, 1], [2, 0], [0, 3]])
DENSE = tf.reshape(tf.range(12.0), [3, 4])
DATA = {
    "dense": DENSE,
    "words": tf.constant(["a", "b", "c"]),
    "ragged": RAGGED,
    "deep": DEEP,
    "uniform": UNIFORM,
    "sparse": SPARSE,
    "nested": (DENSE, {"x": RAGGED, "nothing": None}),
}


class Ahead(OneDevice):
    """Another process has five batches."""

    def maximum(self, local, name="maximum"):
        return tf.maximum(local, 5)


class Alone(OneDevice):
    """All other processes are done."""

    def maximum(self, local, name="maximum"):
        return local


def rows_of(batch):
    leaf = tf.nest.flatten(batch)[0]
    return len(leaf.numpy()) if isinstance(leaf, tf.Tensor) else leaf.shape[0]


@pytest.mark.parametrize("kind", DATA)
def test_empty_batches_are_of_the_same_spec(kind):
    dataset = tf.data.Dataset.from_tensor_slices(DATA[kind]).batch(2)
    joined = in_step(dataset, replicas=Ahead())
    assert joined.element_spec == dataset.element_spec
    assert [rows_of(batch) for batch in joined] == [2, 1, 0, 0, 0]
    assert len(joined) == 5


def test_open_lengths_and_static_rows():
    dataset = tf.data.Dataset.from_tensor_slices(DENSE[..., None])
    dataset = dataset.padded_batch(3, padded_shapes=(None, 1), drop_remainder=True)
    *_, empty = in_step(dataset, replicas=Ahead())
    assert empty.shape == [0, 0, 1]


def test_numbers_beside_the_rows_stay_numbers():
    dataset = tf.data.Dataset.from_tensors((DENSE, 5))
    *_, (empty, number) = in_step(dataset, replicas=Ahead())
    assert (empty.shape, number.shape, number.dtype) == ([0, 4], [], tf.int32)


def test_optional_values_are_there_and_empty():
    dataset = tf.data.Dataset.from_tensors(tf.experimental.Optional.from_value(DENSE))
    (empty,) = empty_batches(dataset, 1)
    assert empty.get_value().shape == [0, 4]


def test_what_has_no_empty_batch_is_refused():
    windows = tf.data.Dataset.range(5).window(2)
    with pytest.raises(DistlossError, match="DatasetSpec"):
        in_step(windows, replicas=Ahead())
    spec = tf.TensorSpec(None, tf.float32)
    unknown = tf.data.Dataset.from_generator(
        lambda: iter([DENSE]), output_signature=spec
    )
    with pytest.raises(DistlossError, match="of known rank"):
        in_step(unknown, replicas=Ahead(), batches=1)


def test_an_empty_data_set_is_refused():
    empty = tf.data.Dataset.from_tensor_slices(DENSE).batch(2).take(0)
    with pytest.raises(DistlossError, match="with batches"):
        in_step(empty, replicas=Alone())
    assert len(in_step(empty, replicas=Ahead())) == 5
