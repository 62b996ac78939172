"""Correct models of many kinds: the audit must find nothing wrong in them.

DISTLOSS_SEED makes another model and another batch.
"""

import os

import keras
import numpy as np
from keras import layers

import distloss

SEED = int(os.environ.get("DISTLOSS_SEED", "0"))
ROWS = 21


def compiled(model, loss, optimizer="sgd", **arguments):
    keras.utils.set_random_seed(SEED)
    for variable in model.trainable_variables:
        scale = 0.5 / max(1, np.prod(variable.shape[:-1])) ** 0.5
        variable.assign(np.random.normal(size=variable.shape) * scale)
    model.compile(optimizer, loss, **arguments)
    return distloss.prepare(model)


def draws():
    return np.random.default_rng(SEED)


def cnn():
    x = keras.Input([12, 11, 2])
    y = layers.Conv2D(5, 3, activation="relu", kernel_regularizer="l2")(x)
    y = layers.MaxPooling2D()(layers.Dropout(0.3)(y))
    y = layers.GlobalAveragePooling2D()(layers.Conv2D(7, 3, activation="relu")(y))
    y = layers.Dense(3)(y)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    optimizer = keras.optimizers.AdamW(global_clipnorm=0.5)
    random = draws()
    batch = random.normal(size=[ROWS, 12, 11, 2]), random.integers(0, 3, ROWS)
    return compiled(keras.Model(x, y), loss, optimizer), batch


def tokens(random):
    x = random.integers(1, 20, [ROWS, 9])
    x[np.arange(9) >= random.integers(1, 10, [ROWS, 1])] = 0
    return x


def gru_with_masks():
    x = keras.Input([9], dtype="int32")
    y = layers.Embedding(20, 6, mask_zero=True)(x)
    y = layers.GRU(5, return_sequences=True, dropout=0.2)(y)
    y = layers.Dense(4, "softmax")(y)
    random = draws()
    batch = tokens(random), random.integers(0, 4, [ROWS, 9])
    loss = "sparse_categorical_crossentropy"
    return compiled(keras.Model(x, y), loss, "adam"), batch


def transformer_block():
    x = keras.Input([9], dtype="int32")
    y = layers.Embedding(20, 8)(x)
    attended = layers.MultiHeadAttention(2, 4, dropout=0.1)(y, y)
    y = layers.LayerNormalization()(y + attended)
    y = layers.LayerNormalization()(y + layers.Dense(8, "gelu")(y))
    y = layers.Dense(20)(y)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    random = draws()
    x_rows = tokens(random)
    weight = random.uniform(0, 2, [ROWS]) * (np.arange(ROWS) % 3 > 0)
    return compiled(keras.Model(x, y), loss, "adam"), (x_rows, x_rows, weight)


def embeddings():
    user, item = keras.Input([], dtype="int32"), keras.Input([], dtype="int32")
    table = layers.Embedding(30, 5, name="users"), layers.Embedding(40, 5)
    y = layers.Dot(1)([table[0](user), table[1](item)])
    random = draws()
    x = random.integers(0, 30, ROWS), random.integers(0, 40, ROWS)
    y_true = random.integers(0, 2, [ROWS, 1]).astype("float32")
    loss = keras.losses.BinaryCrossentropy(from_logits=True)
    return compiled(keras.Model([user, item], y), loss, "adagrad"), (x, y_true)


def two_outputs():
    x = keras.Input([4])
    hidden = layers.Dense(6, "tanh", activity_regularizer="l2")(x)
    a = layers.Dense(1, name="a")(hidden)
    b = layers.Dense(3, "softmax", name="b")(hidden)
    losses = {"a": "huber", "b": "sparse_categorical_crossentropy"}
    random = draws()
    y = {"a": random.normal(size=[ROWS, 1]), "b": random.integers(0, 3, ROWS)}
    model = compiled(
        keras.Model(x, {"a": a, "b": b}), losses, loss_weights={"a": 0.3, "b": 2.0}
    )
    return model, (random.normal(size=[ROWS, 4]).astype("float32"), y)


def mixed_precision():
    policy = "mixed_bfloat16" if SEED % 2 else "mixed_float16"
    keras.config.set_dtype_policy(policy)
    x = keras.Input([8])
    y = layers.Dense(16, "relu")(x)
    y = layers.Dense(4, "softmax", dtype="float32")(layers.Dense(16, "relu")(y))
    random = draws()
    batch = random.normal(size=[ROWS, 8]), random.integers(0, 4, ROWS)
    return compiled(keras.Model(x, y), "sparse_categorical_crossentropy"), batch


def synchronized_batch_norm():
    x = keras.Input([8])
    y = layers.BatchNormalization(synchronized=True)(layers.Dense(16)(x))
    y = layers.Dense(1)(keras.ops.relu(y))
    random = draws()
    batch = random.normal(size=[ROWS, 8]), random.normal(size=[ROWS, 1])
    return compiled(keras.Model(x, y), "mse", keras.optimizers.SGD(clipnorm=0.1)), batch


ALL = (
    cnn,
    gru_with_masks,
    transformer_block,
    embeddings,
    two_outputs,
    mixed_precision,
    synchronized_batch_norm,
)
