"""Imports: of other packages by address, of files beside this one by reading them."""

from __future__ import annotations

import pathlib

import libcst as cst
from libcst.helpers import get_full_name_for_node

from distloss._lint.interpreter.scope import Scope
from distloss._lint.names import canonical
from distloss._lint.values import UNKNOWN, Imported, Module, Ref, Value

# what we know by address, also where its own source is beside the file
_KNOWN = frozenset({"distloss", "tensorflow", "keras", "tf_keras", "horovod"})


def import_module(alias: cst.ImportAlias, scope: Scope) -> None:
    """`import a.b as c`."""
    name = get_full_name_for_node(alias.name) or ""
    if alias.asname is not None:
        scope.names[_name_of(alias.asname)] = _module(name, 0, scope)
    else:
        first = name.partition(".")[0]
        scope.names[first] = _module(first, 0, scope)


def import_names(node: cst.ImportFrom, scope: Scope) -> None:
    """`from a import b as c`."""
    if isinstance(node.names, cst.ImportStar):
        return
    module = get_full_name_for_node(node.module) if node.module is not None else ""
    for alias in node.names:
        name = get_full_name_for_node(alias.name) or ""
        target = name if alias.asname is None else _name_of(alias.asname)
        scope.set(target, _imported(module or "", name, len(node.relative), scope))


def _name_of(asname: cst.AsName) -> str:
    return get_full_name_for_node(asname.name) or ""


def _imported(module: str, name: str, level: int, scope: Scope) -> Value:
    whole = f"{module}.{name}" if module else name
    found = _module(module, level, scope)
    inner = _module(whole, level, scope)
    submodule = inner if isinstance(inner, Module) else None
    if isinstance(found, Module):
        return Imported(found, name, submodule)
    return submodule or (UNKNOWN if level else _address(whole, scope))


def _module(name: str, level: int, scope: Scope) -> Value:
    is_known = not level and name.partition(".")[0] in _KNOWN
    path = None if is_known else _path_of(name, level, scope.source.path)
    if path is not None:
        return Module(path)
    return _address(name, scope) if not level else UNKNOWN


def _address(name: str, scope: Scope) -> Ref:
    first, dot, rest = name.partition(".")
    if first == "tensorflow" and "TF_USE_LEGACY_KERAS" in scope.source.text:
        first = f"legacy_{first}"
    return Ref(canonical(first + dot + rest))


def _path_of(name: str, level: int, importer: pathlib.Path) -> pathlib.Path | None:
    """The file of a module that is near the one that imports it."""
    if level:
        folder = importer.parents[level - 1] if level <= len(importer.parents) else None
    else:
        folder = _folder_of(name.partition(".")[0], importer)
    if folder is None:
        return None
    place = folder.joinpath(*name.split(".")) if name else folder
    paths = [place / "__init__.py"]
    if name:
        paths.insert(0, place.with_name(f"{place.name}.py"))
    return next((p for p in paths if p != importer and _is_file(p)), None)


def _folder_of(package: str, importer: pathlib.Path) -> pathlib.Path:
    """Where a package is looked for: where this file's own package is, or beside it."""
    for folder in importer.parents:
        if folder.name == package:
            return folder.parent
        if not _is_file(folder / "__init__.py"):
            break
    return importer.parent


def _is_file(path: pathlib.Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):
        return False
