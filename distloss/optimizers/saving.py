"""What files hold of a `DistributedOptimizer`: its arguments, and what was wrapped."""

from __future__ import annotations

from typing import Any

import keras

from distloss.optimizers.arguments import Settings

_ARGUMENTS = (
    "optimizer",
    "replicas",
    "accumulation_steps",
    "loss",
    "check_sums",
    "on_nonfinite",
)


def config_of(wrapped: Any, settings: Settings) -> dict[str, Any]:
    """The config of an optimizer that does what `settings` say to `wrapped`."""
    plain = keras.saving.serialize_keras_object(wrapped)
    checks = {"check_sums": True, "on_nonfinite": settings.on_nonfinite}
    return {
        **plain["config"],
        **(checks if settings.on_nonfinite else {}),
        "optimizer": plain,
        "replicas": keras.saving.serialize_keras_object(settings.replicas),
        "accumulation_steps": settings.accumulation_steps,
        "loss": keras.saving.serialize_keras_object(settings.loss),
    }


def arguments_of(config: dict[str, Any], custom_objects: Any) -> dict[str, Any]:
    """The arguments of the constructor, from what `config_of` returned.

    Settings of what was wrapped are in the config twice, as plain Keras writes them and
    within `"optimizer"`; the former count, since users change those.
    """
    plain = dict(config["optimizer"])
    settings = {
        name: config[name]
        for name in plain["config"]
        if name in config and name not in _ARGUMENTS
    }
    plain["config"] = {**plain["config"], **settings}
    return {
        name: keras.saving.deserialize_keras_object(value, custom_objects)
        for name, value in {**config, "optimizer": plain}.items()
        if name in _ARGUMENTS
    }
