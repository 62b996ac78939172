"""What users name, shown so that it can rewrite no terminal and no page."""

from __future__ import annotations

import unicodedata

# Controls, formats (some turn the direction of writing), halves of characters, those
# that are private or none, and what begins a line or a paragraph.
_UNSEEN = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})


def printable(text: str) -> str:
    r"""The text with everything that is not seen as a code.

    Example:
      >>> print(printable("loss\x1b[2J"))
      loss\x1b[2J
    """
    return "".join(_shown(character) for character in text)


def _shown(character: str) -> str:
    if unicodedata.category(character) not in _UNSEEN:
        return character
    return character.encode("unicode_escape").decode("ascii")
