"""`distloss lint --fix` and `--diff`."""

from __future__ import annotations

import io
import tokenize
from collections.abc import Callable, Sequence

from distloss._audit import output
from distloss._lint.files import Target, content, targets
from distloss._lint.fixes.mending import difference, mended
from distloss._lint.run import settings_of
from distloss._lint.source import SourceError, decoded, is_distributed


def fixed(names: Sequence[str]) -> list[str]:
    """Mends files; returns the names of those that were changed.

    Raises:
      ArgumentError: there is no such file.
      OSError: a file cannot be written.
    """
    return _changed(names, _write)


def differences(names: Sequence[str]) -> str:
    """What `fixed` would change.

    Raises:
      ArgumentError: there is no such file.
    """
    return "".join(_changed(names, _difference))


def _changed(
    names: Sequence[str], take: Callable[[Target, str, str], str]
) -> list[str]:
    settings = settings_of(names)
    found = []
    for target in targets(names, settings.exclude):
        try:
            before = utf8(content(target.path))
            if is_distributed(before):
                after = mended(target, before, ignore=settings.ignore)
                found += [take(target, before, after)] if after != before else []
        except SourceError:
            continue  # lint tells why
    return found


def utf8(data: bytes) -> str:
    """The text of a file that may be written again.

    Raises:
      SourceError: it is not in UTF-8, in which files are written.
    """
    text = decoded(data)
    encoding, _ = tokenize.detect_encoding(io.BytesIO(data).readline)
    if encoding != "utf-8":
        raise SourceError(f"Expected UTF-8 for --fix. Got {encoding}.")
    return text


def _write(target: Target, _before: str, after: str) -> str:
    output.write(after, target.path)
    return str(target.path)


def _difference(target: Target, before: str, after: str) -> str:
    return difference(before, after, str(target.path))
