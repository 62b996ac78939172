"""From a file to its findings."""

from __future__ import annotations

import functools
import os
import pathlib
import re
import sys
from collections.abc import Iterable, Iterator

from distloss._formats.record import Problem
from distloss._lint.files import Target, content
from distloss._lint.findings import Finding
from distloss._lint.program import facts_of
from distloss._lint.rules import RULES
from distloss._lint.rules.rule import Hit, Rule, Seen
from distloss._lint.source import (
    Source,
    SourceError,
    check_syntax,
    decoded,
    is_distributed,
    parsed,
)
from distloss._lint.updates import terms

_IGNORE = re.compile(r"#\s*distloss:\s*ignore\[([\w\s,-]+)\]")
_RANK = {"error": 0, "warning": 1, "hint": 2}
_FRAMES = 8_000  # of Python, for code that calls and nests

Checked = tuple[list[Finding], list[Problem]]


def check_file(target: Target) -> Checked:
    """What is found in a file, or why it could not be looked at."""
    try:
        data = content(target.path)
        return check_text(target, decoded(data))
    except SourceError as error:
        return [], [Problem(str(error), str(target.path), error.line)]
    except Exception as error:  # the other files are linted all the same
        told = f"distloss itself failed here, please report it: {error!r}"
        return [], [Problem(told, str(target.path))]


def check_text(target: Target, text: str) -> Checked:
    """What is found in a text. One that cannot have a finding is hardly parsed."""
    try:
        if not is_distributed(text):
            check_syntax(text)
            return [], []
        source = parsed(target.path, text)
        return list(_found(source, target.build)), []
    except SourceError as error:
        return [], [Problem(str(error), str(target.path), error.line)]


def _found(source: Source, build: str | None) -> Iterator[Finding]:
    found = hits(source, build)
    yield from most_severe(
        _finding(r, hit) for r, hit in found if not is_ignored(r, hit)
    )


def most_severe(findings: Iterable[Finding]) -> list[Finding]:
    """One finding of each rule in each place, in order: that which is most sure."""
    best: dict[tuple[str, int, int, str], Finding] = {}
    for one in findings:
        before = best.setdefault((one.file, one.line, one.column, one.rule), one)
        if _RANK[one.severity] < _RANK[before.severity]:
            best[one.file, one.line, one.column, one.rule] = one
    return sorted(best.values())


def hits(source: Source, build: str | None) -> Iterator[tuple[Rule, Hit]]:
    """What the rules find in a program."""
    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(max(limit, _FRAMES))
    try:
        facts = facts_of(source, read, build)
        seen = Seen(facts, tuple(terms(facts)))
        for rule in RULES:
            for hit in rule.check(seen):
                yield rule, hit
    finally:
        sys.setrecursionlimit(limit)


@functools.lru_cache(maxsize=256)
def read(path: pathlib.Path) -> Source | None:
    """Another file of a program, or None if it cannot be read."""
    try:
        return parsed(path, decoded(content(path)))
    except SourceError:
        return None


def _finding(rule: Rule, hit: Hit) -> Finding:
    source = hit.place.source
    line, column = source.position(hit.place.node)
    file = os.path.normpath(source.path)
    mend = hit.mend
    fixable = mend is not None and mend.certain and mend.is_in(source)
    return Finding(
        file, line, column, rule.name, hit.severity, hit.message, hit.remedy, fixable
    )


def is_ignored(rule: Rule, hit: Hit) -> bool:
    """Whether a comment on this line, or alone on the one above, says so."""
    number, _ = hit.place.source.position(hit.place.node)
    lines = ["", *hit.place.source.text.splitlines()]
    here = lines[number] if number < len(lines) else ""
    above = lines[number - 1].strip()
    comments = [here, above if above.startswith("#") else ""]
    return any(rule.name in names for names in map(_ignored, comments))


def _ignored(line: str) -> set[str]:
    found = _IGNORE.search(line)
    return {name.strip() for name in found.group(1).split(",")} if found else set()


def without(findings: Iterable[Finding], ignore: Iterable[str]) -> list[Finding]:
    """Those of rules that are not ignored."""
    ignored = frozenset(ignore)
    return [finding for finding in findings if finding.rule not in ignored]
