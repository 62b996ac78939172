"""One address for each thing that TensorFlow, Keras and Horovod call by several."""

from __future__ import annotations

import functools

# the beginning of an address -> what it is called here; the first that fits
_PREFIXES = (
    # TensorFlow in a program that asks for the Keras before Keras 3
    ("legacy_tensorflow.keras.", "tf_keras."),
    ("legacy_tensorflow.losses.", "tf_keras.losses."),
    ("legacy_tensorflow.metrics.", "tf_keras.metrics."),
    ("legacy_tensorflow.optimizers.", "tf_keras.optimizers."),
    ("legacy_tensorflow.", "tensorflow."),
    ("tensorflow.compat.v2.", "tensorflow."),
    ("tensorflow.python.keras.", "tf_keras."),
    ("tensorflow.keras.", "keras."),
    ("keras.api.", "keras."),
    ("tf_keras.api.", "tf_keras."),
    ("tensorflow.math.", "tensorflow."),
    ("tensorflow.losses.", "keras.losses."),
    ("tensorflow.metrics.", "keras.metrics."),
    ("tensorflow.optimizers.", "keras.optimizers."),
    ("keras.backend.", "keras.ops."),
    ("keras.ops.numpy.", "keras.ops."),
    ("keras.models.", "keras."),
    ("keras.metrics.", "keras.losses."),  # the functions; classes are told apart below
    ("keras.optimizers.experimental.", "keras.optimizers."),
    ("keras.optimizers.schedules.", "keras.schedules."),
    ("horovod.tensorflow.keras.", "hvd.keras."),
    ("horovod.keras.", "hvd.keras."),
    ("horovod.tensorflow.", "hvd."),
)
_SAME = {
    "legacy_tensorflow.keras": "tf_keras",
    "legacy_tensorflow.losses": "tf_keras.losses",
    "legacy_tensorflow.metrics": "tf_keras.metrics",
    "legacy_tensorflow.optimizers": "tf_keras.optimizers",
    "keras.mixed_precision.LossScaleOptimizer": "keras.optimizers.LossScaleOptimizer",
    "keras.dtype_policies.set_global_policy": "keras.mixed_precision.set_global_policy",
    "keras.config.set_dtype_policy": "keras.mixed_precision.set_global_policy",
    "keras.mixed_precision.set_dtype_policy": "keras.mixed_precision.set_global_policy",
    "keras.losses.mse": "keras.losses.mean_squared_error",
    "keras.losses.mae": "keras.losses.mean_absolute_error",
}


@functools.cache
def canonical(name: str) -> str:
    """The one address of what has several.

    Example:
      >>> canonical("tensorflow.keras.backend.mean")
      'keras.ops.mean'
    """
    if name in _SAME:
        return _SAME[name]
    for start, instead in _PREFIXES:
        rest = name.removeprefix(start)
        is_class = start == "keras.metrics." and rest[:1].isupper()
        if rest != name and not is_class:
            return canonical(instead + rest)
    return name
