"""Mends a file, again and again until nothing is left that can be mended."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

from distloss._lint.check import hits, is_ignored
from distloss._lint.files import Target
from distloss._lint.fixes.edits import Mend, edited
from distloss._lint.source import Source, parsed

_PASSES = 6  # one mend may show what another one hid


def mended(
    target: Target, text: str, *, ignore: Iterable[str] = (), certain: bool = True
) -> str:
    """The text of a file with what can be mended.

    Args:
      target: the file.
      text: of it.
      ignore: rules that are not checked.
      certain: whether only mends are made that are right in any case.

    Returns:
      The same text where there is nothing to mend.

    Raises:
      SourceError: it does not parse.
    """
    ignored = frozenset(ignore)
    for _ in range(_PASSES):
        source = parsed(target.path, text)
        after = edited(source, _mends(source, target, ignored, certain=certain))
        if after == text:
            break
        text = after
    return text


def _mends(
    source: Source, target: Target, ignored: frozenset[str], *, certain: bool
) -> list[Mend]:
    found = []
    for rule, hit in hits(source, target.build):
        mend = hit.mend
        if mend is None or rule.name in ignored or not mend.is_in(source):
            continue
        if (mend.certain or not certain) and not is_ignored(rule, hit):
            found.append(mend)
    return found


def difference(before: str, after: str, name: str) -> str:
    """What changed, as a unified diff; "" for nothing."""
    lines = difflib.unified_diff(
        before.splitlines(keepends=True),
        after.splitlines(keepends=True),
        name,
        name,
    )
    whole = [line if line.endswith("\n") else f"{line}\n" for line in lines]
    return "".join(whole)
