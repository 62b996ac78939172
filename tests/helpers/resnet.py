"""A model of 25 million parameters with a planted scalar loss, for test_audit."""

import keras
import numpy as np


def build():
    model = keras.applications.ResNet50(weights=None)
    model.compile(
        "sgd",
        lambda y, y_pred: keras.ops.mean(
            keras.losses.sparse_categorical_crossentropy(y, y_pred)
        ),
    )
    random = np.random.default_rng(0)
    x = random.normal(size=[16, 224, 224, 3]).astype("float32")
    return model, (x, np.arange(16) * 61)
