"""The step on all replicas: traced once for all splits, or run as it is."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import tensorflow as tf

from distloss._audit.child.built import Built, as_tensors
from distloss._audit.child.contract import leaves_of, rows_between, with_leaves
from distloss._audit.child.devices import Devices
from distloss._audit.child.holdings import optimizers_of, variables_of
from distloss._audit.child.instruments import Instruments
from distloss._audit.child.state import State


@dataclass(frozen=True)
class Traced:
    """A step that can be run.

    Attributes:
      function: takes the leaves of a batch, and the rows of each replica.
      graph: of the step, or None if it runs eagerly.
      error: why it cannot be a graph, or None.
    """

    function: Callable[[Any, Any], Any]
    graph: Any = None
    error: Exception | None = None

    @property
    def eager_because(self) -> str:
        """Why it cannot be a graph, in a line."""
        return "" if self.error is None else in_a_line(self.error)

    def variables(self) -> list[Any]:
        """Those that the graph uses."""
        return [] if self.graph is None else list(self.graph.variables)

    def __call__(self, leaves: list[Any], bounds: Any) -> Any:
        """Runs the step.

        Raises:
          Exception: of the step; of the trace where it runs eagerly for want of one.
        """
        try:
            return self.function(leaves, bounds)
        except Exception as error:
            if self.error is not None:  # no graph either: say why that is
                raise self.error from error
            raise


class Step:
    """The step of one build on all replicas."""

    def __init__(
        self, built: Built, devices: Devices, instruments: Instruments
    ) -> None:
        self._built, self._devices = built, devices
        self._instruments = instruments

    def on_all(self, leaves: Any, bounds: Any) -> Any:
        """What `fit`, or the loop of the user, would get from all replicas."""
        built = self._built

        def replica(pair: Any) -> Any:
            self._instruments.restart()
            parts = [rows_between(leaf, pair[0], pair[1]) for leaf in leaves]
            return built.model.train_step(with_leaves(built.batch, parts))

        outputs = self._devices.run(replica, bounds)
        if built.compiled is None or self._devices.strategy is None:
            return outputs
        return built.compiled.reduced(outputs, self._devices.strategy)

    def traced(self, error: Exception | None = None) -> Traced:
        """The step as a graph, if it can be one.

        Args:
          error: why it cannot, if that is known.

        Raises:
          Exception: of the step of a compiled model, which `fit` would trace, too.
        """
        built, unbuilt = self._built, self._instruments.unbuilt
        whole = [[0, built.rows]] * self._devices.replicas
        leaves = as_tensors(leaves_of(built.batch))
        arguments = leaves, self._devices.bounds_of(whole)
        runs_eagerly = built.is_keras and built.model.run_eagerly
        while not runs_eagerly and error is None:
            # Once more for each optimizer that was not built.
            function = tf.function(self.on_all, autograph=not built.is_keras)
            try:
                with self._instruments.active(), unbuilt.watching():
                    graph = function.get_concrete_function(*arguments).graph
            except Exception as met:
                if not unbuilt.build(self._devices.scope):
                    error = met
            else:
                self._look_at(graph)
                return Traced(function, graph)
        if error is not None and built.is_keras:
            raise error
        self._build_optimizers(arguments)
        return Traced(self.on_all, error=error)

    def _look_at(self, graph: Any) -> None:
        """Looks for mistakes in the graph."""
        batch = self._built.batch
        has_weights = isinstance(batch, tuple) and len(batch) == 3
        parts = tuple(leaves_of(part) for part in batch) if has_weights else ()
        targets = self._instruments.ablation.targets
        self._instruments.lint.look_at(graph, parts, targets)

    def _build_optimizers(self, arguments: Any) -> None:
        """Those of an eager step, which is begun for it and undone."""
        model, unbuilt = self._built.model, self._instruments.unbuilt
        if all(getattr(one, "built", True) for one in optimizers_of(model)):
            return
        state = State(variables_of(model), self._instruments.own_variables())
        with (
            contextlib.suppress(Exception),  # which a probe will tell
            self._instruments.active(),
            unbuilt.watching(),
        ):
            self.on_all(*arguments)
        state.restore()
        if unbuilt.build(self._devices.scope):
            self._build_optimizers(arguments)


def in_a_line(error: Exception) -> str:
    """The cause, which AutoGraph tells last, and Keras before a list of arguments."""
    plain = re.sub(r"\x1b\[[0-9;]*m", "", str(error))  # Keras prints in bold
    told = plain.partition("Arguments received by")[0].strip()
    last = (told.splitlines() or [""])[-1].strip()
    name = type(error).__name__
    return last if last.startswith(name) else f"{name}: {last}"
