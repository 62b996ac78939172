"""`[tool.distloss]` of the nearest pyproject.toml: what a project wants."""

from __future__ import annotations

import os
import pathlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from distloss._errors import ArgumentError


@dataclass(frozen=True)
class Run:
    """What is audited where no target is given.

    Attributes:
      target: its address, as the command takes it.
      args: of a script.
    """

    target: str
    args: tuple[str, ...] = ()


@dataclass(frozen=True)
class Acceptance:
    """A cause that the project leaves as it is.

    Attributes:
      cause: its name.
      reason: why.
      target: the only one in which it is accepted; None for all.
    """

    cause: str
    reason: str
    target: str | None = None


@dataclass(frozen=True)
class Settings:
    """What a project wants.

    Attributes:
      ignore: rules that lint does not check.
      exclude: patterns of files and folders that lint leaves out of folders.
      hints: whether lint tells advice, too.
      targets: what is audited where no target is given.
      replicas: on how many the audit runs a step.
      accept: what the audit finds and the project leaves as it is.
      path: of the file; None if there is none.
    """

    ignore: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    hints: bool = True
    targets: tuple[Run, ...] = ()
    replicas: tuple[int, ...] = (1, 2, 4)
    accept: tuple[Acceptance, ...] = ()
    path: pathlib.Path | None = None

    @property
    def folder(self) -> pathlib.Path:
        """The folder of the project, from which its paths lead."""
        return pathlib.Path.cwd() if self.path is None else self.path.parent


def settings_for(folder: pathlib.Path) -> Settings:
    """The settings of the project that a folder is in.

    Args:
      folder: where to begin; the nearest file above it that has the table counts.

    Raises:
      ArgumentError: the file or the table cannot be understood.
    """
    for place in (folder.absolute(), *folder.absolute().parents):
        path = place / "pyproject.toml"
        table = _table(path) if os.path.isfile(path) else None
        if table is not None:
            return _settings(table, path)
    return Settings()


def _table(path: pathlib.Path) -> dict[str, Any] | None:
    """Our table, or None if there is none."""
    try:
        text = path.read_text(encoding="utf-8")
        tool = _parsed(text, path).get("tool", {})
    except (OSError, ValueError) as error:
        raise ArgumentError(f"Expected TOML. Got {path}: {error}.") from error
    table = tool.get("distloss") if isinstance(tool, dict) else None
    if table is None or isinstance(table, dict):
        return table
    raise ArgumentError(f"Expected a table [tool.distloss]. Got {table!r} in {path}.")


def _parsed(text: str, path: pathlib.Path) -> dict[str, Any]:
    try:
        import tomllib
    except ImportError:  # Python 3.10
        try:
            import tomli as tomllib  # type: ignore[no-redef, import-not-found, unused-ignore]
        except ImportError as error:
            if "distloss" not in text:
                return {}
            raise ArgumentError(
                f"Expected tomli, with which Python 3.10 reads {path}. It is not "
                "installed. Run pip install tomli."
            ) from error
    return tomllib.loads(text)


def _settings(table: dict[str, Any], path: pathlib.Path) -> Settings:
    found: dict[str, Any] = {}
    for name, value in table.items():
        if name not in _KINDS:
            raise ArgumentError(
                f"Expected [tool.distloss] to have {', '.join(_KINDS)}. Got "
                f"{name}={value!r} in {path}."
            )
        read, kind = _KINDS[name]
        try:
            found[name] = read(value)
        except (TypeError, ValueError) as error:
            raise ArgumentError(
                f"Expected {name} to be {kind}. Got {name}={value!r} in {path}."
            ) from error
    return Settings(**found, path=path)


def _of_kind(value: Any, kind: type) -> Any:
    if type(value) is not kind:  # True is no number here
        raise TypeError
    return value


def _flag(value: Any) -> bool:
    return bool(_of_kind(value, bool))


def _strings(value: Any) -> tuple[str, ...]:
    return tuple(_of_kind(one, str) for one in _of_kind(value, list))


def _counts(value: Any) -> tuple[int, ...]:
    return tuple(_of_kind(one, int) for one in _of_kind(value, list))


def _runs(value: Any) -> tuple[Run, ...]:
    return tuple(_run(one) for one in _of_kind(value, list))


def _run(value: Any) -> Run:
    table = {"target": value} if isinstance(value, str) else value
    return Run(**_checked(table, target=_text, args=_strings))


def _acceptances(value: Any) -> tuple[Acceptance, ...]:
    return tuple(
        Acceptance(**_checked(one, cause=_text, reason=_text, target=_text))
        for one in _of_kind(value, list)
    )


def _text(value: Any) -> str:
    if not _of_kind(value, str).strip():
        raise ValueError
    return str(value)


def _checked(table: Any, **kinds: Callable[[Any], Any]) -> dict[str, Any]:
    """The values of a table that has no other names than these."""
    given = _of_kind(table, dict)
    if not set(given) <= set(kinds):
        raise ValueError
    return {name: kinds[name](value) for name, value in given.items()}


# How each is read, and what it must be.
_KINDS: dict[str, tuple[Callable[[Any], Any], str]] = {
    "ignore": (_strings, "a list of rules"),
    "exclude": (_strings, "a list of patterns"),
    "hints": (_flag, "true or false"),
    "targets": (
        _runs,
        'a list of targets such as "train.py", or {target = "train.py", args = '
        '["--epochs", "3"]}',
    ),
    "replicas": (_counts, "a list of numbers such as [1, 2, 4]"),
    "accept": (
        _acceptances,
        "tables [[tool.distloss.accept]], each with a cause and the reason why it is "
        "accepted, and with the target if it is for one alone",
    ),
}
