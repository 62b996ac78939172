"""The models of the benchmark: built in the current scope, with one batch of rows."""

import keras
import numpy as np
import tensorflow as tf

LENGTH, VOCABULARY, CLASSES = 24, 200, 10
layers = keras.layers


def mlp(rows):
    """Three wide layers: most of a step is matrix products."""
    hidden = [layers.Dense(512, "relu") for _ in range(3)]
    model = keras.Sequential([keras.Input([128]), *hidden, layers.Dense(CLASSES)])
    return model, normal(rows, 128), labels(rows)


def cnn(rows):
    """Three convolutions."""
    model = keras.Sequential([keras.Input([24, 24, 3])])
    for filters in (16, 32, 32):
        model.add(layers.Conv2D(filters, 3, strides=2, activation="relu"))
    model.add(layers.GlobalAveragePooling2D())
    model.add(layers.Dense(CLASSES))
    return model, normal(rows, 24, 24, 3), labels(rows)


def gru_with_masks(rows):
    """A token loss, of which masks leave out a part that differs between rows."""
    embedding = layers.Embedding(VOCABULARY, 32, mask_zero=True)
    model = keras.Sequential([keras.Input([LENGTH], dtype="int32"), embedding])
    model.add(layers.GRU(32, return_sequences=True))
    model.add(layers.Dense(CLASSES))
    return model, tokens(rows), labels(rows, LENGTH)


def transformer_block(rows):
    """Attention and two dense layers, a token loss."""
    x = keras.Input([LENGTH], dtype="int32")
    y = layers.Embedding(VOCABULARY, 64)(x)
    y = layers.LayerNormalization()(y + layers.MultiHeadAttention(4, 16)(y, y))
    wide = layers.Dense(64)(layers.Dense(256, "relu")(y))
    outputs = layers.Dense(CLASSES)(layers.LayerNormalization()(y + wide))
    return keras.Model(x, outputs), tokens(rows), labels(rows, LENGTH)


class OwnStep(keras.Model):
    """A model that trains by a step of its own, with a raw mean."""

    def train_step(self, data):
        """As Keras' guide writes it."""
        x, y = data
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(crossentropy(reduction="none")(y, self(x)))
        gradients = tape.gradient(loss, self.trainable_variables)
        self.optimizer.apply(gradients, self.trainable_variables)
        self._loss_tracker.update_state(loss)
        return {"loss": self._loss_tracker.result()}


def with_own_step(make):
    """The same model as `make` gives, with such a step."""

    def made(rows):
        model, x, y = make(rows)
        return OwnStep(model.inputs, model.outputs), x, y

    return made


MODELS = {
    "mlp": mlp,
    "cnn": cnn,
    "gru_with_masks": gru_with_masks,
    "transformer_block": transformer_block,
}
random = np.random.default_rng(1)


def normal(*shape):
    """float32 noise."""
    return random.normal(size=shape).astype("float32")


def labels(*shape):
    """int32 classes."""
    return random.integers(0, CLASSES, shape).astype("int32")


def tokens(rows):
    """int32 texts of 4 to 24 tokens; 0 is padding."""
    found = random.integers(1, VOCABULARY, [rows, LENGTH])
    found[np.arange(LENGTH) >= random.integers(4, LENGTH + 1, [rows, 1])] = 0
    return found.astype("int32")


def crossentropy(**options):
    """Of logits and classes."""
    return keras.losses.SparseCategoricalCrossentropy(from_logits=True, **options)
