"""A script as it is, in a child of the audit: run up to its first training step."""

from __future__ import annotations

import contextlib
import pathlib
import sys
import types
from typing import Any

import keras

from distloss._audit.child.contract import rows_of
from distloss._audit.child.count import Counted
from distloss._audit.child.determinism import seed_process
from distloss._audit.child.devices import Devices
from distloss._audit.child.first_step import FirstStep, Stop
from distloss._audit.child.loop import all_dense
from distloss._audit.child.module_paths import find_modules_in
from distloss._audit.child.places import Places
from distloss._audit.child.script_batch import Batch, as_it_is
from distloss._audit.child.sources import code_of
from distloss._audit.child.stand_ins import in_place_of_strategies
from distloss._errors import AuditError
from distloss._keras import tf_keras

_NONE = "the script makes none: it runs in the scope of MirroredStrategy here"
_OUTSIDE = (
    "the script makes one, and its first training step is outside of its scope, on one "
    "device: here it runs in that scope"
)

_RAGGED = (
    "Expected dense arrays as the batch of each process, to take those of all "
    "together. Got ragged or sparse tensors. Write a function build() that returns "
    "(model, batch) with the rows of all processes, and audit that."
)


class Script:
    """Stands in for `build`: gives the model and the first batch of a script.

    Args:
      target: which script, and its arguments.
      devices: where the replicas of this process are.
      places: notes where the script makes what.

    Attributes:
      notes: what is other than the script says, as pairs of what and why.
      batches: what is known of the rows of all batches.
      rows: of its batch, before that is cut.
      dealt: for each replica, its part, where the script deals out its data.
      counts_replicas: whether it asks how many replicas there are.
      has_scope: it enters the scope of the strategy itself.
      is_part: whether its batch is only that of this process, of several.
      told: what it hears then; None for the number that there is.
    """

    has_scope = True

    def __init__(
        self, target: dict[str, Any], devices: Devices, places: Places
    ) -> None:
        self._target, self._devices, self._places = target, devices, places
        self._strategy = devices.strategy
        self.is_part = devices.strategy is None
        self.told: int | None = None
        self.counts_replicas = False
        self.rows = 0
        self._made = False  # a strategy
        self.notes: list[tuple[str, str]] = []
        self.dealt: list[Any] = []
        self.batches = Batch(None)

    def __call__(self) -> tuple[Any, Any]:
        """Runs the script; model and batch of its first training step.

        Raises:
          AuditError: it ended without one.
          BaseException: what the script raised before.
        """
        find_modules_in(self._target["paths"])
        step = self._first_step(contextlib.nullcontext())
        if self._strategy is not None and step.strategy is not self._strategy:
            # It makes no strategy, or trains outside of its scope.
            step = self._first_step(self._strategy.scope())
            self._note(_OUTSIDE if self._made else _NONE)
        return self._as_build_returns(*step.taken())

    def _first_step(self, scope: Any) -> FirstStep:
        """The first training step of the script, run in `scope`."""
        self.notes, self._made = [], False
        step = FirstStep(self._places, is_process=self.is_part)
        counted = Counted(self.told)
        seed_process(self._devices.rank or 0)  # for what the script draws
        with (
            scope,
            in_place_of_strategies(self._strategy, self._note_strategy),
            counted.watching(),
            step.watching(),
        ):
            try:
                self._run()
            except Stop:
                pass
            except BaseException:
                # After its first step, nothing that the script does matters.
                if step.found is None:
                    raise
        if step.found is None:
            raise AuditError(self._not_found(step))
        self.counts_replicas = counted.was_asked
        return step

    def _as_build_returns(self, model: Any, batch: Batch) -> tuple[Any, Any]:
        rows, note = batch.cut(self._target["rows"], self._processes())
        self.notes += batch.notes
        if note:
            self.notes.append(("all rows", note))
        if self.told is not None:
            why = f"the script asks how many replicas there are, and hears {self.told}"
            self.notes.append(("batch that grows with the replicas", why))
        self.batches, self.rows = batch, rows_of(batch.rows)
        self.dealt = list(batch.dealt) if all_dense(batch.dealt) else []
        if self.is_part and not all_dense([rows]):
            raise AuditError(_RAGGED)
        if tf_keras.is_model(model) and not model.built:
            # Weights are made in the first step; until then one cannot ask for them.
            scope = (
                contextlib.nullcontext
                if self._strategy is None
                else self._strategy.scope
            )
            with scope():
                model(keras.utils.unpack_x_y_sample_weight(rows)[0])
        return model, as_it_is(rows) if isinstance(model, keras.Model) else rows

    def _processes(self) -> int:
        """How many share a batch of which each has a part."""
        return self._devices.replicas if self.is_part else 1

    def _run(self) -> None:
        path = pathlib.Path(self._target["script"])
        module = types.ModuleType("__main__")
        module.__file__ = str(path)
        sys.modules["__main__"] = module
        sys.argv[:] = self._target["argv"]
        exec(code_of(path, self._target.get("source")), vars(module))

    def _note_strategy(self, name: str) -> None:
        self._made = True
        if name != "MirroredStrategy":
            self._note(f"{name} is MirroredStrategy over virtual replicas here")

    def _note(self, why: str) -> None:
        if self._strategy is not None and ("strategy", why) not in self.notes:
            self.notes.append(("strategy", why))

    def _not_found(self, step: FirstStep) -> str:
        got = "Got to the end of the script without one"
        if step.updated_at:
            got += f", though an optimizer updates variables{step.updated_at}"
        return (
            f"Expected {self._target['name']} to train. Looked for fit or "
            "train_on_batch of a model of Keras or tf-keras, and for "
            f"{step.other_way()}. {got}. Write a function build() that returns "
            f"(model, batch), and audit {self._target['name']}:build."
        )
