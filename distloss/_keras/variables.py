"""Variables of Keras: those of older releases are no `keras.Variable`."""

from __future__ import annotations

from typing import Any

from distloss._keras.private_names.of_optimizers import VARIABLE_CLASS


def is_of_keras(value: Any) -> bool:
    """Whether Keras 3 made this variable."""
    return isinstance(value, VARIABLE_CLASS.found())


def in_tensorflow(variable: Any) -> Any:
    """The variable of TensorFlow in which one of Keras 3 is kept; others themselves."""
    return variable.value if is_of_keras(variable) else variable
