"""What a replica without rows computes with, and that nothing of it remains."""

import keras
import numpy as np
import pytest
import tensorflow as tf
import tf_keras

import distloss
from distloss._formula.empty import rows_of, with_a_row, without_it, zeros_without_rows

pytestmark = pytest.mark.as_users_run
RAGGED = tf.RaggedTensorSpec([None, None, 2], tf.float32, ragged_rank=1)
DEEP = tf.RaggedTensorSpec([None, None, None], tf.int64, ragged_rank=2)
UNIFORM = tf.RaggedTensorSpec([None, 3, None], tf.int32, 2, tf.int32)
FIRST_ROWS = {
    "dense": tf.constant([[1.0, 2.0], [3.0, 4.0]]),
    "open": tf.constant([[[1], [2]], [[3], [4]]], tf.int64),
    "words": tf.constant(["a", "b"]),
    "sparse": tf.sparse.from_dense([[0, 1, 2], [3, 0, 0]]),
    "ragged": tf.ragged.constant([[[1.0, 2.0]], []], ragged_rank=1, inner_shape=(2,)),
    "deep": tf.ragged.constant([[[1, 2], []], []], tf.int64),
}
SPECS = {
    "dense": tf.TensorSpec([None, 2]),
    "open": tf.TensorSpec([None, None, 1], tf.int64),
    "words": tf.TensorSpec([None], tf.string),
    "sparse": tf.SparseTensorSpec([None, 3], tf.int32),
    "ragged": RAGGED,
    "deep": DEEP,
}
ONE_ROW = {
    "dense": [[0.0, 0.0]],
    "open": [[[0], [0]]],
    "words": [b""],
    "sparse": [[0, 0, 0]],
    "ragged": [[[0.0, 0.0]]],
    "deep": [[[0]]],
}


def listed(value):
    if isinstance(value, tf.SparseTensor):
        value = tf.sparse.to_dense(value)
    if isinstance(value, tf.RaggedTensor):
        return value.to_list()
    return value.numpy().tolist()


def without_rows(batch):
    def empty(leaf):
        if isinstance(leaf, tf.SparseTensor):
            return tf.sparse.slice(leaf, [0, 0], [0, 3])
        return leaf[:0]

    return tf.nest.map_structure(empty, batch)


def in_graph(function, spec):
    return tf.function(function, input_signature=[spec], autograph=False)


@pytest.mark.parametrize("run", ["eager", "graph"])
def test_no_rows_become_one_of_zeros_and_rows_stay(run):
    function = with_a_row
    if run == "graph":
        function = in_graph(function, SPECS)
    full, empty = function(FIRST_ROWS), function(without_rows(FIRST_ROWS))
    for name, row in ONE_ROW.items():
        assert listed(full[name]) == listed(FIRST_ROWS[name]), name
        assert listed(empty[name]) == row, name
        assert full[name].dtype == empty[name].dtype == FIRST_ROWS[name].dtype


def test_static_shapes_stay_but_for_the_rows():
    shapes = []

    def function(batch):
        padded = with_a_row(batch)
        shapes.append({name: leaf.shape.as_list() for name, leaf in padded.items()})
        return padded

    in_graph(function, SPECS).get_concrete_function()
    wanted = {name: spec.shape.as_list() for name, spec in SPECS.items()}
    assert shapes == [wanted]


def test_lengths_of_none_become_one():
    spec = tf.TensorSpec([None, None, 4])
    padded = in_graph(with_a_row, spec)(tf.zeros([0, 0, 4]))
    assert padded.shape == [1, 1, 4]
    uniform = tf.RaggedTensor.from_uniform_row_length(
        tf.ragged.constant([[1], [2, 3], []], dtype=tf.int32, row_splits_dtype="int32"),
        3,
    )
    padded = in_graph(with_a_row, UNIFORM)(uniform[:0])
    assert padded.to_list() == [[[0], [0], [0]]]


def test_what_is_no_row_stays():
    shared = tf.ones([1, 3])
    data = (tf.zeros([0, 2]), (None, shared, tf.constant(5.0)))
    x, (nothing, kept, scalar) = with_a_row(data)
    assert x.shape == [1, 2]
    assert nothing is None
    assert kept is shared
    assert float(scalar) == 5

    spec = (tf.TensorSpec([None, 2]), tf.TensorSpec([None, 3]))
    x, kept = tf.function(lambda *data: with_a_row(data), input_signature=spec)(
        tf.zeros([0, 2]), tf.ones([2, 3])
    )
    assert (x.shape, kept.shape) == ([1, 2], [2, 3])
    x, kept = tf.function(lambda *data: with_a_row(data), input_signature=spec)(
        tf.ones([2, 2]), tf.ones([0, 3])
    )
    assert (x.shape, kept.shape) == ([2, 2], [0, 3])


def test_a_batch_of_known_rows_is_left_alone():
    data = {"x": tf.ones([3, 2]), "y": tf.ones([3])}
    assert with_a_row(data) is data
    assert without_it(data, 3) is data
    assert zeros_without_rows(data, 3) is data
    assert rows_of(data) == 3
    assert rows_of((None, tf.constant(2.0))) == 1


@pytest.mark.parametrize("k", [keras, tf_keras])
def test_outputs_lose_the_row_and_keep_their_masks(k):
    layer = k.layers.Embedding(5, 2, mask_zero=True)
    shapes = []

    @tf.function(input_signature=[tf.TensorSpec([None, 3], tf.int32)])
    def function(tokens):
        outputs = layer(with_a_row(tokens))
        outputs = without_it([outputs, None], rows_of(tokens))[0]
        shapes.append(outputs.shape.as_list())
        return outputs, outputs._keras_mask

    tokens = tf.constant([[1, 2, 0], [3, 0, 0]])
    for count in (2, 0):
        outputs, mask = function(tokens[:count])
        np.testing.assert_array_equal(outputs, layer(tokens)[:count])
        np.testing.assert_array_equal(mask, tokens[:count].numpy() != 0)
    assert shapes[0] == [None, 3, 2]


def test_outputs_of_each_kind_lose_the_row():
    @tf.function(input_signature=[SPECS])
    def function(batch):
        padded = with_a_row(batch)
        return without_it(padded, rows_of(batch))

    full, empty = function(FIRST_ROWS), function(without_rows(FIRST_ROWS))
    for name, leaf in full.items():
        assert listed(leaf) == listed(FIRST_ROWS[name])
        assert listed(empty[name]) == []


def test_an_output_may_be_longer_than_the_batch():
    by_token = tf.ones([6, 2])
    assert without_it(by_token, tf.constant(3)).shape == [6, 2]
    assert without_it(by_token, tf.constant(0)).shape == [0, 2]


def test_nothing_of_the_row_remains_not_even_nan():
    table = tf.Variable(tf.ones([3, 2]))

    @tf.function(input_signature=[SPECS["dense"], tf.TensorSpec([None], tf.int32)])
    def function(x, ids):
        count = rows_of((x, ids))
        x, ids = with_a_row((x, ids))
        slices = tf.IndexedSlices(tf.gather(table, ids) / 0, ids, tf.constant([3, 2]))
        found = [tf.reduce_sum(x / x, 0), None, slices]
        return zeros_without_rows(found, count)

    ids = tf.constant([2, 2])
    dense, nothing, slices = function(FIRST_ROWS["dense"], ids)
    assert (dense.numpy().tolist(), nothing) == ([2, 2], None)
    assert np.isinf(slices.values).all()
    dense, _nothing, slices = function(FIRST_ROWS["dense"][:0], ids[:0])
    assert dense.numpy().tolist() == [0, 0]
    assert tf.convert_to_tensor(slices).numpy().tolist() == [[0, 0]] * 3


def test_a_compiled_step_may_be_without_rows():
    function = tf.function(
        lambda x: tf.reduce_sum(with_a_row(x) + 1),
        input_signature=[SPECS["dense"]],
        jit_compile=True,
    )
    assert [float(function(tf.ones([n, 2]))) for n in (3, 0)] == [12, 2]


@pytest.mark.slow
def test_arrays_of_a_generator_are_not_written_to(four):
    """As TensorFlow itself does: examples/upstream/tensorflow_generated_views.py."""
    memory = np.zeros(32 * 16 + 16, "float32")
    start = -memory.ctypes.data // 4 % 16
    rows = memory[start : start + 32 * 16].reshape(32, 16)  # from 64 bytes on
    rows[:] = values = np.random.default_rng(3).normal(size=rows.shape)
    batches = tf.data.Dataset.from_generator(
        lambda: ((rows[i : i + 8], rows[i : i + 8, :1]) for i in range(0, 32, 8)),
        output_signature=(tf.TensorSpec([None, 16]), tf.TensorSpec([None, 1])),
    )
    with four.scope():
        layers = keras.layers.Rescaling(2.0), keras.layers.Dense(1)
        model = keras.Sequential([keras.Input((16,)), *layers])
        model.compile("sgd", "mse")
    distloss.prepare(model).fit(batches, shuffle=False, verbose=0)
    np.testing.assert_array_equal(rows, values.astype("float32"))


def test_a_copy_passes_gradients_on():
    @tf.function(input_signature=[tf.TensorSpec([None])])
    def gradient(x):
        with tf.GradientTape() as tape:
            tape.watch(x)
            value = tf.reduce_sum(with_a_row(x) ** 2)
        return tape.gradient(value, x)

    assert gradient(tf.constant([1.0, 2.0])).numpy().tolist() == [2.0, 4.0]
