"""One configuration in its child process: builds, traces once, steps, records."""

from __future__ import annotations

import dataclasses
import pathlib
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from distloss._audit.child import described, observed
from distloss._audit.child.built import (
    as_tensors,
    built,
    digests,
    joined,
    loaded_batch,
    save_batch,
)
from distloss._audit.child.contract import in_order, leaves_of, with_leaves
from distloss._audit.child.devices import Devices
from distloss._audit.child.float64 import compute_in_float64
from distloss._audit.child.holdings import path_of, shared_variables, variables_of
from distloss._audit.child.instruments import Instruments, installed
from distloss._audit.child.recorder import components
from distloss._audit.child.script import Script
from distloss._audit.child.state import State, digest_of, load_weights, save_weights
from distloss._audit.child.traced import Step, Traced
from distloss._errors import AuditError


@dataclass(frozen=True)
class Process:
    """What is the same for all steps that this process builds.

    Attributes:
      devices: where replicas are.
      instruments: what watches and changes a step.
      folder: for what is too large for an answer.
    """

    devices: Devices
    instruments: Instruments
    folder: pathlib.Path

    @classmethod
    def started(cls, settings: dict[str, Any]) -> Process:
        """Takes devices, and puts the instruments into TensorFlow and Keras.

        Raises:
          AuditError: the devices do not work.
        """
        count, rank = settings["replicas"], settings.get("rank")
        devices = Devices(count, settings["devices"], rank)
        devices.check_collective()
        instruments = installed()
        if settings["float64"]:
            compute_in_float64()
        return cls(devices, instruments, pathlib.Path(settings["folder"]))


class StepUnderTest:
    """What one call of `build` returned, on its devices.

    Its public methods answer the questions of the audit.

    Args:
      build: of the user.
      process: in which it is built.

    Raises:
      AuditError: `build` returned something else than was asked for.
    """

    def __init__(self, build: Callable[[], Any], process: Process) -> None:
        self._devices, self._instruments = process.devices, process.instruments
        self._folder = process.folder
        self._built = built(build, process.devices)
        self._script = build if isinstance(build, Script) else None
        self._traced: dict[str, Traced] = {}  # by the state of BatchNormalization
        self._state = State([], set())
        self._instruments.lint.rows = self._built.rows

    # -- building

    def about(self) -> dict[str, Any]:
        """What is known before it is traced."""
        model, script = self._built.model, self._script
        has_data_set = callable(getattr(model, "dataset", None))
        return {
            "rows": self._built.rows,
            "dataset": has_data_set or bool(script and script.dealt),
            "notes": script.notes if script else [],
            "rows_of_script": script.rows if script else 0,
            "counts_replicas": script.counts_replicas if script else False,
            "is_part": script.is_part if script else False,
            "always": script.rows if script and script.batches.is_full else 0,
            "count": script.batches.count if script else 0,
        }

    def sharding(self) -> list[list[str]]:
        """The digest of each row that each replica gets first of the data set."""
        if self._script is not None and self._script.is_part:
            return [digests(leaves_of(self._built.batch))]
        if self._script is not None:
            return [digests(leaves_of(part)) for part in self._script.dealt]
        with self._devices.scope():
            batches = self._devices.first_batches(self._built.model.dataset)
        return [digests(batch) for batch in batches]

    def save_batch(self, path: str) -> None:
        """Writes the batch for others, who must see the same."""
        save_batch(self._built.batch, path)

    def save_part(self, path: str) -> None:
        """Writes the rows of this process."""
        save_batch(self._built.batch, _part(path, self._devices.rank))

    def join_parts(self, path: str) -> None:
        """Takes the rows of all processes, and writes them once, for others."""
        every = [_part(path, rank) for rank in range(self._devices.replicas)]
        batch = joined(self._built.batch, every)
        self._built = dataclasses.replace(self._built, batch=batch)
        self._instruments.lint.rows = self._built.rows
        if not self._devices.rank:
            save_batch(batch, path)

    def load_batch(self, path: str) -> None:
        """Takes the batch that another wrote."""
        replicas = self._devices.replicas
        same_shapes = self._script is None
        batch = loaded_batch(self._built.batch, path, replicas, same_shapes)
        self._built = dataclasses.replace(self._built, batch=batch)
        self._instruments.lint.rows = self._built.rows

    def advice(self) -> dict[str, Any]:
        """Whether the model is prepared, or can be: tried, so the last thing to ask."""
        return described.advice(self._built, self._devices)

    def places(self) -> dict[str, Any]:
        """Where the user's code made what findings are about."""
        return self._instruments.places.of(self._built.model)

    # -- tracing

    def trace(self, batch_norm: str) -> dict[str, Any]:
        """Traces the step, once for all splits; says what it consists of."""
        self.restore()
        self._instruments.ablation.batch_norm = batch_norm
        self._instruments.patch_tf_keras()
        compiled = self._built.compiled
        if compiled and not self._traced:
            outputs = compiled.build(self._devices, self._tensors())
            self._instruments.ablation.outputs = outputs
        traced = self._trace_with_all_variables()
        self._traced[batch_norm] = traced
        self._remember()
        return described.description(self._built, self._instruments, traced)

    def _trace_with_all_variables(self) -> Traced:
        """Traces again where a trace creates variables, which were not recorded."""
        model, recorder = self._built.model, self._instruments.recorder
        step = Step(self._built, self._devices, self._instruments)
        error = next((t.error for t in self._traced.values() if t.error), None)
        for _ in range(3):
            watched = list(model.trainable_variables)
            recorder.patch()
            recorder.watch(watched)
            traced = step.traced(error)
            error = traced.error
            now = list(model.trainable_variables)
            if not now:
                raise AuditError(
                    "Expected model.trainable_variables to be the variables that are "
                    "trained. Got none."
                )
            if [id(v) for v in now] == [id(v) for v in watched]:
                return traced
        raise AuditError("Expected train_step to create its variables only once.")

    def _tensors(self) -> Any:
        batch = self._built.batch
        return with_leaves(batch, as_tensors(leaves_of(batch)))

    # -- state

    def restore(self) -> None:
        """Gives all variables the values from which probes start."""
        self._state.restore()

    def _remember(self) -> None:
        self._state = self._state_now()

    def _state_now(self) -> State:
        variables = variables_of(self._built.model)
        for traced in self._traced.values():
            variables += traced.variables()
        return State(variables, self._instruments.own_variables())

    def save_weights(self, path: str) -> None:
        """Writes the weights for others, who must start from the same."""
        save_weights(self._shared_variables(), path)

    def load_weights(self, path: str) -> str:
        """Takes the weights that another wrote; the digest of those from before."""
        variables = self._shared_variables()
        before = digest_of(variables)
        load_weights(variables, path, self._devices.replicas)
        self._remember()
        return before

    def _shared_variables(self) -> list[Any]:
        return shared_variables(self._built.model, is_keras=self._built.is_keras)

    def calibrate(self) -> None:
        """Lets the frozen BatchNormalization hold the statistics of this batch.

        In a step of the user's own it keeps those that it has, since nobody else knows
        how the model in there is called. These, too, are the same on all replicas.
        """
        if not self._built.is_keras:
            return
        model, ablation = self._built.model, self._instruments.ablation
        before = self._state_now()
        ablation.batch_norm = "calibrating"
        with self._instruments.active(), self._devices.scope():
            x, *_ = keras.utils.unpack_x_y_sample_weight(self._tensors())
            model(x, training=True)
        ablation.batch_norm = "frozen"
        moving = {
            id(c)
            for v in model.non_trainable_variables
            if "moving" in path_of(v)
            for c in components(v)
        }
        before.restore(keep=moving)
        self._remember()

    # -- stepping

    def run(self, probe: dict[str, Any]) -> dict[str, Any]:
        """Restores the state, makes the steps of one probe, and says what was seen."""
        nudge = probe.pop("nudge")
        if nudge:
            path = self.run({**probe, "nudge": 0.0})["path"]
        self.restore()
        if nudge:
            self._move_weights(nudge * np.load(path))
        if probe["shifted"] is not None:
            self._shift(probe["shifted"])
        model, instruments = self._built.model, self._instruments
        instruments.ablation.batch_norm = probe["batch_norm"]
        instruments.ablation.put(probe)
        instruments.recorder.clear()
        before = observed.weights_of(model)
        if self._built.is_keras:
            model.reset_metrics()
        started = time.perf_counter()
        for bounds in probe["micro"]:
            if probe["held"]:
                observed.put_weights(model, before)
            outputs = self._step(probe, bounds)
        seconds = time.perf_counter() - started
        change = observed.Change(before, observed.weights_of(model))
        seen = self._seen(probe, change)
        loss = observed.reported(self._built, self._devices, outputs)
        return seen | {"loss": loss, "seconds": seconds}

    def _move_weights(self, by: np.ndarray) -> None:
        start = 0
        for variable in self._built.model.trainable_variables:
            for component in components(variable):
                size = int(np.prod(component.shape))
                change = by[start : start + size].reshape(component.shape)
                component.assign_add(tf.cast(change, component.dtype))
            start += size

    def _shift(self, index: int) -> None:
        """Moves one variable by about its size, each element by another amount."""
        for component in components(self._built.model.trainable_variables[index]):
            value = component.numpy().astype(np.float64)
            size = np.sqrt(np.mean(np.square(value))) or 1.0
            by = np.cos(1.0 + np.arange(value.size)).reshape(value.shape)
            component.assign(tf.cast(value + size * by, component.dtype))

    def _step(self, probe: dict[str, Any], bounds: Any) -> Any:
        leaves = as_tensors(_changed(leaves_of(self._built.batch), probe))
        with self._instruments.active():
            traced = self._traced[probe["batch_norm"]]
            return traced(leaves, self._devices.bounds_of(bounds))

    def _seen(self, probe: dict[str, Any], change: observed.Change) -> dict[str, Any]:
        recorder, slices = self._instruments.recorder, self._instruments.slices
        seen = change.observed(recorder, probe["observe"])
        path = str(self._folder / f"{probe['key']}.npy")
        np.save(path, seen.pop("gradient"))
        return seen | {
            "path": path,
            "repeats": int(slices.repeats.numpy()),
            "losses": recorder.losses(),
            "moves_weights": recorder.moves_weights(),
            **change.about(),
        }


def _part(path: str, rank: int | None) -> str:
    return f"{path}.{rank}.npz"


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
