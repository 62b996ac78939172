"""`MetricAverageCallback` raises AttributeError where Keras 3 is installed.

`_average_metrics_in_place` of horovod/_keras/callbacks.py makes a tensor by
`K.constant`, where K is `keras.backend`, which has none in Keras 3.
horovod/tensorflow/keras/callbacks.py imports that for tf-keras (argument), too.
https://github.com/horovod/horovod/blob/v0.28.1/horovod/_keras/callbacks.py
"""

import os
import sys

import horovod

os.environ["TF_USE_LEGACY_KERAS"] = str(int("tf_keras" in sys.argv))


def reported_loss():
    import horovod.tensorflow.keras as hvd
    import tensorflow as tf

    hvd.init()
    layer = tf.keras.layers.Dense(1, use_bias=False, kernel_initializer="zeros")
    model = tf.keras.Sequential([tf.keras.Input([1]), layer])
    model.compile(tf.keras.optimizers.SGD(0.0), "mae")
    y, callback = (
        tf.fill([1, 1], 1.0 + hvd.rank()),
        hvd.callbacks.MetricAverageCallback(),
    )
    try:
        history = model.fit(tf.ones([1, 1]), y, callbacks=[callback], verbose=0)
    except AttributeError as error:
        return f"{type(error).__name__}: {error}"
    return float(history.history["loss"][0])


if __name__ == "__main__":
    got = horovod.run(reported_loss, num_proc=2)
    print("expected a loss of 1.5 on both processes, the average of 1 and 2")
    print(f"got      {got[0]} on one process, {got[1]} on the other")
    sys.exit(got != [1.5, 1.5])
