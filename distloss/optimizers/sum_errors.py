"""Errors of sums that were found in a traced step, raised where that was called."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import NamedTuple, TypeAlias

import tensorflow as tf

from distloss._errors import CorruptedSumError, NonfiniteGradientError

Pairs: TypeAlias = tuple[tuple[int, int], ...]


class _Found(NamedTuple):
    error: CorruptedSumError | NonfiniteGradientError
    search: Callable[[], Pairs] | None


# TensorFlow keeps of an error in a traced function its text, and not its type.
_found: list[_Found] = []


def keep(
    error: CorruptedSumError | NonfiniteGradientError,
    search: Callable[[], Pairs] | None = None,
) -> None:
    """Keeps what a step is about to raise, and what would look for pairs of devices."""
    _found[:] = [_Found(error, search)]


@contextlib.contextmanager
def sum_errors() -> Iterator[None]:
    """In which a traced step raises what a check of its sums has found.

    TensorFlow makes an error in a `tf.function` one of its own, of which the text alone
    is left. Around the call of such a step, this raises the `CorruptedSumError` or
    `NonfiniteGradientError` itself; of a wrong sum it first looks for pairs of
    replicas whose sums are still wrong. A prepared model does so in `fit` by itself.

    Raises:
      CorruptedSumError: a sum over replicas was wrong.
      NonfiniteGradientError: a gradient was not finite.

    Example:
      >>> import keras, tensorflow as tf
      >>> from distloss import DistributedOptimizer, NonfiniteGradientError, sum_errors
      >>> optimizer = DistributedOptimizer("sgd", check_sums=True)
      >>> weight = keras.Variable([3.0])
      >>> @tf.function
      ... def step(x):
      ...     optimizer.apply_gradients([(x, weight)])
      >>> try:
      ...     with sum_errors():
      ...         step(tf.constant([float("nan")]))
      ... except NonfiniteGradientError as error:
      ...     error.replicas, weight.numpy().tolist()
      ((0,), [3.0])
    """
    _found.clear()
    try:
        yield
    except (tf.errors.OpError, CorruptedSumError, NonfiniteGradientError) as error:
        if not _found:
            raise
        found = _found.pop()
        if found.error is error:
            _name_pairs(found)
            raise
        # Text of the error is in that of TensorFlow's, which is as long as the step.
        if str(found.error) not in str(error):
            raise
        _name_pairs(found)
        raise found.error from None


def _name_pairs(found: _Found) -> None:
    """Says in the error which pairs of replicas have wrong sums."""
    error = found.error
    if found.search is None or not isinstance(error, CorruptedSumError):
        return
    try:
        error.pairs = found.search()
    except Exception as problem:  # what is broken may break this, too
        said = f"Sums of pairs could not be tried: {problem}"
    else:
        said = _said_of(error.pairs)
    error.args = (f"{error} {said}",)


def _said_of(pairs: Pairs) -> str:
    if not pairs:
        return "Sums over each pair of replicas are right now: it did not last."
    listed = ", ".join(f"{first} and {second}" for first, second in pairs)
    return f"Sums over pairs of replicas are wrong for {listed}."
