"""What distloss costs: JSON, a table, and a picture for each question.

    scripts/bench                             # everything: most of an hour on 2 cores
    scripts/bench --quick                     # less of each, in under 3 minutes
    scripts/bench --only loss,fit --pairs 40  # adds to what is in bench.json
    scripts/bench --only wire --rate 1000,0   # two processes, so many Mbit/s between
    scripts/bench --toy                       # only shows that it still runs

Every comparison alternates in one process (A B C A B C ...) and is told as the median
of the paired ratios with its middle half. A/A is the plain way against itself: a ratio
that is no further from 1 says nothing. Nothing depends on the figures.
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
from _bench.model import fitted, predictions
from _bench.models import MODELS
from _bench.pairs import compared
from _bench.steps import (
    FitStep,
    LoopStep,
    OwnFitStep,
    by_hand_counted,
    by_hand_static,
    counted,
    layers_of,
    plain_sgd,
    static,
)
from _bench.tables import pictures, table
from _bench.wire import add_arguments_of_wire, rows_of_wire
from _virtual import configure, strategy_of

import distloss

ROOT = pathlib.Path(__file__).parent.parent
# The models of `microbatches`, and how many times --rows: parts of a size that is used.
PARTED = {"mlp": 16, "transformer_block": 4}


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
            add_graphs(row, by_hand, steps, options.traces)
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
                add_graphs(row, plain, {"prepare": ours}, options.traces)
                found.append(row)
    return found


def own_step(options):
    """`fit` of a prepared model with a train_step of its own, against the plain one."""
    found = []
    for name in options.models:
        for count in options.replicas:
            strategy, rows = strategy_of(count), options.rows
            plain = OwnFitStep(strategy, name, rows=rows)
            ours = OwnFitStep(strategy, name, rows=rows, microbatches=1)
            row = {"model": name, "replicas": count}
            row |= compared(plain, {"prepare": ours}, options.pairs)
            add_graphs(row, plain, {"prepare": ours}, options.traces)
            found.append(row)
    return found


def optimizer(options):
    """DistributedOptimizer against the bare one, in the same loop."""
    scaled = lambda: keras.optimizers.LossScaleOptimizer(  # noqa: E731
        keras.optimizers.Adam()
    )
    rules = {
        "sgd": plain_sgd,
        "adam, clipped": lambda: keras.optimizers.Adam(global_clipnorm=1.0),
        "adam, loss scale": scaled,
        "adam, mixed_float16": scaled,
    }
    found = []
    for rule, make in rules.items():
        for count in options.replicas:
            strategy, rows = strategy_of(count), options.rows
            policy = "float32"
            if rule.endswith("mixed_float16"):
                policy, rows = "mixed_float16", rows // 8  # float16 is slow on a CPU
            wrap = lambda make=make: distloss.DistributedOptimizer(make())  # noqa: E731
            with layers_of(policy):
                bare, wrapped = (
                    LoopStep(strategy, "mlp", static(rows), each, rows)
                    for each in (make, wrap)
                )
            row = {"rule": rule, "replicas": count, "rows": rows}
            found.append(row | compared(bare, {"distributed": wrapped}, options.pairs))
    return found


def microbatches(options):
    """A prepared model that takes a batch in 4 parts, against the whole batch.

    And against 4 steps of plain Keras with a quarter of the rows, which are 4 updates:
    what anybody would do who has no memory for the whole batch.
    """
    found = []
    for name, times in PARTED.items():
        if name not in options.models:
            continue
        rows = times * options.rows
        for count in (n for n in options.replicas if n <= 4):
            strategy = strategy_of(count)
            whole, parts = (
                FitStep(strategy, name, rows=rows, microbatches=k) for k in (1, 4)
            )
            quarter = FitStep(strategy, name, rows=rows // 4)
            ways = {
                "4 parts": parts,
                "4 separate steps": lambda step=quarter: [step() for _ in range(4)],
            }
            row = {"model": name, "replicas": count, "rows": rows}
            found.append(row | compared(whole, ways, options.pairs))
    return found


def sums(options):
    """A prepared model that checks its sums, against one that does not."""
    found = []
    for name in options.models:
        for count in (n for n in options.replicas if n > 1):
            rows = options.rows
            steps = [
                FitStep(strategy_of(count), name, rows=rows, check_sums=check)
                for check in (False, True)
            ]
            row = {"model": name, "replicas": count, "rows": rows}
            row |= compared(steps[0], {"check_sums": steps[1]}, options.pairs)
            add_graphs(row, steps[0], {"check_sums": steps[1]}, options.traces)
            found.append(row)
    return found


def growth(options):
    """How the step and its tracing grow with the number of replicas, against Keras."""
    found = []
    for count in options.growth:
        strategy, rows = strategy_of(count), options.rows
        plain = FitStep(strategy, "mlp", rows=rows)
        ours = FitStep(strategy, "mlp", rows=rows, microbatches=1)
        row = {"replicas": count, **compared(plain, {"prepare": ours}, options.pairs)}
        # Many replicas take long to trace.
        traces = options.traces if count < 16 else min(options.traces, 3)
        add_graphs(row, plain, {"prepare": ours}, traces)
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


def messages(options):
    """All-reduces of several sizes as Horovod took them here, and the fitted line."""
    return fitted(options.results)


def start(_options):
    """Seconds and memory to import, to print help, and to audit a small model."""
    example = f"{ROOT / 'examples' / 'audit_example.py'}:build"
    commands = {
        "python -c pass": ["-c", "pass"],
        "import distloss": ["-c", "import distloss"],
        "import tensorflow": ["-c", "import tensorflow"],
        "distloss audit --help": ["-m", "distloss", "audit", "--help"],
        "distloss audit, 1,2,4": ["-m", "distloss", "audit", example],
    }
    measured = ROOT / "scripts" / "_bench" / "cost_of.py"
    found = []
    for name, arguments in commands.items():
        command = [sys.executable, measured, sys.executable, *arguments]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        found.append({"command": name, **json.loads(done.stdout)})
    return found


def wire(options):
    """What two processes wait for on a link of some Mbit/s: see bench_wire.py."""
    return rows_of_wire(options)


def larger(options):
    """What the model of communication expects where this machine cannot measure."""
    return predictions(options.results)


QUESTIONS = {
    f.__name__: f
    for f in (
        loss,
        fit,
        own_step,
        optimizer,
        microbatches,
        sums,
        growth,
        horovod,
        messages,
        start,
        wire,
        larger,
    )
}


def add_graphs(row, plain, others, traces):
    """Adds to a row what the graphs of steps cost: time to trace, and operations."""
    ways = {name: step.trace for name, step in others.items()}
    traced = compared(plain.trace, ways, traces)
    plain_operations = plain.operations
    for name, step in others.items():
        row[name]["trace_ratio"] = round(traced[name]["ratio"], 3)
        row[name]["operations_ratio"] = round(step.operations / plain_operations, 3)


# Less of each: what --quick and --toy measure.
QUICK = {
    "only": ["loss", "fit", "optimizer", "microbatches"],
    "models": ["mlp"],
    "replicas": [2],
    "pairs": 15,
    "traces": 2,
}
TOY = {
    "models": ["mlp"],
    "replicas": [2],
    "growth": [2],
    "processes": [2],
    "millions": [1],
    "rate": [0],
    "pairs": 3,
    "rows": 64,
    "traces": 2,
}


def counts(text):
    """Whole numbers of at least 1, with commas between them."""
    numbers = [int(number) for number in text.split(",")]
    if min(numbers) < 1:
        raise ValueError(text)
    return numbers


def rounds(text):
    """A number of rounds: of one there is no middle half."""
    if int(text) < 2:
        raise argparse.ArgumentTypeError(f"expected at least 2 rounds. Got {text}")
    return int(text)


def parsed(arguments):
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    names = lambda text: text.split(",")  # noqa: E731
    add = parser.add_argument
    add("--only", type=names, default=list(QUESTIONS), help=", ".join(QUESTIONS))
    add("--models", type=names, default=list(MODELS), help=", ".join(MODELS))
    add("--replicas", type=counts, default=[1, 2, 4, 8])
    add("--growth", type=counts, default=[1, 2, 4, 8, 16, 32])
    add("--processes", type=counts, default=[2, 3], help="of Horovod")
    add("--rows", type=int, default=512, help="of a batch, over all replicas")
    add("--pairs", type=rounds, default=40, help="rounds of each comparison")
    add("--traces", type=rounds, default=5, help="rounds of each comparison of tracing")
    add("--quick", action="store_true", help="less of each, in under 3 minutes")
    add("--toy", action="store_true", help="little of each: to see that it runs")
    add("--output", type=pathlib.Path, default=pathlib.Path("bench.json"))
    add("--pictures", type=pathlib.Path, help="a folder for PNG files")
    add_arguments_of_wire(parser)
    quick, _ = parser.parse_known_args(arguments)
    parser.set_defaults(**QUICK if quick.quick else TOY if quick.toy else {})
    options = parser.parse_args(arguments)
    unknown = set(options.only) - set(QUESTIONS) | set(options.models) - set(MODELS)
    if unknown:
        parser.error(f"no such question or model: {', '.join(sorted(unknown))}")
    options.results = measured_before(options.output, parser)
    return options


def measured_before(path, parser):
    """What is in the file, to which the answers are added."""
    text = path.read_text().strip() if path.exists() else ""
    try:
        return json.loads(text or "{}")
    except json.JSONDecodeError as error:
        parser.error(
            f"expected --output={path} to be of an earlier run, or not there. Got a "
            f"file that is no JSON ({error}). Remove it, or name another."
        )


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
    options.results["versions"] = versions()
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
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)  # without destroying iterators, which takes minutes: _bench/steps.py
