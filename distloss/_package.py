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


_PACKAGES = ("tensorflow", "keras", "tf-keras", "horovod", "numpy", "tensorboard")


def versions() -> dict[str, str]:
    """Of Python, this package and those it works with, as far as they are installed."""
    import platform
    from importlib import metadata

    found = {"python": platform.python_version(), "distloss": version()}
    for package in _PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found
