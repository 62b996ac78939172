"""The Keras optimizer that reduces first: sum, then clip, then update."""

from __future__ import annotations

import contextlib
import copy
import functools
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import keras
import tensorflow as tf
from keras.src.backend import Variable  # of which older keras.Variable is a subclass
from keras.src.utils.tracking import Tracker

from distloss._errors import ArgumentError, ArgumentTypeError, ContextError
from distloss._formula import denominators, sparse
from distloss._keras import tf_keras
from distloss._keras.versions import OPTIMIZERS_SUM
from distloss._types import Gradient
from distloss.optimizers.arguments import (
    Settings,
    check_loss,
    checked_steps,
    refuse_horovods_own,
    refuse_own_ways_in,
)
from distloss.optimizers.monitor import Monitor
from distloss.optimizers.tf_keras import distributed_optimizer
from distloss.optimizers.window import Window
from distloss.replicas import Replicas, replicas_or_current_strategy

if TYPE_CHECKING:
    from keras.optimizers import Optimizer as _KerasOptimizer
else:  # the class of the wrapped optimizer comes in with `_distributed_class`
    _KerasOptimizer = object


@keras.saving.register_keras_serializable("distloss")
class DistributedOptimizer(_KerasOptimizer):
    """A Keras optimizer that makes one update of one global batch, however split.

    Keras 3 clips each replica's gradients and looks for overflow on replica 0, and
    only then adds the replicas up. Here the order is that of one device:

        unscale -> accumulate -> sum over replicas -> finite check -> clip -> update

    The result has the class of `optimizer` (`isinstance` holds), its settings, and
    its state: iterations, slots and learning rate are the same variables, so go on
    with the result only. `tf.train.Checkpoint` and `.keras` files hold them as they
    do for `optimizer`, so either reads what the other wrote.

    Gradients must be shares that add up to the gradient of the whole batch: those of
    a `DistributedLoss`, of `mean_share`, or of a loss scaled by Keras. They are summed
    by one collective per dtype and update; `tf.IndexedSlices` stay sparse, and their
    slices of one row are added up, so that they mean the dense gradient.

    **Loss scaling.** `LossScaleOptimizer` may be wrapped, or wrap the result, as
    `compile` does under `mixed_float16`. The finite check sees the summed gradients:
    Inf on one replica skips the update everywhere and halves the scale once.

    **Accumulation.** With `accumulation_steps=K`, K batches make one update: gradients
    are kept as sums, with the weight W of `loss`, and divided by all their weight at
    the K-th, so that batches of 8 and 5 rows equal one of 13. Replicas communicate
    gradients once per update; slots, `iterations` and schedules move once. Up to K - 1
    batches at the end of an epoch are carried over to the next: `flush()` makes an
    update of them at once. What is accumulated is part of a `tf.train.Checkpoint`, and
    not of a `.keras` file: flush before saving one. Sparse gradients are accumulated
    densely.

    Args:
      optimizer: a `keras.optimizers.Optimizer`, or an identifier such as `"adam"`. An
        optimizer of tf-keras (Keras 2) gives one of its class, without accumulation.
      replicas: who shares the batch; None means the current strategy's replicas.
      accumulation_steps: batches per update, a positive int.
      loss: the `DistributedLoss` by which the gradients were divided. Needed where
        `accumulation_steps` is above 1.

    Raises:
      ArgumentTypeError: an argument of a wrong type, or `optimizer` is distributed
        already, by distloss or by Horovod.
      ArgumentError: `accumulation_steps` below 1, a `loss` that cannot be accumulated,
        or an optimizer that accumulates by itself (`gradient_accumulation_steps`).
      ContextError: when applied: in cross-replica context of several replicas, or
        where the weight of the gradients is not known.

    Example:
      >>> import keras
      >>> from distloss import DistributedOptimizer
      >>> optimizer = DistributedOptimizer(keras.optimizers.SGD(0.5, clipnorm=1.0))
      >>> isinstance(optimizer, keras.optimizers.SGD)
      True
      >>> weight = keras.Variable([3.0])
      >>> _ = optimizer.apply_gradients([([10.0], weight)])
      >>> weight.numpy().tolist()
      [2.5]

    Reference: README, "The optimizer".
    """

    def __new__(cls, optimizer: Any, **arguments: Any) -> DistributedOptimizer:
        """An object of a class made for `optimizer`."""
        refuse_horovods_own(optimizer)
        if tf_keras.is_of_tf_keras(optimizer):
            steps = checked_steps(arguments.get("accumulation_steps", 1))
            replicas = arguments.get("replicas")
            return distributed_optimizer(optimizer, replicas, steps)
        keras_class: Any = type(_keras_optimizer(optimizer))
        return object.__new__(_distributed_class(keras_class))

    def __init__(
        self,
        optimizer: Any,
        *,
        replicas: Replicas | None = None,
        accumulation_steps: int = 1,
        loss: Any = None,
    ) -> None:
        optimizer = _keras_optimizer(optimizer)
        self.__dict__.update(_state_of(optimizer))
        self._track_trackable(self._variables, name="_variables", overwrite=True)
        distribute = functools.partial(_distributed, replicas=replicas)
        for name, inner in _others_in(optimizer, distribute).items():
            setattr(self, name, inner)  # which also tracks it, for checkpoints
        settings = Settings(replicas, checked_steps(accumulation_steps), loss)
        check_loss(settings)
        self._distribute(settings)

    monitor: Monitor | None = None  # where what steps are like is noted

    def _distribute(self, settings: Settings) -> None:
        self._settings = settings
        replicas_or_current_strategy(settings.replicas)  # refuses what is none
        self._window: Window | None = None
        if self.built:
            self._open_window(_rule_of(self)._trainable_variables)

    @property
    def _replicas(self) -> Replicas:
        return replicas_or_current_strategy(self._settings.replicas)

    def build(self, variables: Sequence[Any]) -> None:
        """Creates the variables of the optimizer, and what accumulation needs."""
        caller = sys._getframe(1).f_locals.get("self")
        if _wraps(caller, self):
            _take_over(caller, variables)
        super().build(variables)
        self._open_window(variables)

    def _open_window(self, variables: Sequence[Any]) -> None:
        if self._settings.accumulation_steps > 1 and self._window is None:
            self._window = Window(variables)

    @property
    def _holds_sums(self) -> bool:
        """Whether the gradients that come now were summed over replicas."""
        return _thread.updates_seen is not None

    def _updating(self) -> contextlib.AbstractContextManager[None]:
        """In which this optimizer holds sums."""
        return _summed_gradients()

    def apply_gradients(self, grads_and_vars: Any) -> Any:
        """Sum over replicas and update, as `keras.optimizers.Optimizer`.

        A rule that overrides this method sees the sums.
        """
        pairs = list(grads_and_vars)
        if self._holds_sums or not pairs:
            return super().apply_gradients(pairs)
        gradients, variables = zip(*pairs, strict=True)
        self._build_for(variables)
        self._step(self._apply_pairs, gradients, variables)
        return self.iterations

    def apply(self, grads: Any, trainable_variables: Any = None) -> None:
        """Sum over replicas and update, as `keras.optimizers.Optimizer`.

        A rule that overrides this method sees the sums.
        """
        is_unknown = trainable_variables is None and not self.built
        if self._holds_sums or not len(grads) or is_unknown:
            super().apply(grads, trainable_variables)
            return
        if trainable_variables is None:
            trainable_variables = _rule_of(self)._trainable_variables
        self._build_for(trainable_variables)
        self._step(self._apply_summed, grads, trainable_variables)

    def _build_for(self, variables: Any) -> None:
        if not self.built:
            with keras.name_scope(self.name, caller=self):
                self.build(list(variables))
        self._check_variables_are_known(variables)

    def _apply_pairs(self, gradients: Any, variables: Any) -> None:
        with self._updating():
            super().apply_gradients(zip(gradients, variables, strict=True))

    def _apply_summed(self, gradients: Any, variables: Any) -> None:
        with self._updating():
            super().apply(gradients, variables)

    def _step(
        self,
        apply: Callable[[list[Gradient | None], list[Any]], None],
        gradients: Sequence[Gradient | None],
        variables: Sequence[Any],
    ) -> None:
        """One micro-step: `apply` of summed gradients, once in `accumulation_steps`."""
        gradients, variables = list(gradients), list(variables)
        if self._window is None:
            apply(self._summed(gradients, variables), variables)
            return
        if all(gradient is None for gradient in gradients):  # which Keras refuses
            self._filter_empty_gradients(gradients, variables)
        denominator = denominators.announced_denominator(self._settings.loss)
        at = [_rule_of(self)._get_variable_index(variable) for variable in variables]
        local = map(sparse.shaped, gradients, variables)
        self._window.add(dict(zip(at, local, strict=True)), denominator)
        is_full = self._window.batches >= self._settings.accumulation_steps
        update = functools.partial(self._update_from, self._window, apply)
        self._replicas.call_if(is_full, update)

    def _update_from(self, window: Window, apply: Callable[..., None]) -> None:
        gradients = window.shares()
        variables = [_rule_of(self)._trainable_variables[i] for i in gradients]
        apply(self._summed(list(gradients.values()), variables), variables)
        window.clear()

    def flush(self) -> None:
        """Makes an update of what is accumulated; does nothing if that is nothing.

        Call it outside `strategy.run`, for example in `on_epoch_end` of a
        `keras.callbacks.LambdaCallback`.
        """
        if self._window is None:
            return
        update = functools.partial(self._update_from, self._window, self._apply_pairs)
        has_batches = self._window.batches > 0
        self._distribution_strategy.run(self._replicas.call_if, (has_batches, update))

    def _summed(
        self, local: list[Gradient | None], variables: list[Any]
    ) -> list[Gradient | None]:
        """The sums over replicas of all gradients that are any."""
        sums = list(local)
        at = [
            i
            for i, variable in enumerate(variables)
            if local[i] is not None
            and not getattr(variable, "overwrite_with_gradient", False)
        ]
        present = [_as_gradient(local[i], variables[i]) for i in at]
        factor = self.loss_scale_factor  # by which Keras cannot divide slices
        densely = factor is not None
        added_up = sparse.added_up(self._sums_of(present), densely=densely)
        if self.monitor is not None and present:
            scale = getattr(self, "dynamic_scale", factor or 1.0)
            self.monitor.note(added_up, scale)
        for i, gradient in zip(at, added_up, strict=True):
            sums[i] = gradient
        return sums

    def _sums_of(self, local: list[Gradient]) -> list[Gradient]:
        """The sums over replicas; where the denominator travels with them, divided."""
        name = f"gradients_{type(self).__bases__[1].__name__}"
        fused = getattr(denominators.current_step(), "fused", None)
        if fused is None:
            sums = self._replicas.sum_gradients(local, name)
        else:
            local, vector = fused.to_sum(local)
            *sums, vector = self._replicas.sum_gradients([*local, vector], name)
            sums = fused.divided(sums, vector)
        return sums

    def sums_each_step_over(self, replicas: Replicas | None) -> bool:
        """Whether each step makes an update of what these replicas have."""
        one_step = self._settings.accumulation_steps == 1
        return one_step and replicas_or_current_strategy(replicas) == self._replicas

    @property
    def carries(self) -> bool:
        """Whether a step's denominator may travel with its gradients.

        Not where these have a scale of their own, which that of sums would exceed; and
        not where several optimizers share the sums.
        """
        return not isinstance(self, _HOLD_OTHERS) and self._replicas.sums_are_exact

    def _all_reduce_sum_gradients(self, grads_and_vars: Any) -> Any:
        # Keras sums here, after it has clipped: what comes was summed before.
        if OPTIMIZERS_SUM:
            self._note_update()
        return grads_and_vars

    def _backend_apply_gradients(self, *args: Any) -> None:
        if _thread.updates_seen is None:
            raise _around_the_sum(self)
        _thread.updates_due += 1
        super()._backend_apply_gradients(*args)

    def _backend_update_step(self, *args: Any) -> None:
        if not OPTIMIZERS_SUM:  # it calls the former on the thread of no replica
            self._note_update()
        super()._backend_update_step(*args)

    def _note_update(self) -> None:
        if _thread.updates_seen is None:
            raise _around_the_sum(self)
        _thread.updates_seen += 1

    def _overwrite_model_variables_with_average_value(self, variables: Any) -> None:
        # Keras calls this in a tf.cond of each replica, where strategy.extended.update
        # is refused; each replica can assign its own copy, for all hold the same.
        if tf.distribute.in_cross_replica_context():
            super()._overwrite_model_variables_with_average_value(variables)
            return
        averages = self._model_variables_moving_average
        for variable, average in zip(variables, averages, strict=True):
            variable.assign(average)

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments, for Keras to save, and what was wrapped has."""
        settings = self._settings
        plain = keras.saving.serialize_keras_object(undistributed(self))
        return {
            **plain["config"],
            "optimizer": plain,
            "replicas": keras.saving.serialize_keras_object(settings.replicas),
            "accumulation_steps": settings.accumulation_steps,
            "loss": keras.saving.serialize_keras_object(settings.loss),
        }

    @classmethod
    def from_config(
        cls, config: dict[str, Any], custom_objects: Any = None
    ) -> DistributedOptimizer:
        """A new object with the arguments that `get_config` returned.

        What was wrapped gets its own settings from there too, so that they may be
        changed as those of any optimizer.
        """
        plain = dict(config["optimizer"])
        settings = {
            name: config[name]
            for name in plain["config"]
            if name in config and name not in _ARGUMENTS
        }
        plain["config"] = {**plain["config"], **settings}
        arguments = {
            name: keras.saving.deserialize_keras_object(value, custom_objects)
            for name, value in {**config, "optimizer": plain}.items()
            if name in _ARGUMENTS
        }
        return DistributedOptimizer(arguments.pop("optimizer"), **arguments)

    if hasattr(keras.optimizers.Optimizer, "_unpickle_model"):  # else none is pickled

        def __reduce__(self) -> Any:
            # The class is made for what was wrapped: no new process finds its name.
            _, saved = super().__reduce__()
            return _unpickled, saved


_ARGUMENTS = ("optimizer", "replicas", "accumulation_steps", "loss")


def _unpickled(*saved: Any) -> Any:
    return keras.optimizers.Optimizer._unpickle_model(*saved)


class _Distributed(DistributedOptimizer):
    """An update rule."""


class _DistributedLossScale(DistributedOptimizer):
    """A `LossScaleOptimizer`, whose finite check must see what the inner one will."""

    _sums_come = False

    @property
    def _holds_sums(self) -> bool:
        return self._sums_come

    @contextlib.contextmanager
    def _updating(self) -> Iterator[None]:
        self._sums_come = True  # on whatever thread
        try:
            yield
        finally:
            self._sums_come = False

    def _tf_apply(self, grads: Any, trainable_variables: Any = None) -> None:
        if self._sums_come:
            super()._tf_apply(grads, trainable_variables)
            return
        # The first step of one that was taken over: `apply` was still that of Keras.
        if trainable_variables is None:
            trainable_variables = _rule_of(self)._trainable_variables
        self._step(self._apply_summed, grads, trainable_variables)

    def _stateful_handle_finite_grads(self, grads: Any, variables: Any) -> None:
        if not self._sums_come:
            raise _around_the_sum(self)
        with _summed_gradients():
            super()._stateful_handle_finite_grads(grads, variables)


def _around_the_sum(optimizer: Any) -> ContextError:
    return ContextError(
        "Expected gradients that were summed over replicas. Got an update by a way "
        f"around apply() and apply_gradients() of {type(optimizer).__name__}. Call one "
        "of these."
    )


class _Thread(threading.local):
    # The updates that Keras made of summed gradients, or None where they are not; and
    # how many it began.
    updates_seen: int | None = None
    updates_due = 0


_thread = _Thread()


@contextlib.contextmanager
def _summed_gradients() -> Iterator[None]:
    """Lets Keras update with gradients that are summed, and checks that it does."""
    _thread.updates_seen = _thread.updates_due = 0
    try:
        yield
        if _thread.updates_seen < _thread.updates_due:
            raise ContextError(
                "Expected Keras to update by way of _all_reduce_sum_gradients, which "
                "distloss makes a no-op. Got an update by another way, in which "
                f"gradients may be summed twice: keras=={keras.__version__}. Use a "
                "release of Keras that distloss was tested with, see README."
            )
    finally:
        _thread.updates_seen = None


@functools.cache
def _distributed_class(keras_class: Any) -> Any:
    is_loss_scale = issubclass(keras_class, keras.optimizers.LossScaleOptimizer)
    step_class = _DistributedLossScale if is_loss_scale else _Distributed
    bases = (step_class, keras_class)
    made = type(
        f"Distributed{keras_class.__name__}",
        bases,
        {"__module__": DistributedOptimizer.__module__},
    )
    # Under the one name from which Keras finds `from_config` in a new process.
    name = DistributedOptimizer.__name__
    return keras.saving.register_keras_serializable("distloss", name)(made)


def undistributed(optimizer: Any) -> Any:
    """A view on the same state as the class that was wrapped, and so within it."""
    if not isinstance(optimizer, DistributedOptimizer):
        return optimizer
    view: Any = object.__new__(type(optimizer).__bases__[1])
    vars(view).update(vars(optimizer))
    vars(view).update(_others_in(optimizer, undistributed))
    return view


def _state_of(optimizer: Any) -> dict[str, Any]:
    """The attributes of `optimizer`: the same variables, in containers of its own.

    Building one of the two then leaves the other as it was.
    """
    state = {
        name: copy.copy(value) if isinstance(value, list | dict | set) else value
        for name, value in vars(optimizer).items()
    }
    tracker = Tracker({"variables": (_is_keras_variable, state["_variables"])})
    tracker.stored_ids["variables"].update(map(id, state["_variables"]))
    state["_tracker"] = tracker
    return state


# Not in every Keras 3.
_MULTI_OPTIMIZER: Any = getattr(keras.optimizers, "MultiOptimizer", ())
_HOLD_OTHERS = (keras.optimizers.LossScaleOptimizer, _MULTI_OPTIMIZER)


def _others_in(optimizer: Any, change: Callable[[Any], Any]) -> dict[str, Any]:
    """The attributes in which `optimizer` holds others, each of these changed."""
    if isinstance(optimizer, keras.optimizers.LossScaleOptimizer):
        return {"inner_optimizer": change(optimizer.inner_optimizer)}
    if not isinstance(optimizer, _MULTI_OPTIMIZER):
        return {}
    changed = _Changed(change)
    others = [changed(inner) for inner in optimizer.optimizers]
    chosen: Any = optimizer._optimizer_map
    if isinstance(chosen, _Choice):
        chosen = chosen.choose
    if isinstance(chosen, keras.optimizers.OptimizerMap):
        by_name = {name: changed(x) for name, x in chosen._optimizer_map.items()}
        default = changed(chosen.default_optimizer)
        chosen = keras.optimizers.OptimizerMap(default, by_name)
    elif change is not undistributed:
        chosen = _Choice(chosen, changed)
    return {"_inner_optimizers": others, "_optimizer_map": chosen}


class _Changed:
    """Optimizers, each changed once."""

    def __init__(self, change: Callable[[Any], Any]) -> None:
        self._change = change
        self._made: dict[int, tuple[Any, Any]] = {}  # both, so that ids stay taken

    def __call__(self, optimizer: Any) -> Any:
        if id(optimizer) not in self._made:
            self._made[id(optimizer)] = optimizer, self._change(optimizer)
        return self._made[id(optimizer)][1]


class _Choice:
    """A function that chooses the optimizer of a variable, and this one changed."""

    def __init__(self, choose: Callable[[Any], Any], changed: _Changed) -> None:
        self.choose, self._changed = choose, changed

    def __call__(self, variable: Any) -> Any:
        chosen = self.choose(variable)
        is_optimizer = isinstance(chosen, keras.optimizers.Optimizer)
        return self._changed(chosen) if is_optimizer else chosen  # Keras refuses it


def _rule_of(optimizer: Any) -> Any:
    """The one that knows the variables, which a LossScaleOptimizer may not."""
    return getattr(optimizer, "inner_optimizer", optimizer)


def _distributed(optimizer: Any, replicas: Replicas | None) -> DistributedOptimizer:
    if isinstance(optimizer, DistributedOptimizer):
        return optimizer
    return DistributedOptimizer(optimizer, replicas=replicas)


def _is_keras_variable(value: Any) -> bool:
    return isinstance(value, Variable)


def _wraps(caller: Any, optimizer: DistributedOptimizer) -> bool:
    """Whether `caller` is a bare LossScaleOptimizer around `optimizer`."""
    return (
        isinstance(caller, keras.optimizers.LossScaleOptimizer)
        and not isinstance(caller, DistributedOptimizer)
        and caller.inner_optimizer is optimizer
    )


def _take_over(outer: Any, variables: Sequence[Any]) -> None:
    """Makes a LossScaleOptimizer that was put around one of ours one of ours.

    `compile` puts it there under mixed_float16, and it would look for overflow before
    gradients are summed. What it builds first is the optimizer within.
    """
    inner, keras_class = outer.inner_optimizer, outer.__class__
    refuse_own_ways_in(keras_class)
    outer.__class__ = _distributed_class(keras_class)
    outer._distribute(inner._settings)
    inner._settings = Settings(inner._settings.replicas, 1, None)
    outer._open_window(variables)


def _as_gradient(gradient: Any, variable: Any) -> Gradient:
    if isinstance(gradient, tf.IndexedSlices):
        return sparse.shaped(gradient, variable)
    return tf.convert_to_tensor(gradient)


def _keras_optimizer(optimizer: Any) -> Any:
    if isinstance(optimizer, DistributedOptimizer):
        raise ArgumentTypeError(
            f"Expected an optimizer to wrap. Got optimizer={optimizer.name!r}, a "
            "DistributedOptimizer already: its gradients would be summed twice. Use "
            "it as it is."
        )
    if not isinstance(optimizer, str | dict | keras.optimizers.Optimizer):
        raise ArgumentTypeError(
            "Expected optimizer= to be a keras.optimizers.Optimizer or an identifier "
            f"such as 'adam'. Got optimizer={optimizer!r} of type "
            f"{type(optimizer).__module__}.{type(optimizer).__name__}."
        )
    try:
        found = keras.optimizers.get(optimizer)
    except (ValueError, TypeError) as error:
        raise ArgumentError(
            "Expected the name or config of an optimizer that keras.optimizers.get "
            f"knows, such as 'adam'. Got optimizer={optimizer!r}."
        ) from error
    inner = getattr(found, "inner_optimizer", found)
    if inner.gradient_accumulation_steps:
        raise ArgumentError(
            "Expected an optimizer that does not accumulate by itself: Keras gives "
            "each batch the same weight, and fails under MirroredStrategy. Got "
            f"gradient_accumulation_steps={inner.gradient_accumulation_steps}. Leave "
            "it out, and pass accumulation_steps= and loss= to DistributedOptimizer."
        )
    return found
