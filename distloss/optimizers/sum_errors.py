"""Errors of sums that were found in a traced step, raised where that was called."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import NamedTuple, TypeAlias

import tensorflow as tf

from distloss._errors import CorruptedSumError, NonfiniteGradientError

Pairs: TypeAlias = tuple[tuple[int, int], ...]


class Aftermath(NamedTuple):
    """What is done once a sum was found to be wrong, outside of the step.

    Attributes:
      meet: gathers what each process passes, once all have left their steps; None where
        that is this process alone, or processes cannot be brought together.
      search: finds the pairs of replicas whose sums are wrong; None where it cannot.
    """

    meet: Callable[[CorruptedSumError], list[CorruptedSumError]] | None = None
    search: Callable[[], Pairs] | None = None


NOTHING_AFTER = Aftermath()


class _Found(NamedTuple):
    error: CorruptedSumError | NonfiniteGradientError
    after: Aftermath


# TensorFlow keeps of an error in a traced function its text, and not its type.
_found: list[_Found] = []


def keep(
    error: CorruptedSumError | NonfiniteGradientError,
    after: Aftermath = NOTHING_AFTER,
) -> None:
    """Keeps what a step is about to raise, and what is to be done then."""
    _found[:] = [_Found(error, after)]


@contextlib.contextmanager
def sum_errors() -> Iterator[None]:
    """In which a traced step raises what a check of its sums has found.

    TensorFlow makes an error in a `tf.function` one of its own, of which the text alone
    is left. Around the call of such a step, this raises the `CorruptedSumError` or
    `NonfiniteGradientError` itself; of a wrong sum it first looks for pairs of
    replicas whose sums are still wrong. A prepared model does so in `fit` by itself.

    Where one of Horovod's processes alone has received a wrong sum, the others have
    made that update, of which their sum was right. This lets it wait for them, and all
    raise the same error in the next step, of which none makes an update.

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
        # Text of the error is in that of TensorFlow's, which is as long as the step.
        if found.error is not error and str(found.error) not in str(error):
            raise
        raise _settled(found) from None


def _settled(found: _Found) -> CorruptedSumError | NonfiniteGradientError:
    """What all processes raise: of a wrong sum with the pairs that have wrong ones."""
    error, after = found
    if not isinstance(error, CorruptedSumError):
        return error
    if after.meet is not None:
        try:
            every = after.meet(error)
        except Exception:  # those who have ended have made their updates
            error.args = (f"{error} The other processes have ended.",)
            return error
        error = min(every, key=lambda one: one.step)  # those ahead miss our part only
    if after.search is not None:
        _name_pairs(error, after.search)
    return error


def _name_pairs(error: CorruptedSumError, search: Callable[[], Pairs]) -> None:
    """Says in the error which pairs of replicas have wrong sums."""
    try:
        error.pairs = search()
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
