"""The command `distloss lint`."""

from __future__ import annotations

import argparse
from typing import Any

from distloss._errors import LintError

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
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Lints; returns the exit code."""
    try:
        import libcst  # noqa: F401
    except ImportError as error:
        raise LintError(
            "Expected LibCST, with which lint reads source code. It is not installed. "
            "Run pip install 'distloss[lint]'."
        ) from error
    from distloss._audit import output
    from distloss._lint import report
    from distloss._lint.run import lint

    linted = lint(arguments.paths)
    output.show(report.rendered(linted, arguments.format))
    if arguments.format == "text":
        for problem in linted.problems:
            place = problem.file or ""
            line = f":{problem.line}" if problem.line else ""
            output.say(f"distloss: {place}{line}: {problem.message}")
    if linted.problems:
        return NOT_READ
    return CLEAN if linted.is_clean else FOUND
