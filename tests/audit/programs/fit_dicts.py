"""Right: inputs, outputs and weights in dictionaries, in full batches."""

import keras
import numpy as np
import tensorflow as tf

rng = np.random.default_rng(32)
features = {
    "pixels": rng.normal(size=(64, 4)).astype("float32"),
    "time": rng.normal(size=(64, 1)).astype("float32"),
}
labels = {"kind": rng.integers(0, 3, size=(64,)), "size": features["time"] * 2}
weight = rng.uniform(1, 3, size=(64,)).astype("float32")
weights = {"kind": weight, "size": weight}
data = tf.data.Dataset.from_tensor_slices((features, labels, weights))
train = data.take(48).shuffle(48).batch(16, drop_remainder=True)

with tf.distribute.MirroredStrategy().scope():
    inputs = {"pixels": keras.Input([4]), "time": keras.Input([1])}
    both = keras.layers.Concatenate()(list(inputs.values()))
    hidden = keras.layers.Dense(5, "relu")(both)
    outputs = {
        "kind": keras.layers.Dense(3, "softmax", name="kind")(hidden),
        "size": keras.layers.Dense(1, name="size")(hidden),
    }
    model = keras.Model(inputs, outputs)
    model.compile(
        "sgd",
        {"kind": "sparse_categorical_crossentropy", "size": "mse"},
        loss_weights={"kind": 1.0, "size": 0.5},
    )
model.fit(train, validation_data=data.skip(48).batch(16), epochs=2)
raise RuntimeError("the script was trained to its end")
