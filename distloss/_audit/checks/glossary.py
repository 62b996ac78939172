"""The causes in words, for who has a report and no step at hand."""

from __future__ import annotations

import textwrap

from distloss._audit.checks.table import CAUSES
from distloss._errors import ArgumentError


def listed() -> str:
    """All causes, each with what happens."""
    lines = []
    for slug, cause in CAUSES.items():
        lines += [slug, textwrap.indent(textwrap.fill(cause.explanation, 80), "    ")]
    return "\n".join(lines) + "\n"


def explained(slug: str) -> str:
    """One cause: what happens, what to change, and what is special in some cases.

    Raises:
      ArgumentError: there is none of this name.
    """
    if slug not in CAUSES:
        raise ArgumentError(
            f"Expected a cause that the audit names. Got {slug!r}. Run distloss audit "
            "--list-causes for all of them."
        )
    cause = CAUSES[slug]
    parts = [(slug, cause.explanation, cause.remedy)]
    parts += [(f"{slug}: {name}", *case) for name, case in cause.cases.items()]
    paragraphs = []
    for name, what, remedy in parts:
        told = (what, f"To mend it: {remedy}")
        paragraphs += [name, *(textwrap.fill(text, 80) for text in told)]
    return "\n\n".join(paragraphs) + "\n"
