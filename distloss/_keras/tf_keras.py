"""What is of tf-keras (Keras 2), which stays optional.

It is imported only where the user passes something of it, or has made
`tf.keras` tf-keras with TF_USE_LEGACY_KERAS=1.
"""

from __future__ import annotations

import functools
import importlib
import operator
import os
import sys
import types
from typing import Any

import tensorflow as tf


def is_of_tf_keras(value: Any) -> bool:
    """Whether `value` is of tf-keras, or of no Keras while `tf.keras` is tf-keras.

    Identifiers such as "mse" and functions of the user are of no Keras.
    """
    is_definition = isinstance(value, type | types.FunctionType)
    definition: Any = value if is_definition else type(value)
    definitions = getattr(definition, "__mro__", [definition])
    packages = {str(x.__module__).partition(".")[0] for x in definitions}
    if packages & {"keras", "tf_keras"}:
        return "tf_keras" in packages
    return is_default()


def is_default() -> bool:
    """Whether `tf.keras` is tf-keras."""
    wanted = os.environ.get("TF_USE_LEGACY_KERAS") in ("true", "True", "1")
    return wanted and tf.keras.Model.__module__.startswith("tf_keras.")


def is_model(value: Any) -> bool:
    """Whether `value` is a model of tf-keras."""
    tf_keras = sys.modules.get("tf_keras")
    return tf_keras is not None and isinstance(value, tf_keras.Model)


def model_class() -> Any:
    """`tf_keras.Model`."""
    return importlib.import_module("tf_keras").Model


@functools.cache
def class_of(ours: type, base: str, name: str) -> Any:
    """The class `name` of `ours` and `base`, such as "losses.Loss", of tf-keras."""
    tf_keras = importlib.import_module("tf_keras")
    made = type(name, (ours, operator.attrgetter(base)(tf_keras)), {})
    made.__module__ = ours.__module__
    return tf_keras.saving.register_keras_serializable("distloss")(made)
