"""Checks steps of the zoo as they train: is what is wrong reported, what is right not?

Each entry of `examples/zoo` that runs under a strategy takes three steps: of a batch
that splits evenly, of one that does not, and of one that leaves a replica without rows.
Compiled models train by `fit` with `StepCheck`, loops are given to `check_step`.

    python scripts/step_check_zoo.py                     # all of them
    python scripts/step_check_zoo.py a04_scalar_loss     # these
"""

from __future__ import annotations

import argparse
import importlib
import pathlib
import sys
import warnings
from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf
from _virtual import configure, strategy_of
from zoo_table import ZOO, entries

import distloss
from distloss._check.report import StepReport
from distloss.callbacks import StepCheck

# What a gradient does not show, and what one batch does not.
UNSEEN = {
    "a06_nominal_batch_size": "one device divides by the same constant",
    "a07_empty_replica": "the gradient is right, the loss that is shown is NaN",
    "a10_report_only": "the gradient is right, the reported loss is not",
    "a11_tokens_by_rows": "one device divides by rows as well",
    "a16_overflow": "no gradient of these rows overflows",
    "a20_whole_batch_on_each": "the batch is dealt twice before a step has it",
    "a26_slices_apart": "the gradient is right, the update of its slices is not",
    "f03_raw_update": "no optimizer is called: it says that it saw no update",
    "f04_first_replica_only": "the same",
    "f07_optimizer_of_a_copy": "the gradient is right, and goes to another model",
    "f08_update_of_a_name": "no optimizer is called: it says that it saw no update",
    "f09_names_of_keras_2": "the gradients are right, and some go nowhere",
    "f10_accumulators_kept": "one device adds to the same accumulators",
    "g07_gathered_over_local": "the gradient is right, the reported loss is not",
}
RIGHT_ON_TWO = ("g10_count_of_pairs",)  # replicas: with --replicas 4 it is reported


def batches(batch: tuple[Any, ...], replicas: int) -> tf.data.Dataset:
    """The rows in three batches, the last with fewer rows than there are replicas."""
    rows = tf.data.Dataset.from_tensor_slices(batch)
    count = len(batch[0])
    sizes = [count // replicas * replicas, count, replicas - 1]
    every = [rows.take(size).batch(size) for size in sizes]
    options = tf.data.Options()
    options.autotune.enabled = False  # whose thread an iterator waits for at its end
    joined = every[0].concatenate(every[1]).concatenate(every[2])
    return joined.with_options(options)


def check(build: Callable[[], Any], strategy: Any, found: list[StepReport]) -> None:
    """Puts what is said of the three steps into `found`, as far as they run."""
    with strategy.scope():
        model, batch = build()
    data = batches(batch, strategy.num_replicas_in_sync)
    if isinstance(model, keras.Model):
        callback = StepCheck(every=1, on_failure="warn")
        callback.reports = found
        model.fit(data, verbose=0, shuffle=False, callbacks=[callback])
        return
    for part in strategy.experimental_distribute_dataset(data):
        step, checked = model.train_step, distloss.check_step
        found.append(checked(step, part, strategy=strategy, on_failure="warn"))


def verdict(build: Callable[[], Any], strategy: Any) -> tuple[bool, str]:
    """Whether any step is reported, and in which words."""
    found: list[StepReport] = []
    other = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            check(build, strategy, found)
        except Exception as error:  # of the step, as on no rows
            other.append(f"raises {type(error).__name__}")
    wrong = [report for report in found if report.agrees is False]
    causes = list(dict.fromkeys(c for report in wrong for c in report.causes))
    other += [report.why[:80] for report in found if report.agrees is None]
    said = (causes or ["no cause"]) if wrong else ["silent"]
    return bool(wrong), ", ".join([*said, *other])


def virtual(replicas: int) -> Any:
    """A strategy over so many virtual CPUs."""
    configure(replicas)
    return strategy_of(replicas)


def problems_of(name: str, strategy: Any) -> list[str]:
    """What is not as it should be; prints what is said."""
    module = importlib.import_module(name)
    is_seen, words = verdict(module.wrong, strategy)
    is_heard, others = verdict(module.mended, strategy)
    print(f"{name}: wrong: {words}; mended: {others}", flush=True)
    found = []
    is_right = name in RIGHT_ON_TWO and strategy.num_replicas_in_sync == 2
    if is_seen == (is_right or name in UNSEEN):
        found.append(f"{name}: wrong is {words}")
    if is_heard:
        found.append(f"{name}: mended is reported: {others}")
    return found


def main() -> int:
    """Checks entries; says what is not as it should be."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("names", nargs="*", help="entries; none for all")
    parser.add_argument("--replicas", type=int, default=2)
    options = parser.parse_args()
    sys.path.insert(0, str(pathlib.Path(ZOO)))
    strategy = virtual(options.replicas)
    strategies = [n for n, entry in entries().items() if entry.engine == "strategy"]
    names = options.names or strategies
    problems = [p for name in names for p in problems_of(name, strategy)]
    for problem in problems:
        print(problem, file=sys.stderr)
    print(f"{len(names)} entries, {len(problems)} not as they should be")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
