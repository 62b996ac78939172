"""A script as it is, in a child of the audit: run up to its first training step."""

from __future__ import annotations

import pathlib
import sys
import types
from typing import Any

from distloss._audit.child.child import find_modules_in
from distloss._audit.child.contract import rows_of
from distloss._audit.child.count import Counted
from distloss._audit.child.first_step import FirstStep, Stop
from distloss._audit.child.places import Places
from distloss._audit.child.script_batch import Batch
from distloss._audit.child.stand_ins import in_place_of_strategies
from distloss._errors import AuditError


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
      told: what it hears then; None for the number that there is.
    """

    def __init__(self, target: dict[str, Any], strategy: Any, places: Places) -> None:
        self._target, self._strategy, self._places = target, strategy, places
        self.told: int | None = None
        self.counts_replicas = False
        self.rows = 0
        self.notes: list[tuple[str, str]] = []
        self.is_full = False

    def __call__(self) -> tuple[Any, Any]:
        """Runs the script; model and batch of its first training step.

        Raises:
          AuditError: it ended without one.
          BaseException: what the script raised before.
        """
        self.notes, step, counted = [], FirstStep(self._places), Counted(self.told)
        find_modules_in(self._target["paths"])
        with (
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
            raise AuditError(self._not_found())
        self.counts_replicas = counted.was_asked
        self.notes += step.notes
        return self._as_build_returns(*step.found)

    def _as_build_returns(self, model: Any, batch: Batch) -> tuple[Any, Any]:
        rows, note = batch.cut(self._target["rows"])
        if note:
            self.notes.append(("all rows", note))
        self.is_full, self.rows = batch.is_full, rows_of(batch.rows)
        return model, rows

    def _run(self) -> None:
        path = pathlib.Path(self._target["script"])
        module = types.ModuleType("__main__")
        module.__file__ = str(path)
        sys.modules["__main__"] = module
        sys.argv[:] = self._target["argv"]
        code = compile(path.read_bytes(), str(path), "exec")
        exec(code, vars(module))

    def _note_strategy(self, name: str) -> None:
        if name == "MirroredStrategy" or self._strategy is None:
            return
        why = f"{name} is MirroredStrategy over virtual replicas here"
        if ("strategy", why) not in self.notes:
            self.notes.append(("strategy", why))

    def _not_found(self) -> str:
        return (
            f"Expected {self._target['name']} to train. Looked for fit or "
            "train_on_batch of a model of Keras or tf-keras, and for a strategy.run "
            "whose function updates variables with an optimizer. Got to the end of the "
            "script without one. Write a function build() that returns (model, batch), "
            f"and audit {self._target['name']}:build."
        )
