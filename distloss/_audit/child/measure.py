"""One configuration in its child process: builds, traces once, steps, records."""

from __future__ import annotations

import contextlib
import hashlib
import pathlib
import re
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras.src import dtype_policies

from distloss._audit.child import lint, tf_keras_switches
from distloss._audit.child.built import (
    checked_batch,
    checked_pair,
    in_order,
    leaves_of,
    rows_between,
    rows_of,
    shapes_of,
    with_leaves,
)
from distloss._audit.child.compiled import compiled
from distloss._audit.child.pins import Pins
from distloss._audit.child.place import Place
from distloss._audit.child.recorder import Recorder, components
from distloss._audit.child.slices import Slices
from distloss._audit.child.switches import Switches
from distloss._audit.child.unbuilt import Unbuilt
from distloss._errors import AuditError, DistlossError
from distloss._keras.model_hooks import Hook
from distloss._prepare.prepare import prepare
from distloss.replicas.horovod import HorovodReplicas


class Trainee:
    """What `build` returned, at its place."""

    def __init__(self, place: Place, folder: pathlib.Path) -> None:
        self._place, self._folder = place, folder
        slices = Slices()
        self.switches = Switches(slices)
        self._pins = Pins(self.switches)
        self._unbuilt = Unbuilt()
        self._recorder = Recorder(slices)
        self.switches.on_gradients = self._recorder.record_tape
        self.lint = lint.Calls()
        for patch in (self.switches, self._pins, self.lint):
            patch.patch()
        self._functions: dict[str, Any] = {}
        self._state: list[tuple[tf.Variable, np.ndarray]] = []
        self.eager_because = ""
        keras.utils.set_random_seed(20)  # for what is drawn while files are imported

    # -- building

    def build(self, build: Callable[[], Any]) -> dict[str, Any]:
        """Calls `build` in the strategy's scope, and looks at what it returned."""
        self._build = build
        keras.utils.set_random_seed(20)
        with self._place.scope():
            built = build()
        self.model, batch = checked_pair(built)
        self._compiled = compiled(self.model)
        self.batch = checked_batch(batch, self._place.replicas, self.model)
        self.lint.rows = rows_of(self.batch)
        self._is_keras = self._compiled is not None
        return {
            "rows": rows_of(self.batch),
            "dataset": callable(getattr(self.model, "dataset", None)),
        }

    def rebuild(self) -> None:
        """Calls `build` again, for a model and a step that are traced anew."""
        self._restore()
        self._functions, self._state = {}, []
        self.build(self._build)

    def deal(self) -> list[list[str]]:
        """The digest of each row that each replica gets first of the data set."""
        with self._place.scope():
            batches = self._place.first_batches(self.model.dataset)
        return [_digests(batch) for batch in batches]

    def save_batch(self, path: str) -> None:
        """Writes the batch for others, who must see the same."""
        arrays = tf.nest.flatten(leaves_of(self.batch), expand_composites=True)
        named: dict[str, Any] = {str(i): np.asarray(a) for i, a in enumerate(arrays)}
        np.savez(path, **named)

    def load_batch(self, path: str) -> None:
        """Takes the batch that another wrote."""
        own = leaves_of(self.batch)
        with np.load(path, allow_pickle=True) as file:  # texts
            arrays = [file[str(i)] for i in range(len(file.files))]
        shapes: Any = [array.shape for array in arrays]
        if len(arrays) == len(tf.nest.flatten(own, expand_composites=True)):
            leaves = tf.nest.pack_sequence_as(own, arrays, expand_composites=True)
            shapes = shapes_of(leaves)
        if shapes != shapes_of(own):
            raise AuditError(
                "Expected build() to return batches of the same shapes each time. Got "
                f"{shapes} on one replica and {shapes_of(own)} on "
                f"{self._place.replicas}."
            )
        self.batch = with_leaves(self.batch, leaves)

    # -- tracing

    def trace(self, batch_norm: str) -> dict[str, Any]:
        """Traces the step, once for all splits; says what it consists of."""
        self._restore()
        self.switches.batch_norm = batch_norm
        if "tf_keras" in sys.modules:
            tf_keras_switches.patch(self.switches, self._pins)
        if self._compiled and not self._functions:
            self.switches.outputs = self._compiled.build(self._place, self._tensors())
        for _ in range(3):
            watched = list(self.model.trainable_variables)
            self._recorder.patch()
            self._recorder.watch(watched)
            self._functions[batch_norm] = self._traced()
            if self._same(watched):
                break
        else:
            raise AuditError("Expected train_step to create its variables only once.")
        self._remember()
        return self._description()

    def _same(self, watched: list[Any]) -> bool:
        now = list(self.model.trainable_variables)
        if not now:
            raise AuditError(
                "Expected model.trainable_variables to be the variables that are "
                "trained. Got none."
            )
        return [id(v) for v in now] == [id(v) for v in watched]

    def _tensors(self) -> Any:
        return with_leaves(self.batch, _as_tensors(leaves_of(self.batch)))

    def _traced(self) -> Any:
        whole = [[0, rows_of(self.batch)]] * self._place.replicas
        arguments = leaves_of(self._tensors()), self._place.bounds_of(whole)
        if (self._is_keras and self.model.run_eagerly) or self.eager_because:
            self._build_optimizers(arguments)
            return self._on_all
        while True:  # once more for each optimizer that was not built
            function = tf.function(self._on_all, autograph=not self._is_keras)
            try:
                with self._active(), self._unbuilt.watching():
                    concrete = function.get_concrete_function(*arguments)
                break
            except Exception as error:
                if self._unbuilt.build(self._place.scope):
                    continue
                self._note_eager(error)
                self._build_optimizers(arguments)
                return self._on_all
        self._graph = concrete.graph
        self.lint.look_at(concrete.graph, self._weighted(), self.switches.targets)
        return function

    def _note_eager(self, error: Exception) -> None:
        """Says why a step runs eagerly; raises where that is no way out."""
        if self._is_keras:
            raise error
        self._trace_error = error
        self.eager_because = _in_a_line(error)

    def _build_optimizers(self, arguments: Any) -> None:
        """Those of an eager step, which is begun for it and undone."""
        optimizers = [o for o in _attributes(self.model) if _is_optimizer(o)]
        if all(getattr(optimizer, "built", True) for optimizer in optimizers):
            return
        self._remember()
        with (
            contextlib.suppress(Exception),  # which a probe will tell
            self._active(),
            self._unbuilt.watching(),
        ):
            self._on_all(*arguments)
        self._restore()
        if self._unbuilt.build(self._place.scope):
            self._build_optimizers(arguments)

    def _weighted(self) -> Any:
        """The leaves of x, y and sample weights; nothing if there are no weights."""
        if not isinstance(self.batch, tuple) or len(self.batch) != 3:
            return ()
        return tuple(leaves_of(part) for part in self.batch)

    @contextlib.contextmanager
    def _active(self) -> Iterator[None]:
        self.switches.active = True
        try:
            yield
        finally:
            self.switches.active = False

    def _on_all(self, leaves: Any, bounds: Any) -> Any:
        def replica(pair: Any) -> Any:
            for one in (self._pins, self.switches, self._recorder):
                one.restart()
            parts = [rows_between(leaf, pair[0], pair[1]) for leaf in leaves]
            return self.model.train_step(with_leaves(self.batch, parts))

        outputs = self._place.run(replica, bounds)
        if self._compiled is None or self._place.strategy is None:
            return outputs
        return self._compiled.reduced(outputs, self._place.strategy)

    def _description(self) -> dict[str, Any]:
        variables = self.model.trainable_variables
        optimizers = [o for o in _attributes(self.model) if _is_optimizer(o)]
        return {
            "names": [_path(v) for v in variables],
            "shapes": [[int(n) for n in v.shape] for v in variables],
            "eps": max(_eps(self.model, v) for v in variables),
            "found": sorted(self.switches.found),
            "outputs": self._outputs(),
            "clips": self._clips(),
            "clips_by_hand": "clip_by_hand" in self.switches.found,
            "adders": self.switches.adders,
            "optimizer": type(optimizers[0]).__name__ if optimizers else "",
            "is_keras": self._is_keras,
            "loss_scale": any("LossScale" in type(o).__name__ for o in optimizers),
            "eager_because": self.eager_because,
            "tapes": self._recorder.tapes,
            "lints": self.lint.findings(),
            "constants": sorted(self.lint.constants),
            "batch_sizes": sorted(self.lint.batch_sizes),
        }

    def advice(self) -> dict[str, Any]:
        """Whether the model is prepared, or can be: tried, so the last thing to ask."""
        return {
            "is_keras": self._is_keras,
            "prepared": isinstance(
                getattr(self.model, "__dict__", {}).get("train_step"), Hook
            ),
            "refusal": self._refusal(),
            "horovod": self._place.rank is not None,
        }

    def _refusal(self) -> str:
        if not self._is_keras:
            return ""
        replicas = None if self._place.rank is None else HorovodReplicas()
        try:
            with self._place.scope():
                prepare(self.model, replicas=replicas)
        except DistlossError as error:
            return str(error)
        return ""

    def _clips(self) -> list[Any]:
        """How each optimizer clips, and the indices of what it updates."""
        owners = self._recorder.owners
        found = []
        for optimizer, settings in self.switches.clips.items():
            own = [i for i, owner in sorted(owners.items()) if owner == optimizer]
            if own:
                found.append([settings, own])
        return found

    def _outputs(self) -> list[str]:
        if self._compiled is None or len(self.switches.outputs) < 2:
            return []
        return self._compiled.outputs()

    # -- state

    def _remember(self) -> None:
        ours = self._recorder.own_variables() | self.switches.own_variables()
        variables = {id(c): c for v in self._variables() for c in components(v)}
        theirs = [
            component
            for key, component in variables.items()
            if key not in ours and component.dtype != tf.resource
        ]
        for component in theirs:
            if not component.is_initialized():
                raise AuditError(
                    "Expected train_step to use variables that are there before it "
                    f"runs. Got one that creates {component.name!r} in its first call, "
                    "whose value is not known before. Create it in build()."
                )
        self._state = [(component, component.numpy()) for component in theirs]

    def _variables(self) -> list[Any]:
        found = list(self.model.trainable_variables)
        for thing in _attributes(self.model):
            if isinstance(
                thing, keras.Layer | keras.Metric | tf.Module
            ) or _is_optimizer(thing):
                found += _variables_of(thing)
            elif isinstance(thing, keras.Variable | tf.Variable):
                found.append(thing)
        graph = getattr(self, "_graph", None)
        return found if graph is None else found + list(graph.variables)

    def save_weights(self, path: str) -> None:
        """Writes the weights for others, who must start from the same."""
        arrays = [components(v)[0].numpy() for v in self._shared_variables()]
        np.savez(path, **{str(i): array for i, array in enumerate(arrays)})

    def load_weights(self, path: str) -> None:
        """Takes the weights that another wrote."""
        with np.load(path) as file:
            arrays = [file[str(i)] for i in range(len(file.files))]
        variables = self._shared_variables()
        shapes = [tuple(v.shape) for v in variables]
        if shapes != [a.shape for a in arrays]:
            raise AuditError(
                "Expected build() to make the same model whatever the number of "
                f"replicas. Got variables of shapes {[a.shape for a in arrays]} on one "
                f"and {shapes} on {self._place.replicas}."
            )
        for variable, array in zip(variables, arrays, strict=True):
            for component in components(variable):
                component.assign(array.astype(component.dtype.as_numpy_dtype))
        self._remember()

    def _shared_variables(self) -> list[Any]:
        trained = list(self.model.trainable_variables)
        if not self._is_keras:
            return trained
        known = {id(v) for v in trained}
        others = [v for v in self.model.non_trainable_variables if id(v) not in known]
        return trained + [v for v in others if "seed" not in _path(v)]

    def calibrate(self) -> None:
        """Lets the frozen BatchNormalization hold the statistics of this batch."""
        self.switches.batch_norm = "calibrating"
        before = [(c, c.numpy()) for c, _ in self._state]
        with self._active(), self._place.scope():
            if self._is_keras:
                x, *_ = keras.utils.unpack_x_y_sample_weight(self._tensors())
                self.model(x, training=True)
        self.switches.batch_norm = "frozen"
        moving = {
            id(c)
            for v in self.model.non_trainable_variables
            if "moving" in _path(v)
            for c in components(v)
        }
        for component, value in before:
            if id(component) not in moving:
                component.assign(value)
        self._remember()

    def _restore(self) -> None:
        for variable, value in self._state:
            variable.assign(value)

    # -- stepping

    def run(self, probe: dict[str, Any]) -> dict[str, Any]:
        """Restores the state, makes the steps of one probe, and says what was seen."""
        nudge = probe.pop("nudge")
        if nudge:
            path = self.run({**probe, "nudge": 0.0})["path"]
        self._restore()
        if nudge:
            self._move_weights(nudge * np.load(path))
        self.switches.batch_norm = probe["batch_norm"]
        self.switches.put(probe)
        self._recorder.clear()
        before = self._weights()
        if self._is_keras:
            self.model.reset_metrics()
        started = time.perf_counter()
        for bounds in probe["micro"]:
            outputs = self._step(probe, bounds)
        seconds = time.perf_counter() - started
        result = self._seen(probe, before)
        return result | {"loss": self._reported(outputs), "seconds": seconds}

    def _move_weights(self, by: np.ndarray) -> None:
        start = 0
        for variable in self.model.trainable_variables:
            for component in components(variable):
                size = int(np.prod(component.shape))
                change = by[start : start + size].reshape(component.shape)
                component.assign_add(tf.cast(change, component.dtype))
            start += size

    def _step(self, probe: dict[str, Any], bounds: Any) -> Any:
        leaves = _as_tensors(_changed(leaves_of(self.batch), probe))
        with self._active():
            function = self._functions[probe["batch_norm"]]
            try:
                return function(leaves, self._place.bounds_of(bounds))
            except Exception as error:
                if self.eager_because:  # no graph either: say why that is
                    raise self._trace_error from error
                raise

    def _weights(self) -> list[list[np.ndarray]]:
        variables = self.model.trainable_variables
        return [[c.numpy() for c in components(v)] for v in variables]

    def _seen(
        self, probe: dict[str, Any], before: list[list[np.ndarray]]
    ) -> dict[str, Any]:
        after = self._weights()
        parts, sources, spread = [], set(), 0.0
        size = sum(float(np.sum(np.square(w[0]))) for w in before) ** 0.5
        for index, (old, new) in enumerate(zip(before, after, strict=True)):
            moved = float(np.max(np.abs(new[0] - old[0]), initial=0.0))
            change = _wide_array(old[0]) - _wide_array(new[0])
            if probe["observe"] == "tape":
                parts.append(self._recorder.of_first_tapes(index))
            elif probe["observe"] == "gradient" and self._recorder.seen(index):
                sources.add("gradient")
                arrived = self._recorder.gradients(index)
                spread = max(spread, _spread(arrived))
                parts.append(arrived[0])
            else:
                if moved:
                    sources.add("weights")
                parts.append(change)
            spread = max(spread, _spread([old[0] - w for w in new], old[0]))
        flat = np.concatenate([np.ravel(part) for part in parts])
        path = str(self._folder / f"{probe['key']}.npy")
        np.save(path, flat)
        return {
            "path": path,
            "sources": sorted(sources),
            "spread": spread,
            "size": size,
            "repeats": int(self.switches.slices.repeats.numpy()),
            "losses": self._recorder.losses(),
            "moves_weights": self._recorder.moves_weights(),
            "moved": any(
                not np.array_equal(old[0], new[r], equal_nan=True)
                for old, new in zip(before, after, strict=True)
                for r in range(len(new))
            ),
            "weights_finite": all(np.isfinite(w).all() for ws in after for w in ws),
        }

    def _reported(self, outputs: Any) -> list[float]:
        if self._compiled:
            logs = self._compiled.logs(outputs)
            return _number(logs.get("loss") if isinstance(logs, dict) else logs)
        local = self._place.local_results
        if isinstance(outputs, dict):
            outputs = outputs.get("loss")
        elif isinstance(outputs, (tuple, list)) and outputs:
            outputs = outputs[0]
        return [n for value in local(outputs) for n in _number(value)]


def _digests(batch: Any) -> list[str]:
    """Of each row: the same for rows that hold the same."""
    leaves = [np.asarray(leaf) for leaf in tf.nest.flatten(batch)]
    rows = zip(*leaves, strict=True)
    return [
        hashlib.sha256(b"".join(np.asarray(x).tobytes() for x in row)).hexdigest()
        for row in rows
    ]


def _number(value: Any) -> list[float]:
    try:
        array = np.asarray(value)
        return [float(array)] if array.size == 1 else []
    except (TypeError, ValueError):
        return []


def _in_a_line(error: Exception) -> str:
    """The cause, which AutoGraph tells last, and Keras before a list of arguments."""
    plain = re.sub(r"\x1b\[[0-9;]*m", "", str(error))  # Keras prints in bold
    told = plain.partition("Arguments received by")[0].strip()
    last = (told.splitlines() or [""])[-1].strip()
    name = type(error).__name__
    return last if last.startswith(name) else f"{name}: {last}"


def _as_tensors(leaves: list[Any]) -> list[Any]:
    """Arrays as tensors; ragged and sparse ones are so already."""
    return [
        tf.convert_to_tensor(leaf) if isinstance(leaf, np.ndarray) else leaf
        for leaf in leaves
    ]


def _changed(leaves: list[Any], probe: dict[str, Any]) -> list[Any]:
    order, row = probe["order"], probe["infinite_row"]
    if order is not None:
        leaves = [in_order(leaf, order) for leaf in leaves]
    if row is not None:
        leaves = list(leaves)
        for i, leaf in enumerate(leaves):
            if isinstance(leaf, np.ndarray) and leaf.dtype.kind == "f":
                leaves[i] = np.array(leaf)
                leaves[i][row] = np.inf
                break
    return leaves


def _wide_array(array: np.ndarray) -> np.ndarray:
    return array.astype(np.float64 if array.dtype == np.float64 else np.float32)


def _spread(arrays: list[np.ndarray], scale: Any = None) -> float:
    """The largest relative difference of any replica's array from the first."""
    first = _wide_array(arrays[0])
    size = float(np.linalg.norm(first))
    noise = 0.0
    if scale is not None:
        # The difference of two weights is no more exact than the weights.
        noise = 8 * _finfo_eps(scale) * float(np.linalg.norm(_wide_array(scale)))
    worst = 0.0
    for other in arrays[1:]:
        wide = _wide_array(other)
        if np.array_equal(first, wide, equal_nan=True):
            continue
        apart = float(np.linalg.norm(wide - first)) - noise
        largest = max(size, float(np.linalg.norm(wide)))
        if not np.isfinite(apart):
            return float("inf")
        worst = max(worst, apart / largest if largest else 0.0)
    return worst


def _finfo_eps(array: np.ndarray) -> float:
    return float(tf.experimental.numpy.finfo(_wide_array(array).dtype).eps)


def _eps(model: Any, variable: Any) -> float:
    """Of the dtype in which this variable's gradient is computed."""
    policies = [getattr(model, "compute_dtype", None)]
    if hasattr(model, "_flatten_layers"):
        policies += [layer.compute_dtype for layer in model._flatten_layers()]
    policies += [dtype_policies.get(None).compute_dtype]
    epsilons = {"float16": 2.0**-10, "bfloat16": 2.0**-7, "float32": 2.0**-23}
    known = [epsilons[p] for p in policies if p in epsilons]
    own = tf.as_dtype(variable.dtype).name
    return max([*known, epsilons.get(own, 2.0**-52)])


def _path(variable: Any) -> str:
    return str(getattr(variable, "path", variable.name))


def _attributes(thing: Any) -> list[Any]:
    """`thing` and what it holds, one level of lists and dictionaries deep."""
    found = [thing]
    for value in list(getattr(thing, "__dict__", {}).values()):
        if isinstance(value, dict):
            found += list(value.values())
        elif isinstance(value, (list, tuple)):
            found += list(value)
        else:
            found.append(value)
    return found


def _variables_of(thing: Any) -> list[Any]:
    try:
        variables = thing.variables  # a method of legacy optimizers of tf-keras
        return list(variables() if callable(variables) else variables)
    except TypeError:  # Horovod's optimizers call what is a list in Keras 3
        return list(thing._variables)


def _is_optimizer(thing: Any) -> bool:
    return callable(getattr(thing, "apply_gradients", None))
