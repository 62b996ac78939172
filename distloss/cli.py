"""The command `distloss`: parse, audit or lint, return a code."""

from __future__ import annotations

import argparse
import itertools
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

from distloss._audit import command as audit
from distloss._audit import output
from distloss._audit.command import AGREES, DIFFERS, NOT_CHECKED
from distloss._audit.report.printable import printable
from distloss._doctor import command as doctor
from distloss._lint import command as lint

__all__ = ["AGREES", "DIFFERS", "NOT_CHECKED", "main"]


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
        told = output.told(error)
    output.say(f"distloss: {told}")
    return NOT_CHECKED


def _divided(argv: Sequence[str]) -> tuple[list[str], list[str]]:
    """What is before `--`, and after it: the arguments of the audited script."""
    if list(argv[:1]) != ["audit"]:
        return list(argv), []
    before = list(itertools.takewhile(lambda one: one != "--", argv))
    return before, list(argv[len(before) + 1 :])


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


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="distloss",
        description="One global batch, one update, however it is split.",
    )
    parser.add_argument(
        "--version", action=_Version, nargs=0, help="print the version and exit"
    )
    commands = parser.add_subparsers(dest="command", required=True)
    audit.add_to(commands)
    lint.add_to(commands)
    doctor.add_to(commands)
    return parser
