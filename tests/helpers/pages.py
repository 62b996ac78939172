"""The Markdown pages of the project, and what is in them."""

import pathlib
import re
import sys
from dataclasses import dataclass

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = pathlib.Path(__file__).parents[2]
README = ROOT / "README.md"
GUIDES = ROOT / "examples" / "guides"
PAGES = (
    README,
    *sorted(GUIDES.glob("*.md")),
    ROOT / "examples" / "upstream" / "README.md",
    ROOT / "examples" / "zoo" / "README.md",
    ROOT / "distloss" / "CHANGELOG.md",
    ROOT / "distloss" / "README.md",
    ROOT / "distloss" / "_lint" / "README.md",
)
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class Block:
    """A fenced block of a page: its language, its text, and its first line."""

    page: pathlib.Path
    line: int
    language: str
    text: str

    def __str__(self):
        return f"{self.page.relative_to(ROOT)}:{self.line}"


def blocks(page):
    """All fenced blocks of a page."""
    text = page.read_text()
    return [
        Block(page, text.count("\n", 0, found.start()) + 2, *found.groups())
        for found in FENCE.finditer(text)
    ]


def prose(page):
    """A page without its blocks of code, comments and inline code."""
    text = FENCE.sub("", page.read_text())
    text = re.sub(r"<!--.*?-->", "", text, flags=re.DOTALL)
    return re.sub(r"`[^`\n]*`", "", text)


def anchors(page):
    """The anchors of the headings of a page, as code hosts make them."""
    text = FENCE.sub("", page.read_text())
    titles = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {
        re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles
    }


def project():
    """What pyproject.toml says of the package."""
    return tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
