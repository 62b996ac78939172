"""What a model has to keep, or to share, to train on as it was."""

from __future__ import annotations

from typing import Any

import keras

from distloss._errors import ContextError
from distloss._keras.tf_keras import make_variables
from distloss.replicas.horovod import HorovodReplicas


def state_of(model: Any) -> list[Any]:
    """Weights and optimizer variables of a model, in the order of their making.

    Raises:
      ContextError: the model has no weights yet.
    """
    if not model.built:
        raise ContextError(
            f"Expected a model with weights. Got model {model.name!r}, which makes "
            "them when it first sees data, after training has begun. Call model.build("
            "input_shape) or the model itself on a batch before model.fit."
        )
    optimizer = model.optimizer
    if optimizer is None:
        return list(model.weights)
    make_variables(optimizer, model.trainable_variables)
    variables = optimizer.variables  # a method in tf_keras.optimizers.legacy
    return [*model.weights, *(variables() if callable(variables) else variables)]


def elastic_state(
    model: keras.Model, *, replicas: HorovodReplicas | None = None, **values: Any
) -> Any:
    """What an elastic Horovod job keeps when processes come and go.

    The weights and optimizer variables of `model`, and `values`: give it to a function
    under `hvd.elastic.run`, and call its `commit()` after each batch or so.

    Args:
      model: a compiled model with weights.
      replicas: the processes; None means all of Horovod's.
      values: picklable values, such as `epoch=0`, attributes of the state from then on.

    Returns:
      a `horovod.common.elastic.State`.

    Raises:
      ContextError: the model has no weights yet.
      HorovodMissingError: Horovod is not installed.

    Example:
      >>> from distloss.callbacks import elastic_state
      >>> # state = elastic_state(model, epoch=0); hvd.elastic.run(train)(state)

    Reference: `hvd.elastic.TensorFlowKerasState`, which fails on Keras 3.
    """
    return (replicas or HorovodReplicas()).elastic_state(state_of(model), values)
