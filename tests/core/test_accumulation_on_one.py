"""Accumulation across batches under a strategy of a single device.

Such a strategy has threads of replicas, too, and refuses a collective in a `tf.cond` of
one of them: https://github.com/keras-team/keras/issues/20582
"""

import keras
import numpy as np
import pytest
import tensorflow as tf

import distloss

RATE = 0.1


@pytest.mark.parametrize(
    "strategy_of",
    [tf.distribute.MirroredStrategy, tf.distribute.OneDeviceStrategy],
)
def test_an_update_is_made_of_all_rows_of_its_batches(strategy_of):
    device = "CPU:0"
    one = strategy_of is tf.distribute.OneDeviceStrategy
    strategy = strategy_of(device if one else [device])
    x = np.array([[1.0], [2.0], [5.0]], "float32")  # in batches of two rows and of one
    with strategy.scope():
        layer = keras.layers.Dense(1, use_bias=False, kernel_initializer="zeros")
        model = keras.Sequential([keras.Input([1]), layer])
        loss = distloss.DistributedLoss("mse")
        optimizer = distloss.DistributedOptimizer(
            keras.optimizers.SGD(RATE), accumulation_steps=2, loss=loss
        )
        model.compile(optimizer, loss)
    model.fit(x, np.ones([3, 1], "float32"), batch_size=2, verbose=0, shuffle=False)
    # The mean of (0 - 1) ** 2 over three rows has the gradient mean(2 * (0 - 1) * x).
    wanted = -RATE * np.mean(2.0 * (0.0 - 1.0) * x)
    np.testing.assert_allclose(layer.kernel.numpy(), [[wanted]], rtol=1e-6)
