"""What is summed, scaled or multiplied by hand is not taken for what it is not."""

import pathlib

import pytest
from no_keras import clean_keras  # noqa: F401

from distloss._lint.check import check_text
from distloss._lint.files import Target

HEAD = """
import keras, tensorflow as tf, distloss
strategy = tf.distribute.MirroredStrategy()
with strategy.scope():
    model = keras.Sequential([keras.Input([3]), keras.layers.Dense(1)])
    optimizer = keras.optimizers.SGD()
"""

OWN_SUM = """
class Unreduced(keras.optimizers.SGD):
    def _all_reduce_sum_gradients(self, grads_and_vars):
        return grads_and_vars
optimizer = Unreduced()
def step(x, y):
    with tf.GradientTape() as tape:
        loss = distloss.mean_share(keras.losses.mean_squared_error(y, model(x)))
    gradients = tape.gradient(loss, model.trainable_variables)
    {sums}
    optimizer.apply(gradients, model.trainable_variables)
strategy.run(step, args=(x, y))
"""

FACTOR = """
def step(x, y):
    with tf.GradientTape() as tape:
        losses = keras.losses.mean_squared_error(y, model(x))
        {lines}
        loss = total / rows * strategy.num_replicas_in_sync
    gradients = tape.gradient(loss, model.trainable_variables)
    optimizer.apply(gradients, model.trainable_variables)
strategy.run(step, args=(x, y))
"""

PARTS = """
def step(x, y):
    parts = []
    replicas = distloss.StrategyReplicas()
    of_step = replicas.sum(tf.cast(tf.shape(x)[0], tf.float32))
    for index in range(3):
        part, labels = x[3 * index : 3 * index + 3], y[3 * index : 3 * index + 3]
        with tf.GradientTape() as tape:
            losses = keras.losses.mean_squared_error(labels, model(part))
            loss = distloss.mean_share(losses)
            {scaled}
        parts.append(tape.gradient(loss, model.trainable_variables))
    sums = [tf.add_n(gradients) for gradients in zip(*parts)]
    optimizer.apply(sums, model.trainable_variables)
strategy.run(step, args=(x, y))
"""


def rules(text):
    target = Target(pathlib.Path("train.py"), None)
    findings, problems = check_text(target, HEAD + text)
    assert problems == []
    return {finding.rule for finding in findings}


BY_CONTEXT = (
    "gradients = tf.distribute.get_replica_context().all_reduce('SUM', gradients)"
)


@pytest.mark.parametrize(
    ("sums", "found"),
    [
        ("pass", {"not-reduced"}),
        (BY_CONTEXT, set()),
        ("gradients = distloss.StrategyReplicas().sum_gradients(gradients)", set()),
    ],
)
def test_an_optimizer_that_is_given_sums_may_return_them(sums, found):
    assert rules(OWN_SUM.format(sums=sums)) == found


@pytest.mark.parametrize(
    ("rows", "found"),
    [
        ("tf.cast(tf.shape(x)[0], tf.float32)", "scaled-n-squared"),
        (
            "distloss.StrategyReplicas().sum(tf.cast(tf.shape(x)[0], tf.float32))",
            "sum-of-means",
        ),
    ],
)
def test_a_factor_makes_a_mean_n_squared_times_and_a_share_n_times(rows, found):
    lines = f"total, rows = tf.reduce_sum(losses), {rows}"
    assert found in rules_of_factor(lines)
    other = {"scaled-n-squared", "sum-of-means"} - {found}
    assert not other & rules_of_factor(lines)


def rules_of_factor(lines):
    return rules(FACTOR.format(lines=lines))


OF_PART = "replicas.sum(tf.cast(tf.shape(part)[0], tf.float32))"


@pytest.mark.parametrize(
    ("scaled", "found"),
    [
        ("pass", {"accumulation-not-averaged"}),
        (f"loss = loss * {OF_PART} / of_step", set()),
        (f"loss = loss * ({OF_PART} / of_step)", set()),
    ],
)
def test_a_part_that_is_scaled_by_its_share_of_the_step_is_divided(scaled, found):
    assert rules(PARTS.format(scaled=scaled)) == found
