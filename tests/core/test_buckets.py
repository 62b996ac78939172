"""Gradients that are summed in buckets: which are, and that the update is the same."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from conftest import strategy_of
from waiting import waits_for

import distloss
from distloss import HorovodReplicas, StrategyReplicas
from distloss._errors import ArgumentError, ArgumentTypeError
from distloss._formula import sparse
from distloss.replicas.buckets import buckets, of_one_dtype, packed, unpacked

pytestmark = pytest.mark.as_users_run
ALL = 2**40


def tensors_of(*sizes):
    """float32 tensors of these bytes."""
    return [tf.zeros([size // 4]) for size in sizes]


@pytest.mark.parametrize(
    ("sizes", "bucket_bytes", "wanted"),
    [
        ((8, 8, 8), 1, [[2], [1], [0]]),
        ((8, 8, 8), ALL, [[2, 1, 0]]),
        ((8, 8, 8, 8, 8), 16, [[4, 3], [2, 1], [0]]),
        # what is large enough waits for nothing, and the small ones go on
        ((400, 8, 8, 400, 8, 400), 100, [[5], [3], [0], [4, 2, 1]]),
        # but what comes last, such as the rows of all, is sent first
        ((400, 8, 400, 8, 8), 100, [[4, 3], [2], [0], [1]]),
        ((), 1, []),
    ],
)
def test_what_travels_together(sizes, bucket_bytes, wanted):
    assert buckets(tensors_of(*sizes), bucket_bytes) == wanted


def test_few_numbers_of_which_no_one_knows_how_many_travel_with_others():
    function = tf.function(lambda x: found.extend(buckets([x, *tensors_of(8, 8)], 16)))
    found = []
    function.get_concrete_function(tf.TensorSpec([None]))
    assert found == [[2, 1], [0]]


def test_slices_travel_by_themselves():
    slices = tf.IndexedSlices(tf.zeros([2, 1]), tf.constant([0, 1]), [3, 1])
    assert buckets([*tensors_of(8), slices, *tensors_of(8)], ALL) == [[2], [1], [0]]


def test_a_gradient_that_forgot_its_shape_has_that_of_its_variable():
    found = []

    def traced(x):
        found.append(sparse.shaped(x, tf.zeros([3, 2])))

    for shape in (None, [None, 2], [3, 2]):
        tf.function(traced).get_concrete_function(tf.TensorSpec(shape))
    assert [x.shape for x in found] == [[3, 2]] * 3


def test_dtypes_travel_apart():
    tensors = [tf.zeros(2), tf.zeros(2, tf.float64), tf.zeros(2)]
    assert of_one_dtype(tensors, ALL) == [[0, 2], [1]]
    assert of_one_dtype(tensors, None) == [[0, 2], [1]]
    assert of_one_dtype(tensors, 1) == [[2], [0], [1]]


@pytest.mark.parametrize("shapes", [[[2, 3], [], [4], [0, 2]], [[2, 2]]])
def test_what_was_packed_is_unpacked(shapes):
    random = np.random.default_rng(1)
    tensors = [tf.constant(random.normal(size=shape)) for shape in shapes]
    vector = packed(tensors)
    for got, wanted in zip(unpacked(vector, tensors), tensors, strict=True):
        assert got.shape == wanted.shape
        np.testing.assert_array_equal(got, wanted)


@pytest.mark.parametrize("replicas", [HorovodReplicas, StrategyReplicas])
@pytest.mark.parametrize(
    ("bucket_bytes", "error", "words"),
    [
        (0, ArgumentError, "at least 1. Got bucket_bytes=0"),
        (1.5, ArgumentTypeError, "Got bucket_bytes=1.5 of type float"),
        (True, ArgumentTypeError, "Got bucket_bytes=True of type bool"),
    ],
)
def test_other_sizes_are_refused(replicas, bucket_bytes, error, words):
    with pytest.raises(error, match=words):
        replicas(bucket_bytes=bucket_bytes)


@pytest.mark.parametrize("replicas", [HorovodReplicas, StrategyReplicas])
def test_the_size_is_saved(replicas):
    one = replicas(bucket_bytes=7)
    assert type(one).from_config(one.get_config()).bucket_bytes == 7
    of_earlier_release = type(one).from_config({})
    assert of_earlier_release.bucket_bytes == replicas().bucket_bytes
    assert one == replicas()  # the same share the batch


class Mixed(keras.layers.Layer):
    """Weights of two dtypes, an embedding, and one that has no gradient."""

    def build(self, _):
        self.table = keras.layers.Embedding(5, 3)
        self.wide = self.add_weight((3, 2), dtype="float64", name="wide")
        self.unused = self.add_weight((2,), name="unused")

    def call(self, ids):
        rows = tf.reduce_mean(self.table(ids), 1)
        return tf.cast(tf.cast(rows, tf.float64) @ self.wide, tf.float32)


ROWS = 7  # of which the last of 3 replicas gets 1, then none
IDS = np.random.default_rng(2).integers(0, 5, size=(ROWS, 4)).astype("int32")
Y = np.random.default_rng(3).normal(size=(ROWS, 2)).astype("float32")


def trained(strategy, replicas, **options):
    """The weights after two clipped steps of a prepared model, the last of it short."""
    with strategy.scope():
        keras.utils.set_random_seed(1)
        hidden = keras.layers.Dense(4, "tanh")
        layers = [keras.Input((4,), dtype="int32"), Mixed(), hidden]
        model = keras.Sequential([*layers, keras.layers.Dense(2)])
        rule = keras.optimizers.SGD(0.1, momentum=0.9, clipnorm=0.1)
        model.compile(rule, "mse", jit_compile=False)
        distloss.prepare(model, replicas=replicas, **options)
    with pytest.warns(UserWarning, match="Gradients do not exist"):
        model.fit(IDS, Y, batch_size=6, epochs=2, shuffle=False, verbose=0)
    return model.get_weights()


@pytest.fixture(scope="module")
def on_one_device():
    return trained(tf.distribute.get_strategy(), None)


@pytest.mark.parametrize(
    ("count", "bucket_bytes", "check_sums"),
    [
        (3, 1, False),
        (3, 1, True),
        (2, 2**20, False),
        (2, ALL, True),
    ],
)
@pytest.mark.slow
def test_buckets_of_any_size_give_the_same_update(
    on_one_device, count, bucket_bytes, check_sums
):
    replicas = StrategyReplicas(bucket_bytes=bucket_bytes)
    strategy = strategy_of("mirrored", count)
    weights = trained(strategy, replicas, check_sums=check_sums)
    for got, wanted in zip(weights, on_one_device, strict=True):
        np.testing.assert_allclose(got, wanted, rtol=0, atol=2e-6)


def graph_of_sums(replicas):
    """In which four replicas sum two gradients by collectives."""
    strategy = strategy_of("collective")

    @tf.function
    def sums():
        def of_one():
            x = tf.random.uniform([3])
            return replicas.sum_gradients([tf.exp(x), tf.sin(x)])

        return strategy.run(of_one)

    return sums.get_concrete_function().graph


@pytest.mark.parametrize(
    ("bucket_bytes", "wanted"),
    # TensorFlow keeps collectives in order, so that the second waits for the first
    [(1, [["Sin"], ["Exp", "Sin"]]), (ALL, [["Exp", "Sin"]]), (None, [["Exp", "Sin"]])],
)
def test_a_bucket_is_summed_before_the_next_gradient_is_known(bucket_bytes, wanted):
    graph = graph_of_sums(StrategyReplicas(bucket_bytes=bucket_bytes))
    found = waits_for(graph, ("CollectiveReduceV2", "CollectiveReduce"), ("Exp", "Sin"))
    assert sorted(map(tuple, found)) == sorted(map(tuple, 4 * wanted))
