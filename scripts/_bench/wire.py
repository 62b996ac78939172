"""Steps of two processes with a wire of some Mbit/s between them."""

import argparse
import json
import os
import pathlib
import sys
import tempfile

from _bench import link
from _bench.model import step_with_wire

PROGRAM = pathlib.Path(__file__).parent.parent / "bench_wire.py"
# Millions of parameters, about: the width of six square layers.
WIDTHS = {1: 408, 6: 1024, 24: 2048}
ENGINES = ("horovod", "strategy")
ROWS = 1536  # with which a step of one thread computes about as long as 1 Gbit/s sends
STEPS = 7
_START_SECONDS = 120.0
_SLOWEST_MILLION = 0.5  # seconds of computing of a million of parameters


def add_arguments_of_wire(parser):
    """Those of this question."""
    add = parser.add_argument
    add("--engines", type=_some_of(ENGINES), default=list(ENGINES))
    add(
        "--millions",
        type=_some_of(WIDTHS),
        default=list(WIDTHS),
        help="of parameters, with a wire",
    )
    add(
        "--rate",
        type=lambda text: [int(number) for number in text.split(",")],
        default=[1000, 0],
        help="Mbit/s of the wire, with commas between; 0: no limit",
    )


def _some_of(known):
    """What reads some of them, with commas between."""

    def read(text):
        by_name = {str(one): one for one in known}
        unknown = [name for name in text.split(",") if name not in by_name]
        if unknown:
            raise argparse.ArgumentTypeError(
                f"expected {', '.join(by_name)}. Got {', '.join(unknown)}"
            )
        return [by_name[name] for name in text.split(",")]

    return read


def rows_of_wire(options):
    """What each engine, size and rate takes; nothing, and why, where that cannot be."""
    problem = link.problem_here()
    if problem:
        print(f"bench: wire {problem}", file=sys.stderr)
        return []
    return [
        measured(engine, millions, rate, options.pairs)
        for engine in options.engines
        for millions in options.millions
        for rate in options.rate
    ]


def measured(engine, millions, rate, pairs):
    """One row."""
    width = WIDTHS[millions]
    with link.link(rate) as names, tempfile.TemporaryDirectory() as folder:
        arguments = [PROGRAM, engine, width, ROWS, pairs, folder]
        commands = [
            ([sys.executable, *arguments], {**os.environ, **environment(engine, index)})
            for index in range(len(names))
        ]
        try:
            text = link.run_in(names, commands, seconds_for(millions, rate, pairs))
        except RuntimeError as error:
            raise SystemExit(f"bench: wire, {engine}: {error}") from None
    found = json.loads(text[text.rindex('{"parameters"') :])
    parameters = found.pop("parameters")
    row = {"engine": engine, "parameters": parameters, "mbit_per_s": rate or "no limit"}
    return row | limits(found, 4 * parameters, rate) | found


def limits(found, size, rate):
    """What nothing can be faster than, and what each way exposes, in ms."""
    computed = found["computed"]["ms"]
    wire = round(size * 8 / (rate * 1e3), 1) if rate else 0.0
    exposed = {
        way: round(found[way]["ms"] - computed, 1)
        for way in ("plain", "optimizer", "together", "prepare")
    }
    return {
        "wire_ms": wire,
        "limit_ms": max(computed, wire),
        "predicted_ms": step_with_wire(computed, wire),
        "exposed_ms": exposed,
    }


def seconds_for(millions, rate, pairs):
    """After which steps are taken to wait for ever."""
    wire = 4e6 * millions * 8 / (rate * 1e6) if rate else 0.0
    return _START_SECONDS + (pairs + 2) * STEPS * (
        3 * wire + _SLOWEST_MILLION * millions + 0.5
    )


def environment(engine, index):
    """By which a process finds the other."""
    if engine == "strategy":
        workers = [f"{address}:9876" for address in link.ADDRESSES]
        task = {"type": "worker", "index": index}
        return {"TF_CONFIG": json.dumps({"cluster": {"worker": workers}, "task": task})}
    return {
        "HOROVOD_CONTROLLER": "gloo",
        "HOROVOD_CPU_OPERATIONS": "gloo",
        "HOROVOD_GLOO_TIMEOUT_SECONDS": "60",
        "HOROVOD_STALL_SHUTDOWN_TIME_SECONDS": "120",
        "HOROVOD_GLOO_RENDEZVOUS_ADDR": link.ADDRESSES[0],
        "HOROVOD_HOSTNAME": link.ADDRESSES[index],
        "HOROVOD_RANK": str(index),
        "HOROVOD_SIZE": "2",
        "HOROVOD_LOCAL_RANK": "0",
        "HOROVOD_LOCAL_SIZE": "1",
        "HOROVOD_CROSS_RANK": str(index),
        "HOROVOD_CROSS_SIZE": "2",
    }
