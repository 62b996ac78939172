"""Parents of nodes are those of LibCST's own, slower provider."""

import pathlib

import libcst as cst
from libcst.metadata import MetadataWrapper, ParentNodeProvider
from no_keras import clean_keras  # noqa: F401

from distloss._lint.source import parsed


def test_parents_are_those_of_libcst():
    path = pathlib.Path(__file__).parent / "programs" / "sizes.py"
    source = parsed(path, path.read_text())
    wrapper = MetadataWrapper(source.tree, unsafe_skip_copy=True)
    parents = wrapper.resolve(ParentNodeProvider)
    code = (cst.BaseExpression, cst.BaseStatement, cst.BaseSmallStatement, cst.Arg)
    nodes = [node for node in parents if isinstance(node, code)]
    assert len(nodes) > 300
    assert all(source.parent(node) is parents[node] for node in nodes)
