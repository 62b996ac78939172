"""Trains random prepared models: each must do what plain Keras does on one device.

    scripts/fuzz 500 [--seed S] [--replicas 2,4] [--smallest] [--jobs 2]

Prints a line for each case that fails, with the command that repeats it alone, and
ends with the number of cases and violations; 1 if there are any. What is drawn, and how
it is judged: tests/helpers/fuzz_models.py.
"""

import argparse
import functools
import gc
import multiprocessing
import sys
import time
import warnings

import conftest
import fuzz_models
import tensorflow as tf
from quick import graphs_as_traced

PORTION = 20  # cases of a process: TensorFlow keeps the functions of each


def _arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("cases", type=int, nargs="?", default=500)
    parser.add_argument("--seed", type=int, default=0, help="of the first case")
    parser.add_argument("--replicas", help="numbers of replicas to draw from: 2,4")
    parser.add_argument(
        "--smallest", action="store_true", help="simplify each case that fails"
    )
    parser.add_argument("--jobs", type=int, default=1, help="processes at a time")
    return parser.parse_args()


def _command(seed, replicas):
    return f"scripts/fuzz 1 --seed {seed}" + (
        f" --replicas {replicas}" if replicas else ""
    )


def _judged(arguments, seeds):
    """A report for each case that fails. Runs in a process of its own."""
    conftest.pytest_configure()
    warnings.simplefilter("ignore")
    tf.get_logger().setLevel("ERROR")
    replicas = arguments.replicas and tuple(map(int, arguments.replicas.split(",")))
    reports = []
    for seed in seeds:
        case = fuzz_models.drawn(seed, replicas)
        with graphs_as_traced():
            found = fuzz_models.violations(case)
            if found and arguments.smallest:
                case = fuzz_models.smallest(case, fuzz_models.kind_of(found))
                found = fuzz_models.violations(case)
        if found:
            lines = fuzz_models.first_of_each_kind(found).values()
            head = [f"seed {case}", f"    {_command(seed, arguments.replicas)}"]
            reports.append("\n".join([*head, *(f"    {line}" for line in lines)]))
        gc.freeze()  # TensorFlow keeps its functions: they need not be looked at again
    return reports


def main():
    """Prints a report per violation; 1 if there are any."""
    arguments = _arguments()
    seeds = range(arguments.seed, arguments.seed + arguments.cases)
    portions = [seeds[at : at + PORTION] for at in range(0, len(seeds), PORTION)]
    failed, started = 0, time.monotonic()
    context = multiprocessing.get_context("spawn")
    with context.Pool(arguments.jobs, maxtasksperchild=1) as pool:
        judge = functools.partial(_judged, arguments)
        for portion, reports in zip(portions, pool.imap(judge, portions), strict=True):
            failed += len(reports)
            print(*reports, sep="\n", end="\n" * bool(reports), flush=True)
            minutes = (time.monotonic() - started) / 60
            line = f"... seed {portion[-1]}, {minutes:.1f} min"
            print(line, file=sys.stderr, flush=True)
    print(f"{len(seeds)} cases, {failed} violations, seeds {seeds[0]}..{seeds[-1]}")
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
