"""What a traced step does with variables, read off its graph: read, or written."""

from __future__ import annotations

import collections
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import tensorflow as tf

# What takes the handle of a variable or a table and leaves the value as it is.
_READS = {
    "LookupTableFindV2",
    "LookupTableSizeV2",
    "ReadVariableOp",
    "ResourceGather",
    "ResourceGatherNd",
    "VarIsInitializedOp",
    "VariableShape",
}
_PASSES_ON = {"Identity"}
# Functions, whose arguments are the inputs of the operation, from this one on.
_CALLS = {
    "Case": 1,
    "If": 1,
    "PartitionedCall": 0,
    "StatefulPartitionedCall": 0,
    "StatelessCase": 1,
    "StatelessIf": 1,
    "StatelessWhile": 0,
    "While": 0,
}
# Python runs in these, which may do anything to variables that no graph shows.
_OPAQUE = {"EagerPyFunc", "PyFunc", "PyFuncStateless"}
_STOPS = {"PreventGradient", "StopGradient"}
_OF_CUSTOM_GRADIENTS = "_gradient_op_type"

Labels = Mapping[str, set[int]]  # the handles that an output of a node may be


@dataclass(frozen=True)
class Uses:
    """What the operations of a graph do with what it captures.

    Attributes:
      read: ids of the handles whose values are read.
      written: ids of the handles that may be given another value.
      is_opaque: whether it calls Python, which may write anything.
    """

    read: frozenset[int]
    written: frozenset[int]
    is_opaque: bool


def uses(graph: Any) -> Uses:
    """Of all that `graph`, of a `tf.function`, captures."""
    definition = graph.as_graph_def()
    library = {f.signature.name: f for f in definition.library.function}
    found = _Walk(library)
    found.walk(definition.node, _captured(graph))
    nodes = (*definition.node, *(n for f in library.values() for n in f.node_def))
    is_opaque = any(node.op in _OPAQUE for node in nodes)
    return Uses(frozenset(found.read), frozenset(found.written), is_opaque)


def is_stopped(graph: Any, handle: Any, losses: Sequence[Any]) -> bool:
    """Whether a gradient is stopped on the way from a variable to the losses.

    By `tf.stop_gradient` or a gradient of the user's own, as people do who mean it. A
    scalar that is stopped is a loss that is shown, or a factor, and freezes nothing.

    Args:
      graph: of the step.
      handle: of the variable.
      losses: of what gradients are taken; those of other graphs are not looked at.
    """
    definition = graph.as_graph_def(add_shapes=True)
    library = {f.signature.name: f for f in definition.library.function}
    stopping = {name for name, f in library.items() if _stops(f.node_def)}
    nodes = {node.name: node for node in definition.node}
    own = [loss.op.name for loss in losses if loss.graph is graph]
    start = [name for name, ids in _captured(graph).items() if id(handle) in ids]
    on_the_way = _reached(start, _consumers(nodes.values()))
    on_the_way &= _reached(own, lambda name: _inputs(nodes[name]))
    return any(
        _stops([nodes[name]]) or not stopping.isdisjoint(_functions(nodes[name]))
        for name in on_the_way
    )


def _consumers(nodes: Iterable[Any]) -> Callable[[str], list[str]]:
    found = collections.defaultdict(list)
    for node in nodes:
        for name in _inputs(node):
            found[name].append(node.name)
    return lambda name: found[name]


def _reached(start: Iterable[str], following: Callable[[str], list[str]]) -> set[str]:
    """All that comes after `start`, and what is in there."""
    left = list(start)
    seen = set(left)
    while left:
        new = set(following(left.pop())) - seen
        seen |= new
        left += new
    return seen


def _captured(graph: Any) -> dict[str, set[int]]:
    return {inside.op.name: {id(outside)} for outside, inside in graph.captures}


def _stops(nodes: Iterable[Any]) -> bool:
    return any(
        (node.op in _STOPS and not _is_scalar(node))
        or (_OF_CUSTOM_GRADIENTS in node.attr and node.op not in _CALLS)
        for node in nodes
    )


def _is_scalar(node: Any) -> bool:
    shapes = node.attr["_output_shapes"].list.shape
    return bool(shapes) and tf.TensorShape(shapes[0]).rank == 0


def _inputs(node: Any) -> list[str]:
    """The names of the nodes whose outputs a node takes."""
    return [name.split(":")[0] for name in node.input if not name.startswith("^")]


def _functions(node: Any) -> Iterator[str]:
    for attribute in node.attr.values():
        if attribute.func.name:
            yield attribute.func.name
        yield from (function.name for function in attribute.list.func)


class _Walk:
    """Follows handles through a graph, and through the functions that it calls.

    What is not known to leave a variable alone may write it.
    """

    def __init__(self, library: Mapping[str, Any]) -> None:
        self._library = library
        self.read: set[int] = set()
        self.written: set[int] = set()
        self._known: set[tuple[str, tuple[frozenset[int], ...]]] = set()

    def walk(self, nodes: Sequence[Any], labels: Mapping[str, set[int]]) -> None:
        """Notes what `nodes` do with the handles that they get by these names."""
        passed = {name: set(ids) for name, ids in labels.items()}
        for node in _passed_on(nodes, passed):
            passed[node.name] = passed[_inputs(node)[0]]
        for node in nodes:
            taken = [passed.get(name, set()) for name in _inputs(node)]
            if any(taken) and node.op not in _PASSES_ON:
                self._note(node, taken)

    def _note(self, node: Any, taken: list[set[int]]) -> None:
        every = set().union(*taken)
        functions = [self._library.get(name) for name in _functions(node)]
        if node.op in _READS:
            self.read |= every
        elif node.op in _CALLS and all(map(_returns_no_handle(node), functions)):
            for function in functions:
                self._call(function, taken[_CALLS[node.op] :])
        else:
            self.written |= every

    def _call(self, function: Any, taken: list[set[int]]) -> None:
        key = function.signature.name, tuple(map(frozenset, taken))
        if key in self._known:
            return
        self._known.add(key)
        arguments = function.signature.input_arg
        names = [argument.name for argument in arguments]
        self.walk(function.node_def, dict(zip(names, taken, strict=True)))


def _passed_on(nodes: Sequence[Any], known: Mapping[str, Any]) -> Iterator[Any]:
    """Nodes that give out the handle that they take, each after the one before it."""
    left = [node for node in nodes if node.op in _PASSES_ON]
    ready = [node for node in left if _inputs(node)[0] in known]
    while ready:
        yield from ready
        left = [node for node in left if node not in ready]
        ready = [node for node in left if _inputs(node)[0] in known]


def _returns_no_handle(node: Any) -> Callable[[Any], bool]:
    """Whether a function keeps the handles that it gets; a loop hands its own on."""
    is_loop = node.op.endswith("While")

    def keeps(function: Any) -> bool:
        if function is None:
            return False
        outputs = function.signature.output_arg
        return is_loop or all(
            one.type != tf.resource.as_datatype_enum for one in outputs
        )

    return keeps
