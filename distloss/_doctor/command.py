"""The command `distloss doctor`. Loads TensorFlow only when it runs."""

from __future__ import annotations

import argparse
from typing import Any

from distloss._audit import output

FORMATS = ("text", "json")
SOUND, WRONG, NOT_RUN = 0, 1, 2

_EPILOG = """
Looks at this machine as it is: all of its GPUs, or one CPU. Several processes:

    TF_CONFIG=... distloss doctor                          on each worker
    horovodrun -np 4 distloss doctor --engine horovod      the first one reports

exit codes: 0 all sums are right, 1 one is wrong, 2 it could not run
"""


def add_to(commands: Any) -> None:
    """Adds the command to those of `distloss`."""
    parser = commands.add_parser(
        "doctor",
        help="sum over the devices of this machine, and see whether it is right",
        description="Sums numbers over all replicas and over each pair of them, says "
        "where a sum is wrong, how fast it is, and what is known of these versions.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--engine",
        choices=("strategy", "horovod"),
        default="strategy",
        help="tf.distribute, or the Horovod processes of which this is one",
    )
    parser.add_argument(
        "--replicas",
        type=_count,
        metavar="N",
        help="so many virtual CPUs instead of the devices of this machine",
    )
    parser.add_argument("--format", choices=FORMATS, default=FORMATS[0])
    parser.add_argument(
        "--timeout",
        type=float,
        default=120.0,
        metavar="SECONDS",
        help="for each sum; a device that does not answer ends the command",
    )
    parser.set_defaults(run=run)


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected 1 or more, got {text!r}")
    return int(text)


def run(arguments: argparse.Namespace) -> int:
    """Examines; returns the exit code."""
    from distloss._doctor import examination, text

    report = examination.examined(
        arguments.engine, arguments.replicas, arguments.timeout
    )
    if report.is_told_here:
        is_json = arguments.format == "json"
        output.show(report.to_json() if is_json else text.written(report))
    return SOUND if report.is_sound else WRONG
