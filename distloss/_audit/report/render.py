"""A report in one of the formats of a table."""

from __future__ import annotations

import contextlib
import importlib
import os
import sys
from collections.abc import Callable, Iterator
from typing import Any

from distloss._audit.report import (
    github,
    html,
    json,
    markdown,
    plain,
    sarif,
    text,
)
from distloss._audit.report.audits import Audits
from distloss._audit.report.findings import Report
from distloss._audit.report.format import Format, Terminal
from distloss._audit.report.printable import printable
from distloss._errors import AuditError

# In the order in which the command offers them; the first is its default.
FORMATS: dict[str, Format] = {
    one.FORMAT.name: one.FORMAT
    for one in (text, json, html, markdown, github, sarif, plain)
}
OFFERED = tuple(name for name, one in FORMATS.items() if one.is_offered)


def _is_there(package: str) -> bool:
    try:
        importlib.import_module(package)
    except ImportError:
        return False
    return True


def check_installed(form: str) -> None:
    """Refuses early, before anything is measured, what could not be written later.

    Raises:
      AuditError: a package is missing.
    """
    for name in FORMATS[form].needs:
        if not _is_there(name):
            raise AuditError(
                f"Expected the package {name} for --format {form}. It is not "
                f"installed. Run pip install {name}, or use --format json."
            )


def rendered(
    told: Report | Audits, form: str, *, colours: bool = False, coding: str = "utf-8"
) -> str:
    """A report, or all of them, in one of `FORMATS`, for a terminal of this coding."""
    audits = Audits((told,)) if isinstance(told, Report) else told
    return FORMATS[form].write(audits, Terminal(colours, coding))


def shows_colours(stream: Any) -> bool:
    """Whether it is a terminal that shows colours, and nobody asked for none.

    See https://no-color.org.
    """
    return _is_terminal(stream) and not os.environ.get("NO_COLOR")


def _is_terminal(stream: Any) -> bool:
    """Whether it is one on which a line can be written again."""
    is_dumb = os.environ.get("TERM", "").lower() in ("dumb", "unknown")
    return stream is not None and stream.isatty() and not is_dumb


@contextlib.contextmanager
def progress(*, quiet: bool = False) -> Iterator[Callable[[str], None]]:
    """What is being waited for, on stderr: one line that changes, or nothing."""
    if quiet or not _is_terminal(sys.stderr) or not _is_there("rich"):
        yield lambda _text: None
        return
    from rich.console import Console
    from rich.text import Text

    console = Console(stderr=True, no_color=not shows_colours(sys.stderr))
    spinner = "line" if console.options.ascii_only else "dots"
    with console.status("starting", spinner=spinner) as status:
        yield lambda text: status.update(Text(printable(text)))
