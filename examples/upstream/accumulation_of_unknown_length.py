"""Accumulation updates with half of the gradients where a data set's length is unknown.

In the second epoch of two: iterations_of_unknown_length.py counts one step too many in
an epoch, and by that number `BaseOptimizer._backend_apply_gradients` of
keras/src/optimizers/base_optimizer.py knows when to update. With 4 batches an epoch and
gradient_accumulation_steps=2, the second epoch updates after its first batch, by half
of that batch's gradient, and leaves that of its last one behind.
https://github.com/keras-team/keras/blob/v3.15.1/keras/src/optimizers/base_optimizer.py
"""

import sys

import keras
import numpy as np
import tensorflow as tf


def weight_after_two_epochs(batches):
    layer = keras.layers.Dense(1, use_bias=False, kernel_initializer="zeros")
    model = keras.Sequential([keras.Input([1]), layer])
    optimizer = keras.optimizers.SGD(1.0, gradient_accumulation_steps=2)
    model.compile(optimizer, lambda y_true, y_pred: -y_pred)  # each gradient is -1
    model.fit(batches, epochs=2, verbose=0)
    return float(layer.trainable_variables[0].numpy()[0, 0])


batches = tf.data.Dataset.from_tensor_slices((np.ones([4, 1]),) * 2).batch(1)
expected = weight_after_two_epochs(batches)
got = weight_after_two_epochs(batches.filter(lambda x, y: True))
print(f"expected steps of {expected:g} in sum, as of 4 batches, of which that is known")
print(f"got      steps of {got:g} in sum, of the same 4 batches, of a filter")
sys.exit(abs(got - expected) > 1e-6)
