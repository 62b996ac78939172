"""Wrong: tf-keras, a batch normalization whose statistics are those of a replica."""

import numpy as np
import tensorflow as tf
import tf_keras

strategy = tf.distribute.MirroredStrategy()
rng = np.random.default_rng(7)
x, y = rng.normal(size=(64, 4)).astype("float32"), rng.normal(size=(64, 1))
with strategy.scope():
    model = tf_keras.Sequential(
        [
            tf_keras.layers.Dense(6),
            tf_keras.layers.BatchNormalization(),  # here
            tf_keras.layers.Dense(1),
        ]
    )
    model.compile(tf_keras.optimizers.SGD(0.1), loss="mse")
model.fit(x, y, batch_size=16, verbose=0)
raise RuntimeError("the script was trained to its end")
