"""The command `distloss`: parse, audit, render, return a code."""

from __future__ import annotations

import argparse
import os
import pathlib
import sys
import tempfile
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from distloss._report import Report

AGREES, DIFFERS, NOT_CHECKED = 0, 1, 2

_EPILOG = """
build() takes nothing and returns (model, batch): a compiled Keras model, or an object
with trainable_variables and train_step(batch), and one global batch (x, y) or
(x, y, sample_weight) in NumPy. It is called inside strategy.scope().

exit codes: 0 gradients agree, 1 they differ, 2 could not be checked
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit code."""
    arguments = _parser().parse_args(argv)
    from distloss._errors import DistlossError

    try:
        return _audited(arguments)
    except DistlossError as error:
        print(f"distloss: {error}", file=sys.stderr)
    except Exception as error:  # 1 is a verdict, so no traceback of ours may say it
        told = f"{type(error).__name__}: {error}"
        print(
            f"distloss: the audit itself failed, please report it: {told}",
            file=sys.stderr,
        )
    except KeyboardInterrupt:
        print("distloss: interrupted", file=sys.stderr)
    return NOT_CHECKED


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="distloss",
        description="One global batch, one update, however it is split.",
    )
    commands = parser.add_subparsers(dest="command", required=True)
    audit = commands.add_parser(
        "audit",
        help="run a training step on 1 and N replicas, and name what differs",
        description="Runs a training step on 1 and on N replicas, and names what "
        "makes their gradients differ.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    audit.add_argument("build", help="FILE.py:build or package.module:build")
    audit.add_argument(
        "--replicas",
        type=_counts,
        default=(1, 2, 4),
        metavar="1,2,4",
        help="numbers of replicas",
    )
    audit.add_argument(
        "--engine",
        choices=("strategy", "horovod"),
        default="strategy",
        help="tf.distribute, or Horovod processes on this machine",
    )
    audit.add_argument(
        "--devices",
        choices=("cpu", "gpu"),
        default="cpu",
        help="virtual CPUs, or the GPUs of this machine",
    )
    audit.add_argument("--format", choices=("text", "json", "html"), default="text")
    audit.add_argument(
        "--output", type=pathlib.Path, metavar="PATH", help="a file instead of stdout"
    )
    audit.add_argument(
        "--timeout",
        type=float,
        metavar="SECONDS",
        help="for importing, building, tracing and each step (defaults differ)",
    )
    return parser


def _counts(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"expected numbers such as 1,2,4, got {text!r}"
        ) from None


def _audited(arguments: argparse.Namespace) -> int:
    from distloss import _render
    from distloss._audit import audit

    _render.check_installed(arguments.format)
    _check_folder(arguments.output)
    with _render.progress() as progress:
        report = audit(
            arguments.build,
            replicas=arguments.replicas,
            engine=arguments.engine,
            devices=arguments.devices,
            timeout=arguments.timeout,
            progress=progress,
        )
    colours = arguments.output is None and sys.stdout.isatty()
    text = _render.rendered(report, arguments.format, colours=colours)
    _write(text, arguments.output)
    return _code(report)


def _check_folder(path: pathlib.Path | None) -> None:
    from distloss._errors import ArgumentError

    if path is not None and (not path.absolute().parent.is_dir() or path.is_dir()):
        raise ArgumentError(
            f"Expected --output to be a file in a folder that exists. Got {path}."
        )


def _code(report: Report) -> int:
    return AGREES if report.agrees else DIFFERS


def _write(text: str, path: pathlib.Path | None) -> None:
    """Writes the whole report or nothing."""
    if path is None:
        sys.stdout.write(text)
        return
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
        os.chmod(name, 0o644)
        os.replace(name, path)
    except BaseException:
        os.unlink(name)
        raise
