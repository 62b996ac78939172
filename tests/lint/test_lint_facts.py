"""What rules take for granted of Keras; each fails when that changes."""

import keras
import numpy as np
import tensorflow as tf

from distloss._lint.rules.clip_before_sum import _ARGUMENTS
from distloss._lint.rules.not_reduced import _SUMS

Y, Y_PRED = np.zeros([4, 1], "float32"), np.ones([4, 1], "float32")


def test_optimizers_add_up_in_the_method_that_a_rule_looks_for():
    assert callable(getattr(keras.optimizers.SGD(), _SUMS))


def test_optimizers_take_the_arguments_that_a_rule_looks_for():
    for name in _ARGUMENTS:
        assert getattr(keras.optimizers.SGD(**{name: 0.5}), name) == 0.5
    accumulates = keras.optimizers.SGD(gradient_accumulation_steps=2)
    assert accumulates.gradient_accumulation_steps == 2


def losses_on_four(loss, four):
    values = four.run(lambda: loss(Y, Y_PRED))
    return {float(value) for value in four.experimental_local_results(values)}


def test_keras_divides_means_by_replicas_and_leaves_sums_and_scalars(four):
    assert losses_on_four(keras.losses.MeanSquaredError(), four) == {0.25}
    assert losses_on_four(keras.losses.MeanSquaredError("sum"), four) == {4.0}


def test_compute_average_loss_guesses_the_batch(four):
    def loss():
        return tf.nn.compute_average_loss(tf.ones([4]))

    values = four.experimental_local_results(four.run(loss))
    assert [float(value) for value in values] == [0.25] * 4
