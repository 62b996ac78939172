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
from distloss._audit.child.determinism import seed
from distloss._audit.child.first_step import FirstStep, Stop
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


class Script:
    """Stands in for `build`: gives the model and the first batch of a script.

    Args:
      target: which script, and its arguments.
      strategy: of the replicas of this process; None with Horovod.
      places: notes where the script makes what.

    Attributes:
      notes: what is other than the script says, as pairs of what and why.
      is_full: whether all batches have as many rows, as far as is known.
      rows: of its batch, before that is cut.
      counts_replicas: whether it asks how many replicas there are.
      has_scope: it enters the scope of the strategy itself.
      told: what it hears then; None for the number that there is.
    """

    has_scope = True

    def __init__(self, target: dict[str, Any], strategy: Any, places: Places) -> None:
        self._target, self._strategy, self._places = target, strategy, places
        self.told: int | None = None
        self.counts_replicas = False
        self.rows = 0
        self._made = False  # a strategy
        self.notes: list[tuple[str, str]] = []
        self.is_full = False

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
        step, counted = FirstStep(self._places), Counted(self.told)
        seed()  # for what the script draws
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
            raise AuditError(self._not_found(step.updated_at))
        self.counts_replicas = counted.was_asked
        return step

    def _as_build_returns(self, model: Any, batch: Batch) -> tuple[Any, Any]:
        rows, note = batch.cut(self._target["rows"])
        if note:
            self.notes.append(("all rows", note))
        if self.told is not None:
            why = f"the script asks how many replicas there are, and hears {self.told}"
            self.notes.append(("batch that grows with the replicas", why))
        self.is_full, self.rows = batch.is_full, rows_of(batch.rows)
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

    def _not_found(self, updated_at: str) -> str:
        got = "Got to the end of the script without one"
        if updated_at:
            got += f", though an optimizer updates variables{updated_at}"
        return (
            f"Expected {self._target['name']} to train. Looked for fit or "
            "train_on_batch of a model of Keras or tf-keras, and for a strategy.run "
            f"whose function updates variables with an optimizer. {got}. Write a "
            "function build() that returns (model, batch), and audit "
            f"{self._target['name']}:build."
        )
