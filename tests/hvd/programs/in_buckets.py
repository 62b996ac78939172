"""Sums of Horovod in buckets of one byte, of the default size, and of everything."""

import pathlib
import sys

import horovod.tensorflow as hvd
import numpy as np
import problem
import tensorflow as tf

import distloss
from distloss import DistributedLoss, DistributedOptimizer, HorovodReplicas

sys.path.append(str(pathlib.Path(__file__).parents[2] / "helpers"))
from waiting import waits_for

SIZES = {"one byte": 1, "default": None, "everything": 2**40}


def replicas_of(name, **options):
    size = SIZES[name]
    return HorovodReplicas(
        **options, **({} if size is None else {"bucket_bytes": size})
    )


def mine():
    return problem.batches(problem.dealt(hvd.rank()))


def fitted(name):
    """Clipped, and of the third process at times without rows."""
    replicas = replicas_of(name)
    loss = DistributedLoss("mse", reduction=problem.WEIGHTED, replicas=replicas)
    rule = problem.OPTIMIZERS["SGD"]()
    model = problem.dense(DistributedOptimizer(rule, replicas=replicas), loss)
    return problem.fitted(model, mine())


def prepared(name):
    """By a step that checks its sums."""
    model = problem.dense(problem.OPTIMIZERS["SGD"](), "mse")
    distloss.prepare(model, replicas=replicas_of(name), check_sums=True)
    return problem.fitted(model, mine())


def gradients_of(rank):
    """Of two dtypes, dense and sparse, of more than a default bucket."""
    random = np.random.default_rng(rank)
    shapes = [[3], [600, 600], [], [2, 5], [700, 300], [4, 1]]
    dense = [random.normal(size=shape) for shape in shapes]
    slices = random.normal(size=[rank, 2])  # none of the first process
    return dense, slices, random.integers(6, size=rank)


def mixed(name):
    """How far the sums of these are from those of NumPy, eagerly and in a graph."""
    replicas = replicas_of(name)
    dense, slices, ids = gradients_of(hvd.rank())
    kinds = ["float32", "float64", "float32", "float64", "float32", "float32"]

    def sums():
        local = [tf.constant(x, kind) for x, kind in zip(dense, kinds, strict=True)]
        sparse = tf.IndexedSlices(tf.constant(slices), tf.constant(ids), [6, 2])
        *found, rows = replicas.sum_gradients([*local, sparse], "mixed")
        return [*found, tf.convert_to_tensor(rows)]

    if hvd.rank() == 1:  # which has traced more than the others
        tf.function(
            lambda: replicas.sum_gradients([tf.zeros(2)])
        ).get_concrete_function()
    wanted = [0.0] * (len(dense) + 1)
    for rank in range(hvd.size()):
        dense_of_one, slices_of_one, ids_of_one = gradients_of(rank)
        table = np.zeros([6, 2])
        np.add.at(table, ids_of_one, slices_of_one)
        wanted = [a + b for a, b in zip(wanted, [*dense_of_one, table], strict=True)]
    return [
        max(float(np.abs(x - y).max()) for x, y in zip(found(), wanted, strict=True))
        for found in (sums, tf.function(sums))
    ]


def waited_for(name):
    """What each message waits for, of two gradients."""
    replicas = replicas_of(name)

    @tf.function
    def sums(first, second):
        return replicas.sum_gradients([tf.exp(first), tf.sin(second)])

    shape = [2**19]  # two of which are more than the default
    graph = sums.get_concrete_function(tf.ones(shape), tf.ones(shape)).graph
    return waits_for(graph, ("HorovodAllreduce",), ("Exp", "Sin"))


def in_buckets():
    """All of it, by size."""
    return {
        name: {
            "fitted": fitted(name),
            "prepared": prepared(name),
            "mixed": mixed(name),
            "waited_for": waited_for(name),
        }
        for name in SIZES
    }
