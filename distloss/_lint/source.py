"""A file as a syntax tree, or a sentence that says why it is none."""

from __future__ import annotations

import ast
import dataclasses
import functools
import io
import pathlib
import re
import tokenize
import warnings
from dataclasses import dataclass, field
from typing import Any

import libcst as cst
from libcst.metadata import MetadataWrapper, PositionProvider

MAX_BYTES = 4_000_000
MAX_DEPTH = 600  # deeper than people write; Python itself gives up at about 1000
MAX_COLUMNS = 100_000  # LibCST's time is quadratic in the length of a line

# A program that says none of this is not distributed: there is nothing to find in it.
_MENTIONS = re.compile(
    r"\bdistribute\b|horovod|\bdistloss\b|num_replicas_in_sync"
    r"|strategy\.(run|scope|reduce|experimental)|Strategy\b"
)


class SourceError(Exception):
    """A file that cannot be linted.

    Attributes:
      line: where, or None.
    """

    def __init__(self, message: str, line: int | None = None) -> None:
        super().__init__(message)
        self.line = line


@dataclass(eq=False)
class Source:
    """A parsed file.

    Attributes:
      path: of the file, as it was given.
      text: what is in it.
      tree: its syntax.
    """

    path: pathlib.Path
    text: str
    tree: cst.Module
    _positions: Any = field(default=None, repr=False)
    _parents: dict[cst.CSTNode, cst.CSTNode] = field(default_factory=dict, repr=False)

    def code(self, node: cst.CSTNode) -> str:
        """A node as it is written."""
        return self.tree.code_for_node(node)

    def parent(self, node: cst.CSTNode) -> cst.CSTNode | None:
        """What a node stands in."""
        if not self._parents:
            self._parents.update(_parents(self.tree))
        return self._parents.get(node)

    def position(self, node: cst.CSTNode) -> tuple[int, int]:
        """Line and column of a node, both from 1."""
        if self._positions is None:  # most files have no finding, and need none
            wrapper = MetadataWrapper(self.tree, unsafe_skip_copy=True)
            self._positions = wrapper.resolve(PositionProvider)
        start = self._positions[node].start
        return start.line, start.column + 1


def _parents(tree: cst.Module) -> dict[cst.CSTNode, cst.CSTNode]:
    """What each node stands in. LibCST's own provider takes ten times as long."""
    found: dict[cst.CSTNode, cst.CSTNode] = {}
    nodes: list[cst.CSTNode] = [tree]
    while nodes:
        node = nodes.pop()
        for name in _fields(type(node)):
            value = getattr(node, name)
            children = value if isinstance(value, (list, tuple)) else (value,)
            inner = [child for child in children if isinstance(child, cst.CSTNode)]
            found.update(dict.fromkeys(inner, node))
            nodes += inner
    return found


@functools.cache
def _fields(kind: type[cst.CSTNode]) -> tuple[str, ...]:
    """Attributes that may hold code, not white space."""
    names = (field.name for field in dataclasses.fields(kind))
    return tuple(name for name in names if "whitespace" not in name)


def is_distributed(text: str) -> bool:
    """Whether a file says a word without which there is nothing to find."""
    return _MENTIONS.search(text) is not None


def decoded(data: bytes) -> str:
    """The text of a Python file, by its own declaration of encoding.

    Raises:
      SourceError: it is too large, or not in that encoding.
    """
    if len(data) > MAX_BYTES:
        raise SourceError(
            f"Expected at most {MAX_BYTES} bytes. Got {len(data)}; such a file is data."
        )
    try:
        encoding, _ = tokenize.detect_encoding(io.BytesIO(data).readline)
        return data.decode(encoding)
    except (SyntaxError, UnicodeDecodeError, LookupError) as error:
        raise SourceError(f"Its encoding cannot be read: {error}.") from error


def parsed(path: pathlib.Path, text: str) -> Source:
    """The syntax tree.

    Raises:
      SourceError: it does not parse, or not without danger.
    """
    _check_depth(check_syntax(text))
    try:
        return Source(path, text, cst.parse_module(text))
    except cst.ParserSyntaxError as error:
        message = error.message.strip().rstrip(".")
        raise SourceError(f"It does not parse: {message}.", error.raw_line) from error
    except (RecursionError, ValueError) as error:
        raise SourceError(f"LibCST cannot parse it: {error}.") from error


def check_syntax(text: str) -> ast.AST:
    """Refuses what does not parse, in milliseconds.

    Raises:
      SourceError: says why.
    """
    if any(len(line) > MAX_COLUMNS for line in text.splitlines()):
        raise SourceError(f"Expected lines of at most {MAX_COLUMNS} characters.")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of invalid escapes, which are not ours
            return ast.parse(text)
    except SyntaxError as error:
        raise SourceError(f"It does not parse: {error.msg}.", error.lineno) from error
    except (RecursionError, MemoryError, ValueError) as error:
        raise SourceError(
            f"It does not parse: {error or 'nested too deep'}."
        ) from error


def _check_depth(tree: ast.AST) -> None:
    """Refuses what would end LibCST, which is native code, without an exception."""
    level = [tree]
    for _ in range(MAX_DEPTH):
        level = [child for node in level for child in ast.iter_child_nodes(node)]
    if level:
        raise SourceError(f"Expected code nested at most {MAX_DEPTH} deep.")
