"""Where a child process finds what is audited: `build`, or a script as it is."""

from __future__ import annotations

import os
import pathlib
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from distloss._errors import ArgumentError, ArgumentTypeError, AuditError


@dataclass(frozen=True)
class Target:
    """What is audited.

    Attributes:
      name: for people.
      settings: for the child that loads it.
      folder: for files that are exchanged.
      splits: of the batch that are to be probed; None for those that can occur.
    """

    name: str
    settings: dict[str, Any]
    folder: str
    splits: tuple[str, ...] | None = None


def target_of(
    build: Callable[[], Any] | str,
    folder: pathlib.Path,
    args: Sequence[str] = (),
    source: str | None = None,
) -> Target:
    """The address of `build`, `build` itself for a child to load, or a script.

    Args:
      build: what is audited.
      folder: for files that are exchanged.
      args: of a script.
      source: in place of what is in the file; None for that.

    Raises:
      ArgumentError: no such file, or no name in it; arguments for what is no script;
        a source for what is in no file.
      ArgumentTypeError: neither a function nor an address.
    """
    if is_script(build):
        name, settings = str(build), _of_script(str(build), args)
    elif args:
        raise ArgumentError(
            f"Expected arguments for a script, such as train.py. Got {list(args)} for "
            f"{build!r}, whose function takes none."
        )
    elif isinstance(build, str):
        name, settings = build, _of_address(build)
    elif callable(build):
        name = getattr(build, "__qualname__", repr(build))
        settings = _of_function(build, folder)
    else:
        raise ArgumentTypeError(
            "Expected build= to be a function or 'file.py:build'. Got "
            f"build={build!r} of type {type(build).__name__}."
        )
    paths = [path or "." for path in sys.path]
    settings["paths"] = [*settings.get("paths", []), *paths]
    if source is not None:
        if "file" not in settings:
            raise ArgumentError(
                "Expected source= for a file: FILE.py or FILE.py:build. Got it for "
                f"{name}."
            )
        settings["source"] = source
    return Target(name, settings, str(folder))


def place_and_name(address: str) -> tuple[str, str]:
    """A file or module, and the function in it; "" for a script."""
    if is_script(address):
        return address, ""
    place, _, name = address.rpartition(":")
    return place, name


def folder_of(build: Any) -> pathlib.Path:
    """Where the project of a target is looked for: at its file, or where we are."""
    place = place_and_name(build)[0] if isinstance(build, str) else ""
    return pathlib.Path(place).parent if os.path.isfile(place) else pathlib.Path()


def is_script(build: Any) -> bool:
    """Whether that names a file, and no function in it."""
    return isinstance(build, str) and build.endswith(".py")


def _of_script(place: str, args: Sequence[str]) -> dict[str, Any]:
    path = _existing(place)
    return {
        "script": str(path),
        "file": str(path),
        "argv": [place, *args],
        "name": place,
        "paths": [str(path.parent)],
    }


def _existing(place: str) -> pathlib.Path:
    path = pathlib.Path(place).absolute()
    if not path.is_file():
        raise ArgumentError(f"Expected a Python file. Got {place}, which is not there.")
    return path


def _of_address(address: str) -> dict[str, Any]:
    place, colon, name = address.rpartition(":")
    if not colon or not name.isidentifier():
        raise ArgumentError(
            "Expected a script FILE.py, or FILE.py:build or package.module:build, the "
            f"function's name after a colon. Got {address!r}."
        )
    if not (place.endswith(".py") or "/" in place):
        return {"module": place, "name": name, "paths": ["."]}
    path = _existing(place)
    return {"file": str(path), "name": name, "paths": [str(path.parent)]}


def _of_function(build: Any, folder: pathlib.Path) -> dict[str, Any]:
    module, name = (
        getattr(build, "__module__", None),
        getattr(build, "__qualname__", ""),
    )
    found: Any = sys.modules.get(module or "")
    for part in name.split("."):
        found = getattr(found, part, None)
    if found is build and module != "__main__":
        return {"module": module, "name": name}
    return _pickled(build, folder)


def _pickled(build: Any, folder: pathlib.Path) -> dict[str, Any]:
    try:
        import cloudpickle
    except ImportError as error:
        raise AuditError(
            "Expected cloudpickle, to hand a function that cannot be imported to a "
            "child process. It is not installed. Run pip install cloudpickle, "
            "or move build() to the top of a module."
        ) from error
    path = folder / "build.pickle"
    try:
        path.write_bytes(cloudpickle.dumps(build))
    except Exception as error:
        raise AuditError(
            "Expected build() to be importable or picklable. Got "
            f"{type(error).__name__}: {error}. Make what it uses inside of it."
        ) from error
    return {"pickle": str(path), "name": getattr(build, "__qualname__", "build")}
