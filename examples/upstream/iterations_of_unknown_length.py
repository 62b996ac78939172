"""Where a data set's length is unknown, each epoch counts one step that there was not.

The step of `TensorFlowTrainer._make_function` (keras/src/backend/tensorflow/trainer.py)
learns that the data are at an end by an error of `iterator.get_next()`. What does not
need the data, the optimizer's `iterations.assign_add(1)`, runs beside it. Schedules and
Adam's bias correction then are ahead. tf-keras does so in the first epoch only, after
which it knows the length (argument tf_keras).
https://github.com/keras-team/keras/blob/v3.15.1/keras/src/backend/tensorflow/trainer.py
"""

import importlib
import sys

import tensorflow as tf

keras = importlib.import_module((*sys.argv, "keras")[1])
rows = tf.data.Dataset.from_tensor_slices((tf.ones([6, 1]),) * 2)
batches = rows.filter(lambda x, y: True).batch(2)  # 3 batches: unknown
model = keras.Sequential([keras.Input([1]), keras.layers.Dense(1)])
model.compile("sgd", "mse")
model.fit(batches, epochs=4, verbose=0)
got = int(model.optimizer.iterations.numpy())
print("expected 12 iterations: 4 epochs of 3 batches")
print(f"got      {got} iterations")
sys.exit(got != 12)
