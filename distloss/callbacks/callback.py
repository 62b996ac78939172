"""What our callbacks have in common."""

from __future__ import annotations

from typing import Any

import keras

from distloss._errors import ArgumentError


class Callback(keras.callbacks.Callback):
    """A callback of Keras 3 that `fit` of tf-keras (Keras 2) takes as well.

    That asks callbacks for which batches they have something to do:
    https://github.com/keras-team/tf-keras/blob/v2.21.0/tf_keras/src/callbacks.py
    """

    def _implements_train_batch_hooks(self) -> bool:
        return True

    def _implements_test_batch_hooks(self) -> bool:
        return False

    def _implements_predict_batch_hooks(self) -> bool:
        return False


def checked_every(every: Any) -> int:
    """A number of batches, which an argument `every=` must be."""
    if not isinstance(every, int) or isinstance(every, bool) or every < 1:
        raise ArgumentError(
            "Expected every= to be at least 1 batch from one to the next, an int. Got "
            f"every={every!r}."
        )
    return every
