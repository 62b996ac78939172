"""The code of the user's file: what is in there, or what shall run in its place."""

from __future__ import annotations

import io
import linecache
import pathlib
from typing import Any

_read_lines = linecache.updatecache
_lines: dict[str, list[str]] = {}  # of files that are read as something else


def code_of(path: pathlib.Path, source: str | None) -> Any:
    """What to execute for a file, which is known by its name either way.

    Args:
      path: of the file.
      source: in place of what is in there; None for that.
    """
    if source is None:
        return compile(path.read_bytes(), str(path), "exec", dont_inherit=True)
    _lines[str(path)] = io.StringIO(f"{source}\n", newline=None).readlines()
    linecache.updatecache = _update  # type: ignore[assignment, unused-ignore]
    linecache.cache.pop(str(path), None)
    return compile(source, str(path), "exec", dont_inherit=True)


def _update(filename: str, module_globals: Any = None) -> list[str]:
    """The lines of a file, as tracebacks show and AutoGraph converts them."""
    if filename not in _lines:
        return _read_lines(filename, module_globals)
    lines = _lines[filename]
    # A file without a time is never read again because it has changed.
    linecache.cache[filename] = (sum(map(len, lines)), None, lines, filename)
    return lines
