"""What plain Keras makes of batches that split evenly: the table in the guide."""

import re

import keras
import numpy as np
import pytest
import tensorflow as tf
from pages import GUIDES

import distloss

ROWS, TOKENS = 16, 5


def rows():
    """Later rows are larger, and weigh more, so no shard is like another."""
    random = np.random.default_rng(3)
    size = np.linspace(0.3, 2, ROWS)[:, np.newaxis]
    x = (size * random.normal(size=[ROWS, 3])).astype("float32")
    return x, x[:, :1] ** 2 + size.astype("float32"), size[:, 0].astype("float32")


def tokens():
    """Long rows first, then short ones: 0 is padding."""
    random = np.random.default_rng(4)
    x = random.integers(1, 9, size=[ROWS, TOKENS])
    x[np.arange(TOKENS) >= np.linspace(TOKENS, 1, ROWS).round()[:, np.newaxis]] = 0
    return x.astype("int32"), random.normal(size=[ROWS, TOKENS, 1]).astype("float32")


def dense(loss="mse", **arguments):
    model = keras.Sequential([keras.Input([3]), keras.layers.Dense(1)])
    model.compile(keras.optimizers.SGD(0.1, **arguments), loss)
    return model, rows()


def masked():
    embedding = keras.layers.Embedding(9, 4, mask_zero=True)
    layers = [keras.Input([TOKENS], dtype="int32"), embedding, keras.layers.Dense(1)]
    model = keras.Sequential(layers)
    model.compile(keras.optimizers.SGD(0.1), "mse")
    return model, tokens()


def scalar(y_true, y_pred):
    return keras.ops.mean((y_true - y_pred) ** 2)


class OwnStep(keras.Sequential):
    """A step of means, as for one device."""

    def train_step(self, data):
        x, y, _ = data
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean((self(x) - y) ** 2)
        gradients = tape.gradient(loss, self.trainable_variables)
        self.optimizer.apply(gradients, self.trainable_variables)
        return {"loss": loss}


def own_step():
    model = OwnStep([keras.Input([3]), keras.layers.Dense(1)])
    model.compile(keras.optimizers.SGD(0.1))
    return model, rows()


def by_weights():
    return dense(keras.losses.MeanSquaredError(reduction="mean_with_sample_weight"))


KINDS = {
    "a Keras loss divided by rows": (dense, "right"),
    "`clipnorm`": (lambda: dense(global_clipnorm=0.1), "wrong"),
    "`mean_with_sample_weight`": (by_weights, "wrong"),
    "`mean_with_sample_weight`, masks": (masked, "wrong"),
    "a loss function that returns one number": (lambda: dense(scalar), "wrong"),
    "a `train_step` or a loop with `reduce_mean`": (own_step, "wrong"),
}


def trained(build, strategy):
    keras.utils.set_random_seed(2)
    with strategy.scope():
        model, data = build()
    model.fit(
        *data[:2],
        sample_weight=data[2] if len(data) > 2 else None,
        batch_size=ROWS,
        shuffle=False,
        verbose=0,
    )
    return model.get_weights()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.slow
def test_the_guide_says_what_plain_keras_makes_of_it(kind, four):
    build, verdict = KINDS[kind]
    guide = (GUIDES / "fit.md").read_text()
    (said,) = re.findall(rf"^\| {re.escape(kind)}.*\| (\w+)", guide, re.MULTILINE)
    assert said == verdict
    one = trained(build, tf.distribute.get_strategy())
    several = trained(build, four)
    off = max(np.abs(a - b).max() for a, b in zip(one, several, strict=True))
    assert (off < 1e-6) if verdict == "right" else (off > 1e-3)


@pytest.mark.slow
def test_prepared_masks_are_right(four):
    one = trained(masked, tf.distribute.get_strategy())
    ours = trained(lambda: (distloss.prepare(masked()[0]), tokens()), four)
    for a, b in zip(ours, one, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)
