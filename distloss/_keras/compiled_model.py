"""What compiled models of either Keras hold in private attributes."""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf

from distloss._keras.private_names import of_layers_and_losses as losses
from distloss._keras.private_names import of_models as names
from distloss._keras.private_names import of_others as tf_keras
from distloss._keras.private_names.private_name import PrivateName, check

# What a step of a prepared model asks for, and what is put in its place.
_OF_STEPS = (
    names.COMPILE_LOSS,
    names.COMPILE_METRICS,
    names.COMPILE_CONFIG,
    names.LOSS_TRACKER,
    names.DISTRIBUTE_STRATEGY,
    names.CALL_HAS_TRAINING_ARG,
    names.SYMBOLIC_BUILD,
    names.MAYBE_SYMBOLIC_BUILD,
    names.COMPUTE_LOSS,
    names.AGGREGATE_ADDITIONAL_LOSS,
    names.METRICS_RESULT_OR_LOGS,
    losses.FLATTEN_LAYERS,
    losses.GET_OWN_LOSSES,
    losses.CLEAR_LOSSES,
    losses.LOSSES_ADDED,
    losses.METRICS,
    losses.DIRECT_ASSIGN,
    losses.MOMENTS,
    losses.REDUCE_WEIGHTED_VALUES,
    losses.SCALE_LOSS,
    losses.UNSCALE_LOSS,
)
_OF_STEPS_OF_TF_KERAS = (
    tf_keras.COMPILED_LOSS,
    tf_keras.COMPILED_METRICS,
    tf_keras.IS_COMPILED,
    tf_keras.MODEL_STRATEGY,
    tf_keras.LAYERS_IN,
    tf_keras.COMPILE_CACHE,
    tf_keras.COMPILE_ARGUMENTS,
    tf_keras.METRICS_RESULT,
    tf_keras.METRICS_OF_LAYER,
    tf_keras.STATISTICS,
    tf_keras.SYNC_MOMENTS,
    tf_keras.VALID_MASK,
    tf_keras.WEIGHTED_LOSS,
    tf_keras.SCALE_LOSS_OF_TF_KERAS,
    tf_keras.GET_REDUCTION,
    tf_keras.SCALING,
    tf_keras.SCALING_V3,
)


def check_names_of(model: Any) -> None:
    """Looks whether a compiled model has what steps of a prepared one ask for.

    Raises:
      BackendError: its Keras lacks something, of which it says what.
    """
    if is_keras_3(model):
        check(*_OF_STEPS, holder=model)
        return
    check(*_OF_STEPS_OF_TF_KERAS, holder=model)
    _check_masks_of_tf_keras()


@functools.cache
def _check_masks_of_tf_keras() -> None:
    # Nobody else would say that a mask is noted elsewhere: all rows would count.
    with tf.init_scope():
        layer = importlib.import_module("tf_keras").layers.Masking()
        tf_keras.MASK.check(layer(tf.zeros((1, 1, 1))))


def is_keras_3(model: Any) -> bool:
    """Whether a model, or a layer, is one of Keras 3, and not of tf-keras."""
    # A layer that trains is none of keras.Model: Keras' own tests have such.
    return isinstance(model, keras.Layer)


def _of(model: Any, of_keras_3: PrivateName, of_tf_keras: PrivateName) -> Any:
    return (of_keras_3 if is_keras_3(model) else of_tf_keras).of(model)


def losses_given_to(model: Any) -> list[Any]:
    """The losses with which `model` was compiled, one after another."""
    given = tf.nest.flatten(_losses_in(model, loss_container(model)))
    return [loss for loss in given if loss is not None]


def loss_container(model: Any) -> Any:
    """What computes the loss of `model`; None where it was compiled without."""
    return _of(model, names.COMPILE_LOSS, tf_keras.COMPILED_LOSS)


def _losses_in(model: Any, container: Any) -> Any:
    """The losses as they were given to `compile`."""
    if not is_keras_3(model):
        return None if container is None else tf_keras.USER_LOSSES.of(container)
    if isinstance(container, losses.COMPILE_LOSS_CLASS.found()):
        return losses.USER_LOSS.of(container)
    return None


def with_losses(model: Any, wrap: Callable[[Any], Any]) -> Any:
    """What computes the loss of `model`, where `wrap` was called with each loss.

    What it has itself, where that changes no loss.
    """
    container = loss_container(model)
    given = _losses_in(model, container)
    if given is None:
        return container
    wrapped = keras.tree.map_structure(wrap, given)
    # What is wrapped already stays, and with it what Keras has built around it.
    if keras.tree.flatten(wrapped) == keras.tree.flatten(given):
        return container
    # No public name makes one; both Kerases call it in the same way.
    if is_keras_3(model):
        names_from, weights = container, losses.USER_LOSS_WEIGHTS.of(container)
    else:
        names_from = model
        weights = tf_keras.USER_LOSS_WEIGHTS_OF_TF_KERAS.of(container)
    return type(container)(wrapped, weights, output_names=names_from.output_names)


def hold_losses(model: Any, container: Any) -> None:
    """Lets `container` compute the loss of `model`."""
    name = names.COMPILE_LOSS if is_keras_3(model) else tf_keras.COMPILED_LOSS
    name.put(model, container)


def is_compiled(model: Any) -> bool:
    """Whether `compile` was called."""
    return bool(model.compiled if is_keras_3(model) else tf_keras.IS_COMPILED.of(model))


def strategy_given_to(model: Any) -> tf.distribute.Strategy | None:
    """The strategy in whose scope `model` was made; None without one."""
    return _of(model, names.DISTRIBUTE_STRATEGY, tf_keras.MODEL_STRATEGY)


def layers_of(model: Any) -> list[Any]:
    """`model`, its layers, and theirs, each once."""
    name = losses.FLATTEN_LAYERS if is_keras_3(model) else tf_keras.LAYERS_IN
    return list(name.of(model)())


def build_alone(model: keras.Model, data: Any) -> None:
    """Makes the variables of `model` for `data`; `fit` does it under a strategy."""
    if names.DISTRIBUTE_STRATEGY.of(model) is None:
        names.SYMBOLIC_BUILD.of(model)(data_batch=data)


def track_loss(model: keras.Model, loss: tf.Tensor, rows: Any) -> None:
    """Reports the loss of a batch of so many rows as `loss` in what `fit` shows."""
    names.LOSS_TRACKER.of(model).update_state(loss, sample_weight=rows)


def output_trackers(model: keras.Model) -> list[Any]:
    """The metrics of the losses of single outputs, where there are several."""
    return getattr(names.COMPILE_LOSS.of(model), "metrics", [])


def compiled_metrics(model: keras.Model) -> list[Any]:
    """The metrics with which `model` was compiled."""
    return getattr(names.COMPILE_METRICS.of(model), "metrics", [])


def loss_for_shapes(identifier: Any, y_true: Any, y_pred: Any) -> keras.losses.Loss:
    """The loss that an identifier of `compile` means for targets of these shapes.

    `"crossentropy"` is binary, categorical or sparse, and no public name says which.
    """
    found: keras.losses.Loss = losses.GET_LOSS.found()(identifier, y_true, y_pred)
    return found


def averages_over_workers(strategy: tf.distribute.Strategy) -> bool:
    """Whether Keras takes a mean over axis 0 of what steps report, over workers."""
    return bool(names.REDUCES_OVER_WORKERS.found()(strategy))


def loss_of(model: keras.Model, *arguments: Any, training: bool) -> tf.Tensor:
    """The loss that `model` computes in a step, by what is in the place of Keras'."""
    return names.COMPUTE_LOSS.of(model)(*arguments, training=training)


def loss_as_keras(model: keras.Model, *args: Any, **kwargs: Any) -> tf.Tensor:
    """The loss as Keras computes it."""
    return names.COMPUTE_LOSS.of(type(model))(model, *args, **kwargs)


def hook_loss(model: keras.Model, computed: Callable[..., tf.Tensor]) -> None:
    """Lets `computed(...)` compute the loss in steps."""
    names.COMPUTE_LOSS.check()
    # Before Keras 3.4 only steps of ours ask for it.
    setattr(model, names.COMPUTE_LOSS.name, computed)


def hook_first_build(model: keras.Model, build: Callable[..., None]) -> None:
    """Lets `build(iterator, data_batch)` prepare `model` for the data of `fit`."""
    if names.MAYBE_SYMBOLIC_BUILD.is_due:
        names.MAYBE_SYMBOLIC_BUILD.put(model, build)


def first_build_of_keras(model: keras.Model, iterator: Any, data_batch: Any) -> None:
    """What Keras does for it."""
    names.MAYBE_SYMBOLIC_BUILD.of(type(model))(model, iterator, data_batch)


def compiled_with(model: keras.Model, name: str) -> Any:
    """What was given to `compile` as this argument."""
    return names.COMPILE_CONFIG.of(model).config.get(name)
