"""The command `distloss lint`."""

from __future__ import annotations

import argparse
from typing import Any

from distloss._audit import output
from distloss._errors import ArgumentError, LintError

FORMATS = ("text", "json", "github", "sarif")
CLEAN, FOUND, NOT_READ = 0, 1, 2

_EPILOG = """
error: certain; warning: depends on what cannot be seen; hint: advice.
A comment on the line takes a finding out:  # distloss: ignore[rule] reason

exit codes: 0 nothing but hints, 1 errors or warnings, 2 something could not be read
"""


def add_to(commands: Any) -> None:
    """Adds the command to those of `distloss`."""
    parser = commands.add_parser(
        "lint",
        help="find the same bugs in source code, without running it",
        description="Finds in source code what makes gradients depend on how a batch "
        "is split over replicas. Runs nothing, and loads no TensorFlow.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "paths",
        nargs="+",
        metavar="PATH",
        help="files, folders, FILE.py:build as for audit, or - for stdin",
    )
    parser.add_argument("--format", choices=FORMATS, default="text")
    change = parser.add_mutually_exclusive_group()
    change.add_argument(
        "--fix", action="store_true", help="mend what can be mended for certain"
    )
    change.add_argument(
        "--diff", action="store_true", help="show what --fix would change"
    )
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Lints; returns the exit code."""
    check_installed()
    from distloss._lint import report
    from distloss._lint.run import lint

    if arguments.fix or arguments.diff:
        _mend(arguments)
    linted = lint(arguments.paths)
    if not arguments.diff:
        output.show(report.rendered(linted, arguments.format))
    for problem in linted.problems if arguments.format == "text" else ():
        line = f":{problem.line}" if problem.line else ""
        output.say(f"distloss: {problem.file}{line}: {problem.message}")
    if linted.problems:
        return NOT_READ
    return CLEAN if linted.is_clean else FOUND


def check_installed() -> None:
    """Refuses to go on without LibCST.

    Raises:
      LintError: it is not installed.
    """
    try:
        import libcst  # noqa: F401
    except ImportError as error:
        raise LintError(
            "Expected LibCST, with which lint reads source code. It is not installed. "
            "Run pip install libcst."
        ) from error


def _mend(arguments: argparse.Namespace) -> None:
    from distloss._lint import fix

    if "-" in arguments.paths:
        raise ArgumentError("Expected files for --fix and --diff. Got -.")
    if arguments.diff:
        output.show(fix.differences(arguments.paths))
        return
    for name in fix.fixed(arguments.paths):
        output.say(f"mended {name}")
