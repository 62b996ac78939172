"""Edits of a file: expressions replaced, statements added, an import once."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import libcst as cst

from distloss._lint.source import Source
from distloss._lint.values import Place

PACKAGE = "distloss"


@dataclass(frozen=True)
class Edit:
    """One change.

    Attributes:
      place: the expression that is replaced, or the statement after which one is added.
      code: what is put there.
      adds: whether it is a statement that is added.
    """

    place: Place
    code: str
    adds: bool = False


@dataclass(frozen=True)
class Mend:
    """What mends a finding.

    Attributes:
      edits: that belong together.
      certain: whether they do what is meant in any case; if not, only an audit tells.
    """

    edits: tuple[Edit, ...]
    certain: bool = True

    def is_in(self, source: Source) -> bool:
        """Whether all of it is in one file."""
        return all(edit.place.source is source for edit in self.edits)


def edited(source: Source, mends: Iterable[Mend]) -> str:
    """The text of a file after as many mends as do not get in each other's way."""
    replaced: dict[cst.CSTNode, str] = {}
    added: dict[cst.CSTNode, list[str]] = {}
    for mend in mends:
        if not any(_collides(source, edit, replaced, added) for edit in mend.edits):
            for edit in mend.edits:
                _take(edit, replaced, added)
    if not replaced and not added:
        return source.text
    tree = source.tree.visit(_Editor(replaced, added))
    text = tree.code if isinstance(tree, cst.Module) else source.text
    return _with_import(text) if f"{PACKAGE}." in text else text


def _take(
    edit: Edit,
    replaced: dict[cst.CSTNode, str],
    added: dict[cst.CSTNode, list[str]],
) -> None:
    if not edit.adds:
        replaced[edit.place.node] = edit.code
    elif edit.code not in added.setdefault(edit.place.node, []):
        added[edit.place.node].append(edit.code)


def _collides(
    source: Source,
    edit: Edit,
    replaced: dict[cst.CSTNode, str],
    added: dict[cst.CSTNode, list[str]],
) -> bool:
    """Whether an edit is in, or around, what another one replaces with other code."""
    node = edit.place.node
    if edit.adds:
        return False
    if node in replaced:
        return replaced[node] != edit.code
    around: cst.CSTNode | None = node
    while around is not None:
        around = source.parent(around)
        if around in replaced:
            return True
    return any(_is_inside(source, other, node) for other in replaced)


def _is_inside(source: Source, node: cst.CSTNode, outer: cst.CSTNode) -> bool:
    around: cst.CSTNode | None = node
    while around is not None and around is not outer:
        around = source.parent(around)
    return around is outer


class _Editor(cst.CSTTransformer):
    """Replaces nodes, which are told apart by what they are and not what they say."""

    def __init__(
        self, replaced: dict[cst.CSTNode, str], added: dict[cst.CSTNode, list[str]]
    ) -> None:
        super().__init__()
        self.replaced, self.added = replaced, added

    def on_leave(self, original_node: Any, updated_node: Any) -> Any:
        """The node, or what is put there."""
        if original_node in self.replaced:
            return cst.parse_expression(self.replaced[original_node])
        left = super().on_leave(original_node, updated_node)
        if original_node in self.added:
            lines = [cst.parse_statement(code) for code in self.added[original_node]]
            return cst.FlattenSentinel([left, *lines])
        return left


def _with_import(text: str) -> str:
    """The text with `import distloss`, if that is not in it already."""
    # imported here, since it takes longer than most files to lint
    from libcst.codemod import CodemodContext
    from libcst.codemod.visitors import AddImportsVisitor

    context = CodemodContext()
    AddImportsVisitor.add_needed_import(context, PACKAGE)
    return AddImportsVisitor(context).transform_module(cst.parse_module(text)).code
