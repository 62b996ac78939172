"""`hvd.DistributedOptimizer` of a Keras 3 optimizer reduces nothing, and says nothing.

Each process trains a model of its own. Keras 3 calls `apply_gradients` or `apply`
alone; `create_distributed_optimizer` of horovod/_keras/__init__.py reduces in
`_compute_gradients`, `get_gradients` and `_aggregate_gradients`, which Keras 3 never
calls. tf-keras (argument) does. Reported:
https://github.com/horovod/horovod/issues/4290
https://github.com/horovod/horovod/blob/v0.28.1/horovod/_keras/__init__.py
"""

import os
import sys

import horovod

os.environ["TF_USE_LEGACY_KERAS"] = str(int("tf_keras" in sys.argv))


def weight_after_one_step():
    import horovod.tensorflow.keras as hvd
    import tensorflow as tf

    hvd.init()
    keras = tf.keras
    layer = keras.layers.Dense(1, use_bias=False, kernel_initializer="zeros")
    model = keras.Sequential([keras.Input([1]), layer])
    model.compile(hvd.DistributedOptimizer(keras.optimizers.SGD(1.0)), "mae")
    x = tf.fill([1, 1], 1.0 + hvd.rank())
    model.fit(x, tf.ones([1, 1]), verbose=0)
    return float(layer.trainable_variables[0].numpy()[0, 0])


if __name__ == "__main__":
    got = horovod.run(weight_after_one_step, num_proc=2)
    print("expected a step of 1.5 on both processes, the average of gradients 1 and 2")
    print(f"got      a step of {got[0]:g} on one process, of {got[1]:g} on the other")
    sys.exit(got != [1.5, 1.5])
