"""Weights that are brought together after a step: the gradients need not be."""

import pathlib

import pytest
from no_keras import clean_keras  # noqa: F401

from distloss._lint.check import check_text
from distloss._lint.files import Target

PROGRAM = """\
import horovod.tensorflow as hvd
import keras
import tensorflow as tf

hvd.init()
model = keras.Sequential([keras.Input([3]), keras.layers.Dense(1)])
optimizer = keras.optimizers.SGD(0.1)


def step(x, y):
    with tf.GradientTape() as tape:
        losses = keras.losses.mean_squared_error(y, model(x))
        loss = tf.reduce_sum(losses) / tf.cast(tf.shape(x)[0], tf.float32)
    gradients = tape.gradient(loss, model.trainable_variables)
    optimizer.apply(gradients, model.trainable_variables)
    for variable in model.trainable_variables:
        pass
    return loss


step(tf.ones([4, 3]), tf.ones([4, 1]))
hvd.broadcast_variables(model.variables, root_rank=0)
"""


def rules_of(last):
    text = PROGRAM.replace("        pass\n", f"        {last}\n")
    assert text != PROGRAM or last == "pass"
    findings, problems = check_text(Target(pathlib.Path("weights.py")), text)
    assert problems == []
    return {finding.rule for finding in findings}


@pytest.mark.parametrize(
    "last",
    [
        "variable.assign(hvd.allreduce(variable.value))",
        "variable.assign(hvd.allreduce(variable.value * 0.5, op=hvd.Sum))",
    ],
)
def test_weights_that_are_reduced_may_stand_for_gradients(last):
    assert "not-reduced" not in rules_of(last)


@pytest.mark.parametrize(
    "last",
    [
        "pass",
        "variable.assign(hvd.broadcast(variable.value, root_rank=0))",
        "print(hvd.allreduce(loss))",
    ],
)
def test_what_brings_no_gradients_together_is_no_excuse(last):
    assert "not-reduced" in rules_of(last)
