"""`BroadcastGlobalVariablesCallback` raises AttributeError with Keras 3.

`on_batch_end` of horovod/_keras/callbacks.py calls `ref()` of the model's variables and
`optimizer.variables()`. Variables of Keras 3 have no `ref`, but hold one of TensorFlow
that has, `.value`; `optimizer.variables` is a list. tf-keras (argument) is right.
https://github.com/horovod/horovod/blob/v0.28.1/horovod/_keras/callbacks.py
"""

import os
import sys

import horovod

os.environ["TF_USE_LEGACY_KERAS"] = str(int("tf_keras" in sys.argv))


def weight_after_one_step():
    import horovod.tensorflow.keras as hvd
    import tensorflow as tf

    hvd.init()
    start = tf.keras.initializers.Constant(float(hvd.rank()))
    layer = tf.keras.layers.Dense(1, use_bias=False, kernel_initializer=start)
    model = tf.keras.Sequential([tf.keras.Input([1]), layer])
    model.compile(tf.keras.optimizers.SGD(0.0), "mae")
    callback = hvd.callbacks.BroadcastGlobalVariablesCallback(0)
    try:
        model.fit(tf.ones([1, 1]), tf.ones([1, 1]), callbacks=[callback], verbose=0)
    except (AttributeError, TypeError) as error:
        return f"{type(error).__name__}: {error}"
    return float(layer.get_weights()[0][0, 0])


if __name__ == "__main__":
    got = horovod.run(weight_after_one_step, num_proc=2)
    print("expected a weight of 0.0 on both processes, which start with 0 and with 1")
    print(f"got      {got[0]} on one process, {got[1]} on the other")
    sys.exit(got != [0.0, 0.0])
