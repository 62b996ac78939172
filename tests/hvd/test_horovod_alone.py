"""Horovod of one process, for a step that is alone: what stands in for what."""

import horovod.tensorflow as hvd
import numpy as np
import pytest
import tensorflow as tf

from distloss._keras.private_names.of_others import BASICS_OF_SETS
from distloss.replicas import horovod_alone


@pytest.fixture
def alone(monkeypatch):
    """A process among two, as far as is asked: Horovod does not run here."""
    monkeypatch.setattr(horovod_alone, "processes", lambda: 2)
    monkeypatch.setattr(horovod_alone, "horovod", lambda: hvd)
    return horovod_alone.horovod_of_one


def test_horovod_has_the_functions_that_are_exchanged():
    operations = hvd.mpi_ops
    for name in horovod_alone._OPERATIONS:
        assert callable(getattr(operations.MPI_LIB, name)), name
    for name in horovod_alone._NUMBERS:
        assert callable(getattr(operations._basics.MPI_LIB_CTYPES, name)), name
    for name in horovod_alone._OF_SETS:
        assert callable(getattr(operations._basics, name)), name
    assert BASICS_OF_SETS.found() is operations._basics


def test_every_operation_that_communicates_is_exchanged():
    """All that the library has: a new one would be noticed here."""
    made = {name for name in dir(hvd.mpi_ops.MPI_LIB) if name.startswith("horovod_")}
    names = {name for name in made if "eager_fallback" not in name}
    assert names == set(horovod_alone._OPERATIONS)


def test_sums_and_numbers_are_those_of_one(alone):
    values = tf.constant([3.0, -1.0])
    with alone(lambda: True):
        assert hvd.size() == hvd.local_size() == 1
        assert hvd.rank() == hvd.local_rank() == 0
        assert hvd.global_process_set.size() == 1
        assert int(hvd.size_op()) == 1
        for op in (hvd.Sum, hvd.Average):
            np.testing.assert_array_equal(hvd.allreduce(values, op=op), values)
        halved = hvd.allreduce(values, op=hvd.Sum, prescale_factor=0.5)
        np.testing.assert_array_equal(halved, [1.5, -0.5])
        first, second = hvd.grouped_allreduce([values, values[:1]], op=hvd.Average)
        np.testing.assert_array_equal(first, values)
        np.testing.assert_array_equal(second, values[:1])
        for function in (hvd.allgather, lambda x: hvd.broadcast(x, 0)):
            np.testing.assert_array_equal(function(values), values)
        with tf.GradientTape() as tape:
            tape.watch(values)
            loss = tf.reduce_sum(values**2)
        tape = hvd.DistributedGradientTape(tape)
        [gradient] = tape.gradient(loss, [values])
        np.testing.assert_array_equal(gradient, 2 * values)


def test_others_are_left_as_they_are(alone):
    before = hvd.mpi_ops.MPI_LIB
    with alone(lambda: False), pytest.raises(ValueError, match="not been initialized"):
        hvd.size()
    with pytest.raises(ZeroDivisionError), alone(lambda: True):
        raise ZeroDivisionError
    assert hvd.mpi_ops.MPI_LIB is before
