"""A report as text, JSON or HTML."""

from __future__ import annotations

import contextlib
import importlib
import sys
from collections.abc import Callable, Iterator

from distloss._audit.report import text as text_format
from distloss._audit.report.findings import Report
from distloss._audit.report.printable import printable
from distloss._errors import AuditError

NEEDS: dict[str, tuple[str, ...]] = {
    "text": ("rich",),
    "json": (),
    "html": ("jinja2", "matplotlib"),
    "plain": (),
}


def check_installed(form: str) -> None:
    """Refuses early, before anything is measured, what could not be written later.

    Raises:
      AuditError: a package is missing; names the extra that brings it.
    """
    for name in NEEDS[form]:
        try:
            importlib.import_module(name)
        except ImportError as error:
            raise AuditError(
                f"Expected the package {name} for --format {form}. It is not "
                "installed. Run pip install 'distloss[report]', or use --format json."
            ) from error


def rendered(
    report: Report, form: str, *, colours: bool = False, coding: str = "utf-8"
) -> str:
    """The report in one of the formats of `NEEDS`, for a terminal of this coding."""
    if form == "json":
        return report.to_json() + "\n"
    if form == "html":
        from distloss._audit.report import html

        return html.page(report)
    if form == "plain":
        return text_format.plain(report)
    return text_format.text(report, colours=colours, coding=coding)


@contextlib.contextmanager
def progress() -> Iterator[Callable[[str], None]]:
    """What is being done, on stderr: one line that changes, or nothing."""
    if sys.stderr is None or not sys.stderr.isatty():
        yield lambda _text: None
        return
    from rich.console import Console
    from rich.text import Text

    console = Console(stderr=True)
    spinner = "line" if console.options.ascii_only else "dots"
    with console.status("starting", spinner=spinner) as status:
        yield lambda text: status.update(Text(printable(text)))
