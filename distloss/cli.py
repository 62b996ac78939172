"""The command `distloss`: parse, audit or lint, render, return a code."""

from __future__ import annotations

import argparse
import contextlib
import functools
import itertools
import pathlib
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NoReturn

from distloss._audit import output
from distloss._audit.report.printable import printable
from distloss._audit.report.render import OFFERED
from distloss._doctor import command as doctor
from distloss._errors import DistlossError
from distloss._lint import command

if TYPE_CHECKING:
    from distloss._audit.report.findings import Report

AGREES, DIFFERS, NOT_CHECKED = 0, 1, 2

_EPILOG = """
A script runs as it is, with the arguments after --, up to its first training step,
which is probed; what comes after never runs. DISTLOSS_AUDIT=child in its environment
tells it that it is audited.

build() takes nothing and returns (model, batch): a compiled Keras model, or an object
with trainable_variables and train_step(batch), and one global batch (x, y) or
(x, y, sample_weight) in NumPy. It is called inside strategy.scope().

exit codes: 0 gradients agree, 1 they differ, 2 could not be checked, or the report
could not be written
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit code."""
    try:
        own, of_script = _divided(sys.argv[1:] if argv is None else argv)
        known = argparse.Namespace(of_script=of_script)
        arguments = _parser().parse_args(own, known)
        return int(arguments.run(arguments))
    except SystemExit:  # argparse has said why, or has helped
        output.flush()
        raise
    except KeyboardInterrupt:
        told = "interrupted"
    except Exception as error:  # 1 is a verdict, so no traceback of ours may say it
        told = _told(error)
    output.say(f"distloss: {told}")
    return NOT_CHECKED


def _divided(argv: Sequence[str]) -> tuple[list[str], list[str]]:
    """What is before `--`, and after it: the arguments of the audited script."""
    if list(argv[:1]) != ["audit"]:
        return list(argv), []
    before = list(itertools.takewhile(lambda one: one != "--", argv))
    return before, list(argv[len(before) + 1 :])


def _told(error: Exception) -> str:
    if isinstance(error, DistlossError):
        return str(error)
    if isinstance(error, OSError):
        return f"the system refused: {error}"
    kind = type(error).__name__
    return f"distloss itself failed, please report it: {kind}: {error}"


class _Parser(argparse.ArgumentParser):
    """One that says so where it cannot write, and rewrites no terminal."""

    def print_help(self, _file: Any = None) -> None:
        output.show(self.format_help())

    def error(self, message: str) -> NoReturn:
        super().error(printable(message))


class _Version(argparse.Action):
    """Looks the version up only if it is asked for."""

    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> NoReturn:
        from distloss._package import version

        output.show(f"distloss {version()}\n")
        parser.exit()


class _ListCauses(argparse.Action):
    """Shows all causes, instead of an audit."""

    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> NoReturn:
        from distloss._audit.checks import glossary

        output.show(glossary.listed())
        parser.exit()


class _Explain(argparse.Action):
    """Shows one cause, instead of an audit."""

    def __call__(
        self, parser: argparse.ArgumentParser, _: Any, slug: Any, *__: Any
    ) -> NoReturn:
        from distloss._audit.checks import glossary

        output.show(glossary.explained(slug))
        parser.exit()


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="distloss",
        description="One global batch, one update, however it is split.",
    )
    parser.add_argument(
        "--version", action=_Version, nargs=0, help="print the version and exit"
    )
    commands = parser.add_subparsers(dest="command", required=True)
    _add_audit(commands)
    command.add_to(commands)
    doctor.add_to(commands)
    return parser


def _add_audit(commands: Any) -> None:
    audit = commands.add_parser(
        "audit",
        help="run a training step on 1 and N replicas, and name what differs",
        description="Runs a training step on 1 and on N replicas, and names what "
        "makes their gradients differ.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    audit.add_argument(
        "build",
        metavar="TARGET",
        help="a script FILE.py, FILE.py:build or package.module:build",
    )
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
    _add_data(audit)
    _add_results(audit)
    audit.set_defaults(run=_audited)


def _add_data(audit: argparse.ArgumentParser) -> None:
    """On which rows it runs, and how they are split."""
    audit.add_argument(
        "--rows",
        type=int,
        metavar="N",
        help="at most so many rows of a script's batch (default: 1024)",
    )
    audit.add_argument(
        "--splits",
        type=lambda text: tuple(text.split(",")),
        metavar="even,uneven,empty",
        help="how batches are split (default: as they can be split)",
    )


def _add_results(audit: argparse.ArgumentParser) -> None:
    """What is done with what it finds, and what is told instead."""
    audit.add_argument("--format", choices=OFFERED, default=OFFERED[0])
    audit.add_argument(
        "--output", type=pathlib.Path, metavar="PATH", help="a file instead of stdout"
    )
    audit.add_argument(
        "--timeout",
        type=float,
        metavar="SECONDS",
        help="for importing, building, tracing and each step (defaults differ)",
    )
    audit.add_argument(
        "--fix",
        action="store_true",
        help="mend a copy of FILE.py, audit that, and keep it if it agrees",
    )
    audit.add_argument(
        "--list-causes", action=_ListCauses, nargs=0, help="print all causes and exit"
    )
    audit.add_argument(
        "--explain",
        action=_Explain,
        metavar="CAUSE",
        help="print what a cause means and what to change, and exit",
    )


def _counts(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"expected numbers such as 1,2,4, got {text!r}"
        ) from None


def _audited(arguments: argparse.Namespace) -> int:
    from distloss._audit.report import render
    from distloss._audit.run import audit

    render.check_installed(arguments.format)
    output.check(arguments.output, arguments.build)
    with render.progress() as progress:
        audit_of = functools.partial(
            audit,
            replicas=arguments.replicas,
            engine=arguments.engine,
            devices=arguments.devices,
            timeout=arguments.timeout,
            progress=progress,
            args=arguments.of_script,
            rows=arguments.rows,
            splits=arguments.splits,
        )
        if arguments.fix:
            report = _mended(arguments, audit_of)
        else:
            report = audit_of(arguments.build)
    if not _is_delivered(report, arguments.format, arguments.output):
        return NOT_CHECKED
    return AGREES if report.agrees else DIFFERS


def _mended(arguments: argparse.Namespace, audit: Callable[[str], Report]) -> Report:
    """Mends the file where the audit agrees with that; the report of what it is now."""
    command.check_installed()
    from distloss._lint.verify import verified_fix

    done = verified_fix(arguments.build, audit)
    if arguments.format == "text" and arguments.output is None:
        output.show(done.difference)
    else:  # stdout is for the report
        for line in done.difference.splitlines():
            output.say(line)
    for when, report in (("before", done.before), ("after", done.after)):
        if report is not None:
            causes = ", ".join(dict.fromkeys(f.cause for f in report.findings))
            output.say(f"{when}: {causes or 'agrees'}")
    if not done.before.agrees:
        output.say(f"{arguments.build}: {'mended' if done.written else 'unchanged'}")
    return done.last


def _is_delivered(report: Report, form: str, path: pathlib.Path | None) -> bool:
    """Whether the report is where it was wanted; else it is shown in short."""
    from distloss._audit.report import render

    try:
        if path is None:
            colours = sys.stdout is not None and sys.stdout.isatty()
            coding = output.encoding()
            output.show(render.rendered(report, form, colours=colours, coding=coding))
        else:
            output.write(render.rendered(report, form), path)
    except Exception as error:  # minutes of work are not thrown away
        where = "stdout" if path is None else path
        output.say(f"distloss: the report is not in {where}: {_told(error)}")
        _show_in_short(report, "json" if form == "json" else "plain")
        return False
    return True


def _show_in_short(report: Report, form: str) -> None:
    from distloss._audit.report import render

    with contextlib.suppress(OSError):
        output.show(render.rendered(report, form))
