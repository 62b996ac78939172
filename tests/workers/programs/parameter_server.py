"""Two workers and two parameter servers, all in this process."""

import pathlib
import sys

import keras
import problem_of_workers as problem
import tensorflow as tf
from clusters import free_addresses

import distloss

FOLDER = pathlib.Path(sys.argv[1])


def cluster():
    addresses = free_addresses(4)
    spec = tf.train.ClusterSpec({"worker": addresses[:2], "ps": addresses[2:]})
    for job in ("worker", "ps"):
        for index in range(2):
            SERVERS.append(tf.distribute.Server(spec, job, index))
    resolver = tf.distribute.cluster_resolver.SimpleClusterResolver
    return resolver(spec, rpc_layer="grpc")


SERVERS: list = []
strategy = tf.distribute.ParameterServerStrategy(cluster())
coordinator = tf.distribute.coordinator.ClusterCoordinator(strategy)
keras.utils.set_random_seed(1)
BATCHES = [list(range(i, i + problem.SIZE)) for i in range(0, 24, problem.SIZE)]


def one_after_the_other(loss_of=problem.distributed_loss, **options):
    """Each step waits for the one before, wherever that ran."""
    with strategy.scope():
        model, error = problem.network(), distloss.GlobalMean()
        optimizer = problem.wrapped("SGD", **options)()
        optimizer.build(model.trainable_variables)
    step = problem.step_of(strategy, model, optimizer, error, loss_of)
    start, losses = problem.flat(model.weights), []
    for ids in BATCHES:
        losses.append(
            float(coordinator.schedule(step, (problem.rows_of(ids),)).fetch())
        )
    return {
        "start": start,
        "weights": problem.flat(model.weights),
        "losses": losses,
        "mean": float(error.result()),
        "rows": BATCHES,
        "replicas": strategy.num_replicas_in_sync,
    }


def with_wrappers():
    return one_after_the_other()


def with_mean_share():
    return one_after_the_other(problem.share_of_mean)


def accumulated():
    try:
        one_after_the_other(accumulation_steps=2, loss=problem.LOSS)
    except distloss.DistlossError as error:
        return {"raised": str(error)}
    return {"raised": None}


CHECKS = [with_wrappers, with_mean_share, accumulated]
problem.write(FOLDER, 0, problem.results_of(CHECKS))
