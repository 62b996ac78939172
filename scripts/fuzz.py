"""Trains random prepared models: each must do what plain Keras does on one device.

    scripts/fuzz 500 [--seed S] [--replicas 2,4] [--smallest]

Prints a line for each case that fails, with the command that repeats it alone, and
ends with the number of cases and violations; 1 if there are any. What is drawn, and how
it is judged: tests/helpers/fuzz_models.py.
"""

import argparse
import sys
import time
import warnings

import conftest
import fuzz_models
import tensorflow as tf
from training import graphs_as_traced


def _arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("cases", type=int, nargs="?", default=500)
    parser.add_argument("--seed", type=int, default=0, help="of the first case")
    parser.add_argument("--replicas", help="numbers of replicas to draw from: 2,4")
    parser.add_argument(
        "--smallest", action="store_true", help="simplify each case that fails"
    )
    return parser.parse_args()


def _command(seed, replicas):
    return f"scripts/fuzz 1 --seed {seed}" + (
        f" --replicas {replicas}" if replicas else ""
    )


def main():
    """Prints a line per violation; 1 if there are any."""
    arguments = _arguments()
    replicas = arguments.replicas and tuple(map(int, arguments.replicas.split(",")))
    conftest.pytest_configure()
    warnings.simplefilter("ignore")
    tf.get_logger().setLevel("ERROR")
    seeds = range(arguments.seed, arguments.seed + arguments.cases)
    failed, started = 0, time.monotonic()
    for seed in seeds:
        case = fuzz_models.drawn(seed, replicas)
        with graphs_as_traced():
            found = fuzz_models.violations(case)
            if found and arguments.smallest:
                case = fuzz_models.smallest(case, fuzz_models.kind_of(found))
                found = fuzz_models.violations(case)
        if found:
            failed += 1
            print(f"seed {case}\n    {_command(seed, arguments.replicas)}")
            lines = fuzz_models.first_of_each_kind(found).values()
            print(*(f"    {line}" for line in lines), sep="\n", flush=True)
        elif (seed - seeds.start) % 50 == 49:
            minutes = (time.monotonic() - started) / 60
            print(f"... seed {seed}, {minutes:.1f} min", file=sys.stderr, flush=True)
    print(f"{len(seeds)} cases, {failed} violations, seeds {seeds[0]}..{seeds[-1]}")
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
