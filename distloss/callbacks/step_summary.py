"""The callback that writes for TensorBoard what steps are like."""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from distloss._errors import ArgumentError
from distloss._keras.compiled_model import losses_given_to
from distloss._keras.tf_keras import Callback
from distloss._keras.versions import per_replica_variable
from distloss.callbacks.arguments import checked_every
from distloss.optimizers.monitor import Monitor


class StepSummary(Callback):
    """Writes for TensorBoard what a step divides by, its gradient, and what it skips.

    - `distloss/gradient_norm`: of all gradients, after they were summed over replicas
      and unscaled, before they are clipped.
    - `distloss/denominator/LOSS`: W of each loss, over all replicas: rows, elements or
      weights, as its reduction says.
    - `distloss/skipped_steps`: how many updates had gradients that were not finite.
      Those of a `LossScaleOptimizer` were skipped by all replicas.

    Loss and metrics of a prepared model are right in `keras.callbacks.TensorBoard`.
    Under Horovod, pass it on one process. Steps cost one more read of the gradients.

    Args:
      log_dir: folder of the event files, as for `keras.callbacks.TensorBoard`.
      every: steps from one summary to the next, a positive int.

    Raises:
      ArgumentError: `every` is below 1, or, when training begins, the model is not
        prepared.

    Example:
      >>> from distloss.callbacks import StepSummary
      >>> callbacks = [StepSummary("logs", every=100)]  # for model.fit
    """

    def __init__(self, log_dir: Any, *, every: int = 1) -> None:
        super().__init__()
        self.log_dir, self.every = str(log_dir), checked_every(every)
        self._written: dict[str, tf.Variable] = {}

    def on_train_begin(self, logs: Any = None) -> None:
        """Lets the model's optimizer and losses note what steps are like."""
        optimizer = _one_that_notes(self.model.optimizer)
        if not self._written:
            with self.model.distribute_strategy.scope():
                self._begin(optimizer)
        self._writer = tf.summary.create_file_writer(self.log_dir)

    def _begin(self, optimizer: Any) -> None:
        optimizer.monitor = Monitor()
        self._written = {
            "gradient_norm": optimizer.monitor.gradient_norm,
            "skipped_steps": optimizer.monitor.skipped,
        }
        for loss in losses_given_to(self.model):
            if hasattr(loss, "monitor"):
                loss.monitor = per_replica_variable((), "float32", "only_first_replica")
                name = f"denominator/{loss.name}"
                while name in self._written:  # several outputs, each with the same loss
                    name += "_"
                self._written[name] = loss.monitor
        self.model.make_train_function(force=True)  # those traced before note nothing

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        """Writes, every so many steps."""
        step = int(self.model.optimizer.iterations.numpy())
        if step % self.every:
            return
        with self._writer.as_default(step):
            for name, variable in self._written.items():
                tf.summary.scalar(f"distloss/{name}", variable.read_value())

    def on_train_end(self, logs: Any = None) -> None:
        """Closes the file."""
        self._writer.close()


def _one_that_notes(optimizer: Any) -> Any:
    """The optimizer that notes what steps are like: that of tf-keras is the inner one.

    Raises:
      ArgumentError: it is not distributed.
    """
    inner = getattr(optimizer, "inner_optimizer", optimizer)
    for found in (optimizer, inner):
        if hasattr(found, "monitor"):
            return found
    raise ArgumentError(
        "Expected a model whose optimizer is distributed. Got "
        f"{type(optimizer).__name__}. Call distloss.prepare(model) after "
        "model.compile(...)."
    )
