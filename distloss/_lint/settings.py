"""`[tool.distloss]` of the nearest pyproject.toml."""

from __future__ import annotations

import pathlib
from dataclasses import dataclass, fields
from typing import Any

from distloss._errors import ArgumentError


@dataclass(frozen=True)
class Settings:
    """What a project wants.

    Attributes:
      ignore: rules that are not checked.
      exclude: patterns of files and folders that are left out of folders.
      hints: whether advice is told, too.
    """

    ignore: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    hints: bool = True


def settings_for(folder: pathlib.Path, rules: frozenset[str]) -> Settings:
    """The settings of the project that a folder is in.

    Args:
      folder: where to begin; the nearest file above it that has the table counts.
      rules: names that `ignore` may have.

    Raises:
      ArgumentError: the file or the table cannot be understood.
    """
    for place in (folder.absolute(), *folder.absolute().parents):
        path = place / "pyproject.toml"
        table = _table(path) if path.is_file() else None
        if table is not None:
            return _settings(table, path, rules)
    return Settings()


def _table(path: pathlib.Path) -> dict[str, Any] | None:
    try:
        import tomllib
    except ImportError:  # Python 3.10
        import tomli as tomllib  # type: ignore[no-redef, import-not-found, unused-ignore]
    try:
        data = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ArgumentError(f"Expected TOML. Got {path}: {error}.") from error
    tool = data.get("tool", {})
    table = tool.get("distloss") if isinstance(tool, dict) else None
    return table if isinstance(table, dict) else None


def _settings(
    table: dict[str, Any], path: pathlib.Path, rules: frozenset[str]
) -> Settings:
    names = [field.name for field in fields(Settings)]
    for name, value in table.items():
        if name not in names:
            raise ArgumentError(
                f"Expected [tool.distloss] to have {', '.join(names)}. Got "
                f"{name}={value!r} in {path}."
            )
        if not _fits(name, value):
            kind = "true or false" if name == "hints" else "a list of strings"
            raise ArgumentError(f"Expected {kind}. Got {name}={value!r} in {path}.")
    settings = Settings(
        tuple(table.get("ignore", ())),
        tuple(table.get("exclude", ())),
        table.get("hints", True),
    )
    unknown = sorted(set(settings.ignore) - rules)
    if unknown:
        raise ArgumentError(
            f"Expected ignore= to name rules: {', '.join(sorted(rules))}. Got "
            f"{', '.join(unknown)} in {path}."
        )
    return settings


def _fits(name: str, value: Any) -> bool:
    if name == "hints":
        return isinstance(value, bool)
    return isinstance(value, list) and all(isinstance(one, str) for one in value)
