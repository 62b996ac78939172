"""Three workers with unequal shares, at times none; then one is killed."""

import os
import pathlib
import signal
import sys
import time

import keras
import problem_of_workers as problem
import tensorflow as tf

strategy = tf.distribute.MultiWorkerMirroredStrategy()
ME = strategy.cluster_resolver.task_id
FOLDER = pathlib.Path(sys.argv[1])
keras.utils.set_random_seed(ME)  # all must start from the weights of the first
POLICY = tf.data.experimental.AutoShardPolicy


def in_a_loop(batches, loss_of=problem.distributed_loss):
    optimizer = problem.wrapped("SGD")
    return problem.trained_in_a_loop(strategy, batches, loss_of, optimizer)


def loop_over_dealt_rows():
    return in_a_loop(strategy.distribute_datasets_from_function(problem.dealt))


def loop_with_means_of_means():
    batches = strategy.distribute_datasets_from_function(problem.dealt)
    return in_a_loop(batches, problem.mean_of_means)


def loop_over_files():
    batches = problem.from_files(FOLDER, POLICY.FILE)
    return in_a_loop(strategy.experimental_distribute_dataset(batches))


def loop_over_26_rows():
    """Of the last two, the third worker has none."""
    batches = problem.sharded(tf.data.Dataset.range(26), POLICY.DATA)
    return in_a_loop(strategy.experimental_distribute_dataset(batches))


def fit_over_files():
    model = problem.prepared(strategy, "SGD")
    batches = problem.from_files(FOLDER, POLICY.FILE)
    return problem.fitted(model, batches.map(problem.without_ids))


def fit_over_26_rows_in_parts():
    model = problem.prepared(strategy, "Adam", microbatches=2)
    batches = problem.sharded(tf.data.Dataset.range(26), POLICY.DATA)
    batches = batches.map(problem.without_ids)
    result = problem.fitted(model, batches)
    return {**result, "evaluate": model.evaluate(batches, verbose=0)}


CHECKS = [
    loop_over_dealt_rows,
    loop_with_means_of_means,
    loop_over_files,
    loop_over_26_rows,
    fit_over_files,
    fit_over_26_rows_in_parts,
]


class Killed(keras.callbacks.Callback):
    """Ends worker 2 in the middle of training."""

    def on_train_batch_end(self, batch, logs=None):
        self.last = time.monotonic()
        if ME == 2 and batch == 3:
            os.kill(os.getpid(), signal.SIGKILL)


def killed_worker():
    model = problem.prepared(strategy, "SGD")
    batches = problem.sharded(tf.data.Dataset.range(problem.ROWS), POLICY.DATA)
    batches = batches.map(problem.without_ids).repeat()
    killed = Killed()
    try:
        model.fit(batches, steps_per_epoch=1000, verbose=0, callbacks=[killed])
        raised = None
    except tf.errors.OpError as error:
        raised = type(error).__name__
    seconds = time.monotonic() - killed.last
    problem.write(FOLDER, ME, {"raised": raised, "seconds": seconds}, "killed")


problem.write(FOLDER, ME, problem.results_of(CHECKS))
killed_worker()
