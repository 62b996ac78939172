"""A step that a script gives to `strategy.run`, as what `build` returns."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import keras
import tensorflow as tf

from distloss._audit.child.contract import leaves_of
from distloss._errors import AuditError
from distloss._keras.variables import is_of_keras


class Loop:
    """A training step of one's own, from the function of a `strategy.run`.

    Args:
      call: what was run.
      variables: that it updates.
      optimizers: that it updates them with.
      used: what else it may use, and frames that must stay for that: a method under
        `tf.function` does not keep its object alive.

    Attributes:
      trainable_variables: the same.
      held: what the function uses, whose variables are restored after a probe.
    """

    def __init__(
        self,
        call: Call,
        variables: Sequence[Any],
        optimizers: Sequence[Any],
        used: Sequence[Any] = (),
    ) -> None:
        self._call = call
        # MirroredStrategy, too, makes one graph of all replicas and not one of each.
        self._function = getattr(call.function, "python_function", call.function)
        self.trainable_variables = list(variables)
        self._used = used
        used = [*_used_by(call.function), *used]
        self.held = different([*optimizers, *filter(_has_variables, used)])

    def train_step(self, batch: Any) -> Any:
        """Runs the function on a replica's part of a batch."""
        args, kwargs = self._call.arguments_of(batch)
        return self._function(*args, **kwargs)


@dataclass(frozen=True)
class Call:
    """A function and its arguments, of which some are the batch.

    Attributes:
      function: what runs on each replica.
      constants: positional and named arguments; None where the batch is.
      batch: of all replicas together; None where an argument is no part of it.
      dealt: for each replica, its part of the batch.
    """

    function: Callable[..., Any]
    constants: Any
    batch: Any
    dealt: list[Any] = field(default_factory=list)

    @classmethod
    def of(cls, strategy: Any, function: Any, args: Any, kwargs: Any) -> Call:
        """Of what `strategy.run` is given.

        Raises:
          AuditError: it is in a graph, or has no rows.
        """
        nest = (tuple(args), dict(kwargs or {}))
        parts = [
            strategy.experimental_local_results(leaf) for leaf in tf.nest.flatten(nest)
        ]
        rows = [_rows(one) for one in parts]
        known = next((n for n in rows if n is not None), None)
        is_batch = [n is not None and n == known for n in rows]
        if not any(is_batch):
            raise AuditError(
                "Expected the first strategy.run that updates variables to be given a "
                "batch, as tensors with rows. Got none among its arguments. Write a "
                "function build() that returns (model, batch), and audit that."
            )
        replicas = strategy.num_replicas_in_sync

        pairs = list(zip(parts, is_batch, strict=True))

        def chosen(of: Callable[[Any], Any]) -> Any:
            flat = [of(part) if is_one else None for part, is_one in pairs]
            return _unwrapped(tf.nest.pack_sequence_as(nest, flat))

        def of_replica(index: int) -> Any:
            # What is no value of each replica, all of them get.
            return chosen(lambda part: part[index if len(part) > 1 else 0])

        others = [None if is_one else part[0] for part, is_one in pairs]
        return cls(
            function,
            tf.nest.pack_sequence_as(nest, others),
            chosen(together),
            [of_replica(index) for index in range(replicas)],
        )

    def arguments_of(self, batch: Any) -> Any:
        """Positional and named arguments, with this batch in its place."""
        left = iter(leaves_of(batch))
        places = tf.nest.flatten(_wrapped(self.batch, self.constants))
        flat = [
            constant if place is None else next(left)
            for constant, place in zip(
                tf.nest.flatten(self.constants), places, strict=True
            )
        ]
        return tf.nest.pack_sequence_as(self.constants, flat)


def _unwrapped(nest: Any) -> Any:
    """A single positional argument alone: the batch as a step of one's own gets it."""
    args, kwargs = nest
    return args[0] if len(args) == 1 and not kwargs else nest if kwargs else args


def _wrapped(batch: Any, like: Any) -> Any:
    args, kwargs = like
    if len(args) == 1 and not kwargs:
        return ((batch,), {})
    return batch if kwargs else (batch, {})


def _rows(parts: Sequence[Any]) -> int | None:
    """How many rows all replicas have of an argument; None if it has none."""
    total = 0
    for part in parts:
        is_array = tf.is_tensor(part) or hasattr(part, "__array__")
        if not is_array or isinstance(part, tf.Variable) or is_of_keras(part):
            return None
        if tf.is_tensor(part) and tf.is_symbolic_tensor(part):
            raise AuditError(
                "Expected strategy.run to be called with values. Got a tensor of a "
                "graph: tf.function is not switched off there. Write a function "
                "build() that returns (model, batch), and audit that."
            )
        if not len(part.shape):
            return None
        total += int(part.shape[0])
    return total


def together(parts: Sequence[Any]) -> Any:
    """The rows of all replicas."""
    if len(parts) == 1:
        return parts[0]
    if isinstance(parts[0], tf.SparseTensor):
        return tf.sparse.concat(0, list(parts))
    return tf.concat(list(parts), 0)


def _used_by(function: Any) -> list[Any]:
    """What a function closes over, finds among globals, or is a method of."""
    function = getattr(function, "python_function", function)
    function = getattr(function, "func", function)  # of functools.partial
    owner = getattr(function, "__self__", None)
    found: list[Any] = [] if owner is None else [*vars(owner).values()]
    plain = inspect.unwrap(getattr(function, "__func__", function))
    if inspect.isfunction(plain):
        used = inspect.getclosurevars(plain)
        found += [*used.nonlocals.values(), *used.globals.values()]
    return found


def _has_variables(thing: Any) -> bool:
    kinds = (keras.Layer, keras.Metric, tf.Module, keras.Variable, tf.Variable)
    return isinstance(thing, kinds) or callable(getattr(thing, "apply_gradients", None))


def all_dense(parts: Iterable[Any]) -> bool:
    """Whether batches hold neither ragged nor sparse tensors."""
    leaves = [leaf for part in parts for leaf in leaves_of(part)]
    return not any(isinstance(x, (tf.RaggedTensor, tf.SparseTensor)) for x in leaves)


def different(things: Iterable[Any]) -> list[Any]:
    """Each of them once."""
    return list({id(one): one for one in things}.values())
