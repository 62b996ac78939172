"""Sections of docstrings under the names by which the site generator knows them."""

import re
from typing import Any

import griffe

# `>>>` is code in a section of examples only; the other is a list like the arguments.
NAMES = {"Example:": "Examples:", "Call args:": "Other Parameters:"}
TITLE = re.compile(rf"^( *)({'|'.join(NAMES)})$", re.MULTILINE)


class Sections(griffe.Extension):
    """Renames them before they are read."""

    def on_instance(self, *, obj: Any, **_: Any) -> None:
        """For each object of the package."""
        if obj.docstring:
            obj.docstring.value = TITLE.sub(
                lambda found: found[1] + NAMES[found[2]], obj.docstring.value
            )
