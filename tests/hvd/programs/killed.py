"""A process is killed while the others train."""

import os
import pathlib
import signal
import time

import horovod.tensorflow as hvd
import keras
import problem

from distloss import DistributedLoss, DistributedOptimizer, HorovodReplicas


class Killed(keras.callbacks.Callback):
    """Ends process 1 in the middle of training, and notes when."""

    def __init__(self, folder):
        super().__init__()
        self._note = pathlib.Path(folder) / "killed"

    def on_train_batch_end(self, batch, logs=None):
        if hvd.rank() == 1 and batch == 2:
            self._note.write_text(str(time.time()))
            os.kill(os.getpid(), signal.SIGKILL)


def train(folder):
    """Does not end by itself."""
    print(f"pid {os.getpid()}", flush=True)
    replicas = HorovodReplicas()
    loss = DistributedLoss("mse", replicas=replicas)
    model = problem.dense(DistributedOptimizer("sgd", replicas=replicas), loss)
    data = problem.batches(problem.dealt(hvd.rank())).repeat(1000)
    model.fit(data, verbose=0, callbacks=[Killed(folder)])
