"""This package: where it lies, and which version it is."""

from __future__ import annotations

import importlib
import pathlib

# Asked of the package, and so the same from each of its files.
FOLDER = pathlib.Path(str(importlib.import_module("distloss").__file__)).parent


def version() -> str:
    """The version that is installed; a number that says so where none is."""
    from importlib import metadata

    try:
        return metadata.version("distloss")
    except metadata.PackageNotFoundError:  # a checkout on the path
        return "0+unknown"


def versions() -> list[str]:
    """This package and those that decide what a step computes, with their versions."""
    from importlib import metadata

    found = [f"distloss {version()}"]
    for name in ("tensorflow", "keras", "tf_keras", "horovod"):
        try:
            found.append(f"{name} {metadata.version(name)}")
        except metadata.PackageNotFoundError:
            continue
    return found
