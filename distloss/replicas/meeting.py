"""Where replicas of one process wait for each other."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import tensorflow as tf

from distloss._errors import ContextError
from distloss._keras import added_losses


@contextlib.contextmanager
def meeting_others() -> Iterator[None]:
    """In which a replica may wait while others take their turns.

    Keeps what layers have added on this one, and says what to do where TensorFlow says
    that replicas cannot meet here. They meet in the graph in which `strategy.run` was
    called; a `tf.function`, `tf.cond` or `tf.while_loop` inside the replica function
    traces one of its own.
    https://github.com/tensorflow/tensorflow/blob/v2.21.0/tensorflow/python/distribute/mirrored_run.py
    """
    try:
        with added_losses.kept(tf.distribute.get_strategy):
            yield
    except RuntimeError as error:
        if isinstance(error, ContextError) or "merge_call" not in str(error):
            raise
        raise ContextError(
            "Expected a sum over replicas in the replica function itself. Got one in a "
            "tf.function, tf.cond or tf.while_loop inside it, where this strategy "
            "cannot sum. Take @tf.function (and jit_compile=True, which several "
            "replicas can use on TPU only) off the inner function and put it around "
            "strategy.run(...); call the loss or optimizer outside the tf.cond."
        ) from error
