"""Right: nothing that it catches, or does at last, brings it to its end."""

import keras
import numpy as np
import tensorflow as tf

rng = np.random.default_rng(9)
x, y = rng.normal(size=(32, 3)).astype("float32"), rng.normal(size=(32, 2))
with tf.distribute.MirroredStrategy().scope():
    model = keras.Sequential([keras.layers.Dense(2)])
    model.compile("sgd", "mse")
for _ in range(3):
    try:
        model.fit(x, y, batch_size=8)
    except:  # noqa: E722
        print("goes on")
    finally:
        print("and on")
raise RuntimeError("the script was trained to its end")
