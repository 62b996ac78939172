"""Right: fit of arrays under a MirroredStrategy, as in most tutorials."""

import keras
import numpy as np
import tensorflow as tf

strategy = tf.distribute.MirroredStrategy(["GPU:0", "GPU:1"])
rng = np.random.default_rng(1)
x = rng.normal(size=(120, 6)).astype("float32")
y = rng.integers(0, 3, size=(120,))

with strategy.scope():
    model = keras.Sequential(
        [keras.layers.Dense(8, activation="tanh"), keras.layers.Dense(3)]
    )
    model.compile(
        optimizer=keras.optimizers.SGD(0.1),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    )

model.fit(x, y, batch_size=24, epochs=3, validation_split=0.2)
raise RuntimeError("the script was trained to its end")
