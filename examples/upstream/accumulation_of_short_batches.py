"""Accumulated batches weigh the same, however many rows they have.

`BaseOptimizer._backend_apply_gradients` of keras/src/optimizers/base_optimizer.py adds
up the gradients of batches and divides by their number. A batch of 1 row weighs as much
as one of 3, on one device too: not the step of a batch of 4, which accumulation stands
for. Reported: https://github.com/keras-team/keras/issues/20241
https://github.com/keras-team/keras/blob/v3.15.1/keras/src/optimizers/base_optimizer.py
"""

import sys

import keras
import numpy as np

X, Y = np.array([[1.0], [1.0], [1.0], [2.0]]), np.ones([4, 1])


def weight_after_one_step(batch_size, **arguments):
    layer = keras.layers.Dense(1, use_bias=False, kernel_initializer="zeros")
    model = keras.Sequential([keras.Input([1]), layer])
    model.compile(keras.optimizers.SGD(1.0, **arguments), "mse")
    model.fit(X, Y, batch_size=batch_size, shuffle=False, verbose=0)
    return float(layer.trainable_variables[0].numpy()[0, 0])


expected = weight_after_one_step(4)
got = weight_after_one_step(3, gradient_accumulation_steps=2)
print(f"expected a step of {expected:.4f}, that of a batch of 4 rows")
print(f"got      a step of {got:.4f} by accumulating batches of 3 rows and 1 row")
sys.exit(abs(got - expected) > 1e-5)
