"""`fit` under MultiWorkerMirroredStrategy fails; here on two workers of this machine.

`_maybe_symbolic_build` of keras/src/backend/tensorflow/trainer.py takes a PerReplica
for a tensor, `reduce_per_replica` numbers for arrays. tf-keras (argument) trains.
https://github.com/keras-team/keras/blob/v3.15.1/keras/src/backend/tensorflow/trainer.py
"""

import importlib
import json
import os
import socket
import subprocess
import sys

if "TF_CONFIG" not in os.environ:  # starts two workers, of which the first one prints
    ports = [socket.create_server(("localhost", 0)) for _ in range(2)]
    workers = [f"localhost:{port.getsockname()[1]}" for port in ports]
    tasks = [{"type": "worker", "index": index} for index in (0, 1)]
    configs = [{"cluster": {"worker": workers}, "task": task} for task in tasks]
    environments = [{**os.environ, "TF_CONFIG": json.dumps(one)} for one in configs]
    _ = [port.close() for port in ports]
    command = [sys.executable, __file__, *sys.argv[1:]]
    started = [subprocess.Popen(command, env=one) for one in environments]
    sys.exit(max(one.wait() for one in started))

import tensorflow as tf

strategy = tf.distribute.MultiWorkerMirroredStrategy()
keras = importlib.import_module((*sys.argv, "keras")[1])
with strategy.scope():
    model = keras.Sequential([keras.Input([1]), keras.layers.Dense(1)])
    model.compile("sgd", "mse")
got = "just that"
try:
    model.fit(tf.ones([8, 1]), tf.ones([8, 1]), batch_size=4, verbose=0)
except (TypeError, ValueError) as error:
    got = f"{type(error).__name__}: {' '.join(str(error).split())}"
if strategy.cluster_resolver.task_id == 0:
    print(f"expected to train on two workers\ngot      {got}")
sys.exit(got != "just that")
