"""A process is killed while the others train."""

import os
import signal

import horovod.tensorflow as hvd
import keras
import problem

from distloss import DistributedLoss, DistributedOptimizer, HorovodReplicas

hvd.init()
print(f"pid {os.getpid()}", flush=True)
replicas = HorovodReplicas()


class Killed(keras.callbacks.Callback):
    def on_train_batch_end(self, batch, logs=None):
        if hvd.rank() == 1 and batch == 2:
            os.kill(os.getpid(), signal.SIGKILL)


loss = DistributedLoss("mse", replicas=replicas)
model = problem.dense(DistributedOptimizer("sgd", replicas=replicas), loss)
data = problem.batches(problem.dealt(hvd.rank())).repeat(1000)
model.fit(data, verbose=0, callbacks=[Killed()])
