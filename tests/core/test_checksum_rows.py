"""What checksums are made of: sums and norms of rows, weights, sums of slices."""

import numpy as np
import pytest
import tensorflow as tf

from distloss._formula import checksum_rows, checksums

STEP = tf.constant(3, tf.int64)
PIECE = checksum_rows._BY_ONE_THREAD
ROW = checksum_rows.ROW_LENGTH


def normal(*shape, seed=1):
    return np.random.default_rng(seed).normal(size=shape).astype("float32")


def row_weights():
    """What one element of a row each counts."""
    return checksum_rows.row_sums(tf.eye(ROW)).numpy().ravel()


@pytest.mark.parametrize("is_cpu", [True, False])
@pytest.mark.parametrize("size", [PIECE, PIECE + ROW, 2 * PIECE, 3 * PIECE + 5 * ROW])
def test_tensors_are_read_in_pieces_as_at_once(size, is_cpu, monkeypatch):
    monkeypatch.setattr(checksum_rows, "_has_only_cpus", lambda: is_cpu)
    values = normal(1, size)
    rows = values.reshape(-1, ROW).astype("float64")
    pieces = checksum_rows._pieces(tf.constant(values))
    assert len(pieces) == (-(-size // PIECE) if is_cpu else 1)
    np.testing.assert_array_equal(np.concatenate(pieces), rows.ravel())
    got = checksum_rows.row_sums(tf.constant(values)).numpy()
    assert got.shape == (1, size // ROW)
    np.testing.assert_allclose(got[0], rows @ row_weights(), rtol=0, atol=1e-5)
    norm = checksum_rows.norms(tf.constant(values)).numpy()
    np.testing.assert_allclose(norm, [np.linalg.norm(rows)], rtol=1e-6)


@pytest.mark.parametrize("size", [0, 37, PIECE + 1])
@pytest.mark.parametrize("is_known", [True, False])
def test_the_norm_of_slices_of_any_number_of_elements(size, is_known):
    values = normal(1, size)
    norm = tf.function(checksum_rows.norms)
    spec = tf.TensorSpec([1, size if is_known else None])
    got = norm.get_concrete_function(spec)(tf.constant(values)).numpy()
    wanted = np.linalg.norm(values.astype("float64"))
    np.testing.assert_allclose(got, [wanted], rtol=1e-6)


def test_very_large_tensors_are_read_at_once():
    size = checksum_rows._PIECES * PIECE
    assert len(checksum_rows._pieces(tf.zeros([1, size]))) == checksum_rows._PIECES
    assert len(checksum_rows._pieces(tf.zeros([1, size + ROW]))) == 1


def test_weights_are_drawn_once_for_a_step():
    tensors = [tf.constant(normal(n, seed=n)) for n in (4096, 8192, 100, 12288)]
    groups = checksums.groups_of([tensors])

    @tf.function
    def of_parts():
        draw = lambda count: checksum_rows.drawn(STEP, count)  # noqa: E731
        return [x.sums for x in checksums.of_parts(groups, tensors, draw)]

    graph = of_parts.get_concrete_function().graph
    drawing = [
        x for x in graph.get_operations() if x.type.startswith("StatelessRandom")
    ]
    assert len(drawing) == 1
    weights = checksum_rows.drawn(STEP, 12288 // ROW).numpy()
    for group, got in zip(groups, of_parts(), strict=True):
        tensor = tensors[group.at[0]].numpy()
        if tensor.size >= 4096:
            rows = tensor.astype("float64").reshape(-1, ROW)
            sums = rows @ row_weights()
            expected = weights[: len(sums)] @ sums
            np.testing.assert_allclose(got.numpy(), [expected], rtol=1e-5, atol=1e-3)


def slices_of(values, indices, index_dtype="int64"):
    return tf.IndexedSlices(
        tf.constant(values), tf.constant(indices, index_dtype), tf.constant([1 << 40])
    )


def sum_of(values, indices, **options):
    return float(checksum_rows.sum_of_slices(slices_of(values, indices, **options))[0])


@pytest.mark.parametrize("width", [5, 32, 64])
def test_slices_are_summed_in_any_order(width):
    values, indices = normal(60, width), np.arange(60) * 7 % 23
    order = np.random.default_rng(2).permutation(60)
    expected = sum_of(values, indices)
    assert sum_of(values[order], indices[order]) == pytest.approx(expected, abs=1e-4)
    # those of one row may also have been added up
    added = np.zeros((23, width), "float32")
    np.add.at(added, indices, values)
    assert sum_of(added, np.arange(23)) == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("width", [5, 32, 64])
def test_slices_of_other_rows_are_another_sum(width):
    values, indices = normal(20, width), np.arange(20)
    before = sum_of(values, indices)
    for at in range(19):
        swapped = indices.copy()
        swapped[[at, at + 1]] = at + 1, at
        assert abs(sum_of(values, swapped) - before) > 1e-3


def test_rows_have_weights_of_their_own_up_to_very_many():
    """Also those far apart, as int32 or int64, of either sign, and none small."""
    indices = np.concatenate([np.arange(100_000), (1 << 31) + np.arange(1000)])
    ones = np.ones((1, 1), "float32")
    some = indices[::1009]
    found = np.array([sum_of(ones, [index]) for index in some]) / np.cos(1.0)
    assert len(np.unique(found)) == len(found)
    assert np.abs(found).min() >= 0.5
    assert np.abs(found).max() <= 1.0
    assert 0.3 < (found > 0).mean() < 0.7
    assert sum_of(ones, [77]) == sum_of(ones, [77], index_dtype="int32")


def test_no_slices_have_no_sum():
    assert sum_of(np.zeros((0, 64), "float32"), np.zeros(0)) == 0.0
