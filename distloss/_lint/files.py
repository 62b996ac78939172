"""Which files are meant, and what is in them."""

from __future__ import annotations

import fnmatch
import os
import pathlib
import stat
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from distloss._errors import ArgumentError
from distloss._lint.source import SourceError

_SKIPPED = frozenset({"__pycache__", "node_modules", "site-packages", "venv", "build"})


@dataclass(frozen=True, order=True)
class Target:
    """A file to lint.

    Attributes:
      path: of the file.
      build: the function in it that `distloss audit` takes, or None for the file.
    """

    path: pathlib.Path
    build: str | None = None

    def __str__(self) -> str:
        return str(self.path) + (f":{self.build}" if self.build else "")


def targets(names: Iterable[str], exclude: tuple[str, ...]) -> list[Target]:
    """The files that are meant by names of files and folders, each once.

    Args:
      names: files, folders, and `FILE.py:build`.
      exclude: patterns of paths inside of folders that are left out.

    Raises:
      ArgumentError: there is no such file.
    """
    found: dict[Target, None] = {}
    for name in names:
        for target in _of_name(name, exclude):
            found.setdefault(target)
    return list(found)


def _of_name(name: str, exclude: tuple[str, ...]) -> Iterator[Target]:
    path = pathlib.Path(name)
    if os.path.isdir(name):
        yield from sorted(_inside(path, exclude))
        return
    place, colon, build = name.rpartition(":")
    if not os.path.lexists(name) and colon and build.isidentifier():
        path = pathlib.Path(place)
    else:
        build = ""
    if not os.path.lexists(path):
        raise ArgumentError(
            "Expected files, folders, FILE.py:build, or - for stdin. Got "
            f"{name!r}, which is not there."
        )
    yield Target(path, build or None)


def _inside(folder: pathlib.Path, exclude: tuple[str, ...]) -> Iterator[Target]:
    for place, folders, files in os.walk(folder):  # follows no links: they may loop
        folders[:] = [one for one in folders if not _is_skipped(place, one, exclude)]
        for name in files:
            if name.endswith(".py") and not _is_excluded(place, name, exclude):
                yield Target(pathlib.Path(place, name))


def _is_skipped(place: str, name: str, exclude: tuple[str, ...]) -> bool:
    return (
        name.startswith(".") or name in _SKIPPED or _is_excluded(place, name, exclude)
    )


def _is_excluded(place: str, name: str, exclude: tuple[str, ...]) -> bool:
    path = pathlib.PurePath(place, name).as_posix()
    return any(
        fnmatch.fnmatch(path, one) or path.endswith(f"/{one}") for one in exclude
    )


def content(path: pathlib.Path) -> bytes:
    """What is in a file.

    Raises:
      SourceError: it cannot be read, or is none.
    """
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):
            raise SourceError("Expected a file. Got a device, a pipe or a socket.")
        return path.read_bytes()
    except OSError as error:
        raise SourceError(f"It cannot be read: {error.strerror or error}.") from error
