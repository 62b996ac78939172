"""The check of a step of a loop of one's own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import tensorflow as tf

from distloss._check.checked import StepOfReplicas
from distloss._check.measured import Place
from distloss._check.report import StepReport, checked_way, deliver
from distloss._check.runs import on_all_replicas
from distloss._errors import ArgumentTypeError, ContextError
from distloss.replicas.horovod import HorovodReplicas
from distloss.replicas.processes import processes_of, strategy_of_steps


def check_step(
    step: Callable[..., Any],
    *args: Any,
    strategy: tf.distribute.Strategy | None = None,
    replicas: HorovodReplicas | None = None,
    on_failure: str = "raise",
) -> StepReport:
    """Checks that a step on all replicas has the gradient of one device.

    For a loop of your own: call it before the first `strategy.run(step, args)`, with
    the same batch. The step runs once on all replicas, and once on the first device
    with the rows of all of them. What reaches the update rules of Keras optimizers is
    compared: unscaled, summed and clipped. Then all variables that the step has used
    are what they were: no update is made. Optimizers must be built before.

    Args:
      step: the function given to `strategy.run`, which makes an update.
      *args: its arguments, as for `strategy.run(step, args)`.
      strategy: of the replicas; None means the one in whose scope this is called, or
        the processes of Horovod.
      replicas: which of Horovod's processes take the step together; None for all. They,
        or all workers of the strategy, must call this together.
      on_failure: where the two differ, `"raise"` or `"warn"`.

    Returns:
      the `StepReport`, which is also shown: `agrees`, `scale` (alpha), `residual`
      (rho), `variables`, `causes`, `why`.

    Raises:
      GradientError: the gradients differ, with `on_failure="raise"`.
      ArgumentTypeError: `step` cannot be called.
      ArgumentError: an unknown `on_failure`.
      ContextError: called in a `tf.function` or in replica context, or there is no
        strategy.

    Example:
      >>> import keras, tensorflow as tf
      >>> from distloss import check_step
      >>> strategy = tf.distribute.OneDeviceStrategy("CPU:0")
      >>> with strategy.scope():
      ...     weight = keras.Variable([3.0])
      ...     optimizer = keras.optimizers.SGD(0.5)
      ...     optimizer.build([weight])
      >>> def step(x):
      ...     with tf.GradientTape() as tape:
      ...         loss = tf.reduce_mean(x * weight)
      ...     optimizer.apply(tape.gradient(loss, [weight]), [weight])
      >>> check_step(step, tf.ones([4]), strategy=strategy).agrees
      distloss: this step: 1 replicas give the gradient of one device: 0e+00 apart, \
float32 allows 7e-05
      True

    Reference: examples/guides/on_your_hardware.md.
    """
    checked_way(on_failure)
    found = _checked_strategy(step, strategy)
    # A function of TensorFlow may have been traced for replicas before.
    own = getattr(step, "python_function", step)
    processes = processes_of(found, replicas)
    seen = on_all_replicas(own, found, args)
    checked = StepOfReplicas(own, args, Place(found, processes))
    report = checked.check(lambda: seen)
    deliver(report, on_failure, is_first=processes.is_first)
    return report


def _checked_strategy(step: Any, strategy: Any) -> tf.distribute.Strategy:
    if not callable(step):
        raise ArgumentTypeError(
            "Expected step= to be the function that is given to strategy.run. Got "
            f"step={step!r} of type {type(step).__name__}."
        )
    if not tf.executing_eagerly():
        raise ContextError(
            "Expected check_step to be called from plain Python, before a step. Got a "
            "call in a tf.function or in a replica. Call it outside of both."
        )
    found = strategy or strategy_of_steps()
    if found is None:
        raise ContextError(
            "Expected a strategy whose replicas take the step. Got strategy=None "
            "outside any scope. Pass strategy=, or call it in strategy.scope()."
        )
    return found
