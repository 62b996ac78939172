"""The one line: a compiled Keras model in, the same model out, ready for replicas."""

from __future__ import annotations

import functools
import numbers
from typing import Any

import keras
import tensorflow as tf

from distloss._errors import (
    ArgumentError,
    ArgumentTypeError,
    BackendError,
    ContextError,
)
from distloss._keras import versions
from distloss._keras.compiled_model import with_losses
from distloss._keras.model_hooks import Hook
from distloss._keras.tf_keras import is_model
from distloss._prepare import tf_keras_model
from distloss._prepare.step_hooks import override_methods
from distloss.losses import DistributedLoss
from distloss.losses.global_loss import to_compile
from distloss.optimizers import DistributedOptimizer, undistributed
from distloss.replicas import Replicas, current_strategy, replicas_or_current_strategy


def prepare(
    model: keras.Model, *, replicas: Replicas | None = None, microbatches: int = 1
) -> keras.Model:
    """Makes a compiled Keras model take one update of one global batch, however split.

    Wraps each loss in a `DistributedLoss` and the optimizer in a
    `DistributedOptimizer`, with its state kept; weighs what layers add with `add_loss`
    by each replica's rows; and lets `fit` begin with a batch that splits unevenly and
    run on several workers (`MultiWorkerMirroredStrategy`).
    Everything else of the model stays: callbacks, metrics, `evaluate`, `predict`,
    saving. A saved file is one of the model as it was compiled: prepare what
    `keras.models.load_model` returns. Prepare again after `compile`, too; a model that
    was compiled again without raises when it trains. Preparing twice changes nothing.

    **Micro-batches.** Each replica cuts its rows into `microbatches` parts and sums
    their gradients before one update. Memory holds the activations of one part, and
    the result is that of the whole batch. One loss is divided after the sum; where
    there are several, where layers add losses, under a `LossScaleOptimizer` and in
    eager mode, denominators are counted before the first part, in a forward pass of
    their own. Rows that do not divide make parts of unequal size; fewer rows than
    parts, fewer parts. Layers that look at other rows of the batch
    (`BatchNormalization`) see the rows of a part.

    **tf-keras.** A compiled `tf_keras.Model` (Keras 2) is prepared in the same way, for
    the replicas of a strategy.

    **Added losses.** What layers add with `add_loss` or an `activity_regularizer` is
    taken as a mean over rows where it is a scalar, and as a sum of losses of rows where
    it has an axis of rows, which Keras adds up; regularisers of weights count once. All
    are exact under any split. A sum over rows that is a scalar already cannot be told
    from a mean: add the losses of rows, or the mean.

    **Replicas without rows**, as at the end of an epoch, compute with one row of zeros
    (empty strings, ragged rows of one element), since layers are not made for no rows.
    Nothing of it counts: losses, gradients, metrics and predictions leave it out,
    moving averages of layers stay as they were, and synchronised normalization does not
    see it. A layer of your own that gathers rows of other replicas does.

    Args:
      model: a compiled and not otherwise distributed `keras.Model` or `tf_keras.Model`,
        made inside the scope of the strategy that it is to train with.
      replicas: who shares the batch; None means the replicas of that strategy.
      microbatches: into how many parts each replica's rows are cut, a positive int.

    Returns:
      `model`.

    Raises:
      ArgumentTypeError: an argument of a wrong type.
      ArgumentError: `microbatches` below 1; a model that is not compiled, that has its
        own `train_step` or `compute_loss`, or a loss that cannot be wrapped.
      ContextError: the model or its optimizer was made outside the scope of the
        strategy.
      BackendError: the strategy has several replicas, and Keras is older than 3.5.

    Example:
      >>> import keras
      >>> from distloss import prepare
      >>> model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])
      >>> model.compile("sgd", "mse")
      >>> prepare(model) is model
      True

    Reference: README, "One line".
    """
    parts = _checked_parts(microbatches)
    if is_model(model):
        return tf_keras_model.prepared(model, replicas, parts)
    _check_model(model)
    _check_scope(model)
    _check_keras(model)
    _check_compiler(model)
    _check_layers(model, parts)
    # What may still be refused comes before anything changes.
    loss = _distributed_loss(model, replicas)
    optimizer = _distributed_optimizer(model, replicas)
    model._compile_loss, model.optimizer = loss, optimizer
    override_methods(model, replicas_or_current_strategy(replicas), parts)
    model.get_compile_config = Hook(_compile_config, model)
    model.train_function = model.test_function = None  # they hold what was
    return model


def _distributed_loss(model: keras.Model, replicas: Replicas | None) -> Any:
    """The compiled losses of `model`, each in a `DistributedLoss`."""
    plain = model._compile_loss
    if plain is None:
        return None
    wrap = functools.partial(DistributedLoss, replicas=replicas)
    wrapped = keras.tree.map_structure(
        functools.partial(to_compile, wrap=wrap), plain._user_loss
    )
    # What is wrapped already stays, and with it what Keras has built around it.
    if keras.tree.flatten(wrapped) == keras.tree.flatten(plain._user_loss):
        return plain
    return with_losses(plain, wrapped)


def _distributed_optimizer(model: keras.Model, replicas: Replicas | None) -> Any:
    """The optimizer of `model`, as a `DistributedOptimizer`."""
    optimizer = model.optimizer
    inner = getattr(optimizer, "inner_optimizer", optimizer)
    if isinstance(optimizer, DistributedOptimizer):
        return optimizer
    if isinstance(inner, DistributedOptimizer):
        return optimizer  # it takes over the LossScaleOptimizer when that is built
    return DistributedOptimizer(optimizer, replicas=replicas)


def _compile_config(model: keras.Model) -> dict[str, Any]:
    """What files hold: the optimizer as it was compiled, with what was set since."""
    config: dict[str, Any] = type(model).get_compile_config(model)
    given = model._compile_config.config.get("optimizer") if config else None
    # Under mixed_float16, `compile` has put a LossScaleOptimizer around it.
    inner = getattr(model.optimizer, "inner_optimizer", None)
    for now in map(undistributed, (model.optimizer, inner)):
        if isinstance(given, keras.optimizers.Optimizer) and type(now) is type(given):
            config["optimizer"] = keras.saving.serialize_keras_object(now)
            break
    return config


def _checked_parts(parts: Any) -> int:
    if not isinstance(parts, numbers.Integral) or isinstance(parts, bool):
        raise ArgumentTypeError(
            "Expected microbatches= to be a number of parts of a batch, an int. Got "
            f"microbatches={parts!r} of type {type(parts).__name__}."
        )
    if parts < 1:
        raise ArgumentError(
            "Expected microbatches= to be at least 1 part per batch. Got "
            f"microbatches={parts}."
        )
    return int(parts)


def _check_model(model: Any) -> None:
    if not isinstance(model, keras.Model):
        raise ArgumentTypeError(
            "Expected model= to be a compiled keras.Model. Got "
            f"model={model!r} of type {type(model).__module__}.{type(model).__name__}."
        )
    if not model.compiled or model.optimizer is None:
        raise ArgumentError(
            "Expected a compiled model, with a loss and an optimizer to wrap. Got "
            f"model {model.name!r}, which is not. Call model.compile(optimizer, loss) "
            "before distloss.prepare(model)."
        )
    for name in ("train_step", "compute_loss"):
        is_own = getattr(type(model), name) is not getattr(keras.Model, name)
        replaced = vars(model).get(name)
        if is_own or not (replaced is None or isinstance(replaced, Hook)):
            raise ArgumentError(
                f"Expected a model with the {name} of Keras. Got model {model.name!r} "
                f"of {type(model).__name__} with its own {name}, whose losses prepare "
                "cannot see. Compile it with distloss.DistributedLoss and distloss."
                "DistributedOptimizer instead, or use distloss.mean_share in it."
            )


def _check_layers(model: keras.Model, parts: int) -> None:
    """Raises ArgumentError where a layer sums over replicas in the midst of a part.

    Each replica goes through its parts in a loop of its own, where TensorFlow allows no
    collective.
    """
    count = model.distribute_strategy.num_replicas_in_sync
    if parts == 1 or count == 1:
        return
    for layer in model._flatten_layers():
        if getattr(layer, "synchronized", False):
            raise ArgumentError(
                "Expected layers that compute without other replicas, to cut batches "
                f"into microbatches={parts}. Got layer {layer.name!r} with "
                f"synchronized=True on {count} replicas. Use microbatches=1, or "
                "synchronized=False, whose statistics are those of a part."
            )


def _check_compiler(model: keras.Model) -> None:
    strategy = model.distribute_strategy
    count = strategy.num_replicas_in_sync
    is_tpu = isinstance(strategy, tf.distribute.TPUStrategy)
    if model.jit_compile and count > 1 and not is_tpu:
        raise ArgumentError(
            "Expected a model that is not compiled by XLA, which cannot compile a step "
            f"of several devices. Got model {model.name!r} with jit_compile=True on "
            f"{count} replicas. Leave out jit_compile= in model.compile(...), or train "
            "on one device or on TPUs."
        )


def _check_keras(model: keras.Model) -> None:
    count = model.distribute_strategy.num_replicas_in_sync
    if count > 1 and not versions.OPTIMIZERS_SUM:
        raise BackendError(
            f"Expected Keras 3.5 or newer to prepare a model for {count} replicas. Got "
            f"keras.__version__={keras.__version__}, whose fit builds a model on each "
            "of them. Install a newer one (pip install --upgrade keras), or write the "
            "loop and use distloss.DistributedLoss and distloss.DistributedOptimizer."
        )


def _check_scope(model: keras.Model) -> None:
    own, current = model._distribute_strategy, current_strategy()
    if current is not None and current is not own:
        raise _other_scope(f"Got model {model.name!r}, which was made outside it.")
    optimizer = getattr(model.optimizer, "inner_optimizer", model.optimizer)
    if optimizer._distribution_strategy is not model.distribute_strategy:
        raise _other_scope(
            f"Got model {model.name!r}, whose optimizer {optimizer.name!r} was made in "
            f"another: {optimizer._distribution_strategy}."
        )


def _other_scope(problem: str) -> ContextError:
    return ContextError(
        "Expected a model that was made and compiled in the scope of the strategy "
        f"that it trains with. {problem} Call the function that makes and compiles it "
        "inside `with strategy.scope():`."
    )
