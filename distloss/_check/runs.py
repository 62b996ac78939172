"""Runs a step to look at its gradient, and leaves everything as it was."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from distloss._check.batches import with_open_rows
from distloss._check.recorder import Recorder
from distloss._check.state import State
from distloss._check.together import spread_over, sums_over
from distloss._keras import switches
from distloss._keras.update_rules import watched
from distloss.replicas.alone import alone
from distloss.replicas.processes import ALONE, Processes

Array = Any  # of NumPy


@dataclass(frozen=True)
class Switched:
    """What of a step is on while it runs.

    Attributes:
      clip: whether gradients are clipped.
      batch_norm: whether BatchNormalization takes statistics of the batch.
      tape: whether the gradients of the first tape are wanted.
    """

    clip: bool = True
    batch_norm: bool = True
    tape: bool = False


@dataclass(frozen=True)
class Seen:
    """The gradient of one run of a step.

    Attributes:
      gradients: a flat array for each variable, by the id of the whole variable.
      names: path of each variable.
      shapes: the shape of each variable.
      spread: the largest relative difference between replicas.
      found: what the step has: "clip", "batch_norm".
      random: types of the operations that draw random numbers.
      eps: of the coarsest dtype in which the step computes, or sends gradients.
      tapes: the most gradients of one variable that a replica takes.
      variables: of the step, on each replica.
      factors: constants by which its forward pass multiplies or divides.
    """

    gradients: dict[int, Array]
    names: dict[int, str]
    shapes: dict[int, tuple[int, ...]] = field(default_factory=dict)
    spread: float = 0.0
    found: frozenset[str] = frozenset()
    random: tuple[str, ...] = ()
    eps: float = 2.0**-23
    tapes: int = 1
    variables: tuple[Any, ...] = ()
    factors: frozenset[float] = frozenset()


@dataclass
class Watch:
    """What is put around a step while it is traced and run."""

    switched: Switched = Switched()
    recorder: Recorder = field(default_factory=Recorder)
    found: set[str] = field(default_factory=set)

    @contextlib.contextmanager
    def active(self) -> Iterator[None]:
        """In which steps tell the recorder of their gradients."""
        with (
            watched(self.recorder.note_update),
            switches.clipping(self.found, is_on=self.switched.clip),
            switches.batch_statistics(self.found, is_on=self.switched.batch_norm),
            contextlib.ExitStack() as stack,
        ):
            if self.switched.tape:
                tapes = switches.tapes_watched(self.recorder.note_tape)
                stack.enter_context(tapes)
            yield

    def seen(self, graph: Any = None) -> Seen:
        """What the last run showed."""
        recorder = self.recorder
        wanted = recorder.of_tapes() if self.switched.tape else recorder.updates()
        return Seen(
            wanted,
            dict(recorder.names),
            dict(recorder.shapes),
            recorder.spread,
            frozenset(self.found),
            random_operations(graph),
            max(
                [
                    eps_of(graph),
                    *map(_eps, wanted.values()),
                    *map(_eps_of_16, recorder.sent),
                ]
            ),
            recorder.tapes or 1,
            () if graph is None else tuple(graph.variables),
            factors_in(graph),
        )


def on_one_device(
    step: Callable[..., Any],
    strategy: tf.distribute.Strategy,
    args: tuple[Any, ...],
    switched: Switched = Switched(),  # frozen
    processes: Processes = ALONE,
) -> Seen:
    """What `step` makes of the whole batch, on the first replica alone.

    Args:
      step: what a replica runs.
      strategy: of the replicas.
      args: of `step`.
      switched: what of it is on.
      processes: those that call this together; the first of them runs it.

    Raises:
      Exception: of the step, in all processes.
    """
    runs = _How(switched, None, processes, is_run=processes.is_first)
    return _run(_alone_on_a_device(step, strategy), args, runs)


def is_run_here(
    step: Callable[..., Any],
    strategy: tf.distribute.Strategy,
    args: tuple[Any, ...],
    switched: Switched,
) -> None:
    """Runs `step` on any number of rows, of which others hear nothing.

    Raises:
      Exception: of the step.
    """
    how = _How(switched, with_open_rows(args))
    _run(_alone_on_a_device(step, strategy), args, how)


def _alone_on_a_device(
    step: Callable[..., Any], strategy: tf.distribute.Strategy
) -> Callable[..., Any]:
    device = _first_device(strategy)

    def whole(watch: Watch, args: Any) -> None:
        # Functions within that replicas have traced before are traced again, since
        # to TensorFlow this is no device that it has seen.
        graph = tf.compat.v1.get_default_graph()
        with graph.device(lambda _operation: device), alone(strategy):
            watch.recorder.restart()
            step(*args)

    return whole


def _first_device(strategy: tf.distribute.Strategy) -> str:
    try:
        return str(strategy.extended.worker_devices[0])
    except RuntimeError:  # of the default strategy, which knows no devices
        gpus = tf.config.list_logical_devices("GPU")
        return str(gpus[0].name) if gpus else "/device:CPU:0"


def on_all_replicas(
    step: Callable[..., Any],
    strategy: tf.distribute.Strategy,
    args: tuple[Any, ...],
    switched: Switched = Switched(),  # frozen
    processes: Processes = ALONE,
) -> Seen:
    """What `step` makes of `args`, each replica of its part; as above."""

    def on_all(watch: Watch, args: Any) -> None:
        def replica(*parts: Any) -> None:
            watch.recorder.restart()
            step(*parts)

        strategy.run(replica, args)

    # Replicas run the same program, be there rows for them or not.
    how = _How(switched, with_open_rows(args), processes)
    return of_everybody(_run(on_all, args, how), switched, processes)


def of_everybody(seen: Seen, switched: Switched, processes: Processes) -> Seen:
    """What replicas of all processes have shown, given those of this one.

    Raises:
      FailedSomewhereError: other processes have updated other variables.
    """
    names = list(seen.names)
    mine = [seen.gradients.get(key) for key in names]
    if switched.tape:
        totals = sums_over(processes, mine)
        known = {k: g for k, g in zip(names, totals, strict=True) if g is not None}
        return dataclasses.replace(seen, gradients=known)
    spread = max(seen.spread, spread_over(processes, mine))
    return dataclasses.replace(seen, spread=spread)


class _How(NamedTuple):
    """How a graph is made for a function, and run.

    Attributes:
      switched: what of a step is on.
      like: what the graph takes is like this; None for the shapes of what is given.
      processes: those that make it together, and go on if none of them failed.
      is_run: whether it runs in this process.
    """

    switched: Switched
    like: Any = None
    processes: Processes = ALONE
    is_run: bool = True


def _run(function: Callable[..., Any], args: Any, how: _How) -> Seen:
    """One run of a graph that is made for it; all variables are what they were."""
    switched = how.switched
    watch = Watch(switched)
    if switched.tape:  # which variables are trained is known once they were updated
        before = Switched(switched.clip, switched.batch_norm)
        known = _run(function, args, how._replace(switched=before))
        watch.recorder.names.update(known.names)
        watch.recorder.shapes.update(known.shapes)
    traced = tf.function(lambda args: function(watch, args))
    with watch.active():

        def made() -> tuple[Any, State]:
            concrete = traced.get_concrete_function(how.like or args)
            return concrete.graph, State(concrete.graph.variables)

        graph, state = how.processes.all_make(made)
        try:
            watch.recorder.clear()
            how.processes.all_make(lambda: traced(args) if how.is_run else None)
        finally:
            state.restore()
    return watch.seen(graph)


def _graphs(graph: Any) -> Iterator[Any]:
    """The definition of a graph, and of all functions that it calls."""
    definition = graph.as_graph_def()
    yield definition.node
    for function in definition.library.function:
        yield function.node_def


_DRAW = ("Random", "Multinomial", "TruncatedNormal", "NonDeterministicInts")
_NO_DRAW = ("RandomDataset", "StatelessRandomGetKeyCounter", "StatelessRandomGetAlg")


def random_operations(graph: Any) -> tuple[str, ...]:
    """The types of what draws random numbers in a graph."""
    if graph is None:
        return ()
    types = {node.op for nodes in _graphs(graph) for node in nodes}
    drawing = {t for t in types if any(word in t for word in _DRAW)}
    return tuple(sorted(t for t in drawing if not t.startswith(_NO_DRAW)))


def factors_in(graph: Any) -> frozenset[float]:
    """The numbers by which a graph multiplies or divides, but for its gradients."""
    found: set[float] = set()
    for nodes in () if graph is None else _graphs(graph):
        constants = {node.name: node for node in nodes if node.op == "Const"}
        for node in nodes:
            if node.op in ("Mul", "RealDiv") and "gradient" not in node.name:
                names = {name.lstrip("^").partition(":")[0] for name in node.input}
                found |= _numbers(constants[name] for name in names & constants.keys())
    return frozenset(found)


def _numbers(constants: Iterable[Any]) -> set[float]:
    values = [tf.make_ndarray(node.attr["value"].tensor) for node in constants]
    return {float(value) for value in values if np.ndim(value) == 0}


_COARSE = {tf.float16: 2.0**-10, tf.bfloat16: 2.0**-7}
_COMPUTE = ("MatMul", "Conv", "Mul", "Einsum", "Add")


def eps_of(graph: Any) -> float:
    """Of the 16 bit dtype in which a graph multiplies or adds; 0 without one."""
    if graph is None:
        return 0.0
    found = [0.0]
    for node in (node for nodes in _graphs(graph) for node in nodes):
        if any(word in node.op for word in _COMPUTE) and "T" in node.attr:
            found.append(_eps_of_16(tf.as_dtype(node.attr["T"].type)))
    return max(found)


def _eps_of_16(dtype: tf.DType) -> float:
    """The same of one dtype."""
    return _COARSE.get(dtype, 0.0)


def _eps(array: Array) -> float:
    return float(np.finfo(array.dtype).eps)
