"""The command `distloss audit`."""

from __future__ import annotations

import argparse
import contextlib
import functools
import os
import pathlib
import sys
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

from distloss._audit import output
from distloss._audit.report.audits import Audits, Unchecked
from distloss._audit.report.render import FORMATS, OFFERED
from distloss._errors import ArgumentError
from distloss._settings import Run

AGREES, DIFFERS, NOT_CHECKED = 0, 1, 2

_EPILOG = """
A script runs as it is, with the arguments after --, up to its first training step,
which is probed; what comes after never runs. DISTLOSS_AUDIT=child in its environment
tells it that it is audited.

build() takes nothing and returns (model, batch): a compiled Keras model, or an object
with trainable_variables and train_step(batch), and one global batch (x, y) or
(x, y, sample_weight) in NumPy. It is called inside strategy.scope().

[tool.distloss] in pyproject.toml may have targets, which are audited where no TARGET is
given; replicas; and [[tool.distloss.accept]] with a cause and the reason why it is left
as it is. GITHUB_STEP_SUMMARY gets a summary where it is set.

exit codes: 0 gradients agree, 1 they differ, 2 could not be checked or told, or the
report could not be written; of several targets the worst
"""


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


def add_to(commands: Any) -> None:
    """Adds the command to those of `distloss`."""
    audit = commands.add_parser(
        "audit",
        help="run a training step on 1 and N replicas, and name what differs",
        description="Runs a training step on 1 and on N replicas, and names what "
        "makes their gradients differ.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    audit.add_argument(
        "target",
        metavar="TARGET",
        nargs="?",
        help="a script FILE.py, FILE.py:build or package.module:build (default: the "
        "targets of pyproject.toml)",
    )
    audit.add_argument(
        "--replicas",
        type=_counts,
        metavar="1,2,4",
        help="numbers of replicas (default: those of pyproject.toml, or 1,2,4)",
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
    audit.set_defaults(run=run)


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
        "--quiet",
        action="store_true",
        help="no progress, and no text where gradients agree",
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
        help="audit FILE.py as lint mends it, and write that where it agrees",
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


def run(arguments: argparse.Namespace) -> int:
    """Audits; returns the exit code."""
    from distloss._audit.report import render

    render.check_installed(arguments.format)
    runs = _runs(arguments)
    output.check(arguments.output, [one.target for one in runs])
    with render.progress(quiet=arguments.quiet) as progress:
        audits = _audited(runs, arguments, progress)
    for one in audits.unchecked:
        output.say(f"distloss: {f'{one.target}: ' * audits.several}{one.why}")
    _append_summary(audits)
    unknown = any(one.answer == "cannot tell" for one in audits.reports)
    if not _is_delivered(audits, arguments) or audits.unchecked or unknown:
        return NOT_CHECKED
    return AGREES if audits.passes else DIFFERS


def _runs(arguments: argparse.Namespace) -> Sequence[Run]:
    """What is to be audited."""
    if arguments.target is not None:
        return [Run(arguments.target, tuple(arguments.of_script))]
    from distloss._settings import settings_for

    if arguments.fix or arguments.of_script:
        what = "--fix" if arguments.fix else "arguments after --"
        raise ArgumentError(f"Expected a TARGET for {what}. Got none.")
    settings = settings_for(pathlib.Path())
    if not settings.targets:
        raise ArgumentError(
            "Expected a TARGET, or targets in [tool.distloss] of pyproject.toml. Got "
            "neither."
        )
    folder = os.path.relpath(settings.folder)
    return [Run(_from(folder, one.target), one.args) for one in settings.targets]


def _from(folder: str, target: str) -> str:
    """The address of a file in a folder, for who is elsewhere."""
    from distloss._audit.target import place_and_name

    place, _ = place_and_name(target)
    if place.endswith(".py") or "/" in place:
        return os.path.normpath(os.path.join(folder, target))
    return target


def _audited(
    runs: Sequence[Run], arguments: argparse.Namespace, progress: Callable[[str], None]
) -> Audits:
    """One after the other: what fails does not throw away the rest."""
    reports, unchecked = [], []
    several = arguments.target is None
    for one in runs:

        def tell(text: str, about: str = f"{one.target}: " * several) -> None:
            progress(about + text)

        try:
            reports.append(_report(one, arguments, tell))
        except Exception as error:  # 1 is a verdict, so no traceback may say it
            unchecked.append(Unchecked(one.target, output.told(error)))
    return Audits(tuple(reports), tuple(unchecked), several)


def _report(
    one: Run, arguments: argparse.Namespace, progress: Callable[[str], None]
) -> Any:
    from distloss._audit.run import audit

    audit_of = functools.partial(
        audit,
        replicas=arguments.replicas,
        engine=arguments.engine,
        devices=arguments.devices,
        timeout=arguments.timeout,
        progress=progress,
        args=one.args,
        rows=arguments.rows,
        splits=arguments.splits,
    )
    return _mended(arguments, audit_of) if arguments.fix else audit_of(one.target)


def _mended(arguments: argparse.Namespace, audit: Callable[..., Any]) -> Any:
    """Mends the file where the audit agrees with that; the report of what it is now."""
    from distloss._lint import command

    command.check_installed()
    from distloss._lint.verify import verified_fix

    done = verified_fix(arguments.target, audit)
    if arguments.format == "text" and arguments.output is None:
        output.show(done.difference)
    else:  # stdout is for the report
        for line in done.difference.splitlines():
            output.say(line)
    for when, report in (("before", done.before), ("after", done.after)):
        if report is not None:
            causes = ", ".join(dict.fromkeys(f.cause for f in report.findings))
            output.say(f"{when}: {causes or 'agrees'}")
    if done.failure:
        output.say(f"after: could not be checked: {done.failure}")
    if not done.before.passes:
        output.say(f"{arguments.target}: {'mended' if done.written else 'unchanged'}")
    return done.last


def _append_summary(audits: Audits) -> None:
    """For the page of a run of GitHub Actions; that it cannot be is no verdict."""
    path = os.environ.get("GITHUB_STEP_SUMMARY")
    if not path:
        return
    from distloss._audit.report import render

    try:
        with open(path, "a", encoding="utf-8") as file:
            file.write(render.rendered(audits, "markdown"))
    except OSError as error:
        output.say(f"distloss: the summary is not in {path}: {error.strerror}")


def _is_delivered(audits: Audits, arguments: argparse.Namespace) -> bool:
    """Whether reports are where they were wanted; else they are shown in short."""
    from distloss._audit.report import render

    path, form = arguments.output, arguments.format
    if not _is_wanted(audits, arguments):
        return True
    try:
        if path is None:
            colours = render.shows_colours(sys.stdout)
            coding = output.encoding()
            output.show(render.rendered(audits, form, colours=colours, coding=coding))
        else:
            output.write(render.rendered(audits, form), path)
    except Exception as error:  # minutes of work are not thrown away
        where = "stdout" if path is None else path
        output.say(f"distloss: the report is not in {where}: {output.told(error)}")
        _show_in_short(audits, "json" if form == "json" else "plain")
        return False
    return True


def _is_wanted(audits: Audits, arguments: argparse.Namespace) -> bool:
    """Whether there is something to say, and to somebody."""
    form = arguments.format
    if not audits.reports and not audits.several:
        return FORMATS[form].tells_failures
    is_told = form == "text" and arguments.output is None
    return not (arguments.quiet and audits.passes and is_told)


def _show_in_short(audits: Audits, form: str) -> None:
    from distloss._audit.report import render

    with contextlib.suppress(OSError):
        output.show(render.rendered(audits, form))
