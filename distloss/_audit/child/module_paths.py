"""Where Python looks for what the user's code imports."""

from __future__ import annotations

import sys


def find_modules_in(paths: list[str]) -> None:
    """Has Python look there first."""
    sys.path[:] = list(dict.fromkeys([*paths, *sys.path]))
