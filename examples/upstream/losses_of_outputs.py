"""The loss that is shown of an output is no mean over rows, though the whole loss is.

`CompileLoss` of keras/src/trainers/compile_utils.py gives its metrics the weight
`tree.flatten(y_p)[0].shape[0]`, known only where the graph knows it. A batch of unknown
length counts as one row: in Keras 3.15 a short batch counts as much as others; in 3.16,
whose first batches are traced with their length, these count by their rows and later
ones as one row. `Trainer.train_step` asks `tf.shape`, and its loss is right.
https://github.com/keras-team/keras/blob/v3.15.1/keras/src/trainers/compile_utils.py
"""

import sys

import keras
import numpy as np

X = np.arange(1.0, 30.0)[:, np.newaxis] / 29
inputs = keras.Input([1])
one, two = (
    keras.layers.Dense(1, use_bias=False, kernel_initializer="ones", name=name)(inputs)
    for name in ("one", "two")
)
model = keras.Model(inputs, [one, two])
model.compile(keras.optimizers.SGD(0.0), ["mse", "mse"])
# batches of 8, 8, 8 and 5 rows
shown = model.fit(X, [0 * X, 0 * X], batch_size=8, shuffle=False, verbose=0).history

expected, got = (X**2).mean(), shown.get("one_loss", [np.nan])[0]  # not by Keras 3.3
print(
    f"expected {expected:.4f} for each output: half of the loss, {shown['loss'][0]:.4f}"
)
print(f"got      {got:.4f}")
sys.exit(bool(abs(got - expected) > 1e-4))
