"""What distloss costs: JSON, a table, and a picture for each question.

    scripts/bench                             # everything: half an hour on 2 cores
    scripts/bench --only loss,fit --pairs 40  # adds to what is in bench.json
    scripts/bench --toy                       # only shows that it still runs

Every comparison alternates in one process (A B C A B C ...) and is told as the median
of the paired ratios with its middle half. Nothing depends on the figures.
"""

import argparse
import json
import os
import pathlib
import platform
import subprocess
import sys
import time

import keras
import tensorflow as tf
from _bench_model import predictions
from _bench_models import MODELS
from _bench_pairs import compared
from _bench_steps import (
    FitStep,
    LoopStep,
    by_hand_counted,
    by_hand_static,
    counted,
    plain_sgd,
    static,
)
from _bench_tables import pictures, table
from _replicas import configure, strategy_of

import distloss

ROOT = pathlib.Path(__file__).parent.parent


def loss(options):
    """A loop with DistributedLoss against `compute_average_loss` by hand."""
    found = []
    for name in options.models:
        for count in options.replicas:
            ways = {"static": static, "counted": counted, "by hand": by_hand_counted}
            steps = {
                way: LoopStep(
                    strategy_of(count), name, of(options.rows), rows=options.rows
                )
                for way, of in {"plain": by_hand_static, **ways}.items()
            }
            by_hand = steps.pop("plain")
            row = {"model": name, "replicas": count}
            row |= compared(by_hand, steps, options.pairs)
            for way, step in steps.items():
                row[way]["trace_ratio"] = ratio(step, by_hand, "trace_seconds")
                row[way]["operations_ratio"] = ratio(step, by_hand, "operations")
            found.append(row)
    return found


def fit(options):
    """`fit` of a prepared model against `fit` of the same model in plain Keras."""
    found = []
    clipped = {"global_clipnorm": 1.0}
    for name in options.models:
        for count in options.replicas:
            for clip in ({}, clipped):
                rule = lambda clip=clip: plain_sgd(**clip)  # noqa: E731
                strategy, rows = strategy_of(count), options.rows
                plain = FitStep(strategy, name, rule, rows)
                ours = FitStep(strategy, name, rule, rows, microbatches=1)
                row = {"model": name, "replicas": count, "clipping": bool(clip)}
                row |= compared(plain, {"prepare": ours}, options.pairs)
                row["prepare"]["trace_ratio"] = ratio(ours, plain, "trace_seconds")
                found.append(row)
    return found


def optimizer(options):
    """DistributedOptimizer against the bare one, in the same loop."""
    rules = {
        "sgd": plain_sgd,
        "adam, clipped": lambda: keras.optimizers.Adam(global_clipnorm=1.0),
        "adam, loss scale": lambda: keras.optimizers.LossScaleOptimizer(
            keras.optimizers.Adam()
        ),
    }
    found = []
    for rule, make in rules.items():
        for count in options.replicas:
            strategy, rows = strategy_of(count), options.rows
            bare = LoopStep(strategy, "mlp", static(rows), make, rows)
            wrap = lambda make=make: distloss.DistributedOptimizer(make())  # noqa: E731
            wrapped = LoopStep(strategy, "mlp", static(rows), wrap, rows)
            row = {"rule": rule, "replicas": count}
            found.append(row | compared(bare, {"distributed": wrapped}, options.pairs))
    return found


def microbatches(options):
    """A prepared model that takes a batch in 4 parts, against the whole batch."""
    found = []
    for count in options.replicas:
        whole, parts = (
            FitStep(strategy_of(count), "mlp", rows=4 * options.rows, microbatches=k)
            for k in (1, 4)
        )
        row = {"model": "mlp", "replicas": count}
        found.append(row | compared(whole, {"4 parts": parts}, options.pairs))
    return found


def growth(options):
    """How the step and its tracing grow with the number of replicas, against Keras."""
    found = []
    for count in options.growth:
        strategy, rows = strategy_of(count), options.rows
        plain = FitStep(strategy, "mlp", rows=rows)
        ours = FitStep(strategy, "mlp", rows=rows, microbatches=1)
        row = {"replicas": count, **compared(plain, {"prepare": ours}, options.pairs)}
        row["prepare"]["trace_ratio"] = ratio(ours, plain, "trace_seconds")
        found.append(row)
    return found


def horovod(options):
    """Processes of Horovod, in a launch of their own: see bench_horovod.py."""
    found = []
    for count in options.processes:
        command = [ROOT / "scripts" / "launch_horovod", "-np", str(count)]
        command += [ROOT / "scripts" / "bench_horovod.py", str(options.pairs)]
        done = subprocess.run(
            [sys.executable, *map(str, command)],
            capture_output=True,
            text=True,
            timeout=900,
            check=False,
        )
        lines = [x for x in done.stdout.splitlines() if '"processes"' in x]
        if not lines:
            raise SystemExit(f"bench: Horovod did not run: {done.stderr[-2000:]}")
        found.append(json.loads(lines[-1][lines[-1].index("{") :]))
    return found


def start(_options):
    """Seconds to import, to print help, and to audit a small model; memory of that."""
    example = f"{ROOT / 'examples' / 'audit_example.py'}:build"
    commands = {
        "python -c pass": ["-c", "pass"],
        "import distloss": ["-c", "import distloss"],
        "import tensorflow": ["-c", "import tensorflow"],
        "distloss audit --help": ["-m", "distloss", "audit", "--help"],
        "distloss audit, 1,2,4": ["-m", "distloss", "audit", example],
    }
    found = []
    for name, arguments in commands.items():
        started = time.perf_counter()
        subprocess.run([sys.executable, *arguments], capture_output=True, check=False)
        found.append(
            {"command": name, "seconds": round(time.perf_counter() - started, 2)}
        )
    return found


def larger(options):
    """What the model of communication expects where this machine cannot measure."""
    return predictions(options.results)


QUESTIONS = {
    f.__name__: f
    for f in (loss, fit, optimizer, microbatches, growth, horovod, start, larger)
}


def ratio(ours, plain, name):
    """Of an attribute of two steps."""
    return round(getattr(ours, name) / getattr(plain, name), 3)


def parsed(arguments):
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    names = lambda text: text.split(",")  # noqa: E731
    counts = lambda text: [int(x) for x in text.split(",")]  # noqa: E731
    add = parser.add_argument
    add("--only", type=names, default=list(QUESTIONS), help=", ".join(QUESTIONS))
    add("--models", type=names, default=list(MODELS), help=", ".join(MODELS))
    add("--replicas", type=counts, default=[1, 2, 4, 8])
    add("--growth", type=counts, default=[1, 2, 4, 8, 16])
    add("--processes", type=counts, default=[2, 3], help="of Horovod")
    add("--rows", type=int, default=512, help="of a batch, over all replicas")
    add("--pairs", type=int, default=40, help="rounds of each comparison")
    add("--toy", action="store_true", help="little of each: to see that it runs")
    add("--output", type=pathlib.Path, default=pathlib.Path("bench.json"))
    add("--pictures", type=pathlib.Path, help="a folder for PNG files")
    options = parser.parse_args(arguments)
    unknown = set(options.only) - set(QUESTIONS) | set(options.models) - set(MODELS)
    if unknown:
        parser.error(f"no such question or model: {', '.join(sorted(unknown))}")
    if options.toy:
        options.models, options.replicas, options.growth = ["mlp"], [2], [2]
        options.processes, options.pairs = [2], 3
    return options


def versions():
    """Of what is measured, and of what it runs on."""
    return {
        "tensorflow": tf.__version__,
        "keras": keras.__version__,
        "python": platform.python_version(),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "date": time.strftime("%Y-%m-%d"),
    }


def main(arguments=None):
    """Asks the questions, and writes the answers."""
    options = parsed(arguments)
    configure(max([*options.replicas, *options.growth]))
    known = options.output.read_text() if options.output.exists() else "{}"
    options.results = {**json.loads(known), "versions": versions()}
    for name in options.only:
        print(f"bench: {name}", file=sys.stderr, flush=True)
        options.results[name] = QUESTIONS[name](options)
        options.output.write_text(json.dumps(options.results, indent=2) + "\n")
        keras.utils.clear_session()
    for name in options.only:
        print(table(name, options.results[name]))
    if options.pictures:
        options.pictures.mkdir(parents=True, exist_ok=True)
        pictures(options.results, options.pictures)


if __name__ == "__main__":
    main()
