"""What distloss overrides in optimizers of Keras 3, so that they update with sums.

Keras clips the gradients of each replica, looks for overflow on replica 0, and only
then sums over replicas. Optimizers of distloss sum before Keras does anything. What is
here keeps Keras from summing again, and from updating with what nobody has summed.
https://github.com/keras-team/keras/blob/v3.12.0/keras/src/backend/tensorflow/optimizer.py
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import keras
import tensorflow as tf

from distloss._errors import ContextError
from distloss._keras.private_names.of_optimizers import AVERAGES
from distloss._keras.versions import OPTIMIZERS_SUM

if TYPE_CHECKING:
    from keras.optimizers import Optimizer as _KerasOptimizer
else:  # the class of Keras that these go before is chosen when an optimizer is wrapped
    _KerasOptimizer = object


class GivenSums(_KerasOptimizer):
    """Goes before an optimizer class of Keras: its gradients were summed already."""

    @property
    def _holds_sums(self) -> bool:
        """Whether the gradients that come now were summed over replicas."""
        return _thread.updates_seen is not None

    def _updating(self) -> contextlib.AbstractContextManager[None]:
        """In which this optimizer holds sums."""
        return _updates_with_sums()

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
        # Before Keras 3.5 the sum is asked for later, on a thread of no replica.
        if not OPTIMIZERS_SUM:
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
        averages = AVERAGES.of(self)
        for variable, average in zip(variables, averages, strict=True):
            variable.assign(average)


class LossScaleGivenSums(GivenSums):
    """Goes before `LossScaleOptimizer`: its finite check must see sums, too.

    What uses it has a method `_sum_and_apply`, which sums and makes an update.
    """

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
        else:
            # The first step of one that was taken over: `apply` was still that of Keras
            self._sum_and_apply(grads, trainable_variables)

    def _stateful_handle_finite_grads(self, grads: Any, variables: Any) -> None:
        if not self._sums_come:
            raise _around_the_sum(self)
        with _updates_with_sums():
            super()._stateful_handle_finite_grads(grads, variables)


class _Thread(threading.local):
    # The updates that Keras made of summed gradients, or None where they are not; and
    # how many it began.
    updates_seen: int | None = None
    updates_due = 0


_thread = _Thread()


@contextlib.contextmanager
def _updates_with_sums() -> Iterator[None]:
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


def _around_the_sum(optimizer: Any) -> ContextError:
    return ContextError(
        "Expected gradients that were summed over replicas. Got an update by a way "
        f"around apply() and apply_gradients() of {type(optimizer).__name__}. Call one "
        "of these."
    )
