"""What a traced step does with variables, read off its graph: read, or written."""

from __future__ import annotations

import collections
import concurrent.futures
import contextlib
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


def stopped(graph: Any, handles: Sequence[Any], losses: Sequence[Any]) -> list[bool]:
    """Whether a gradient is stopped on the way from each variable to the losses.

    By `tf.stop_gradient` or a gradient of the user's own, as people do who mean it. A
    scalar that is stopped is a loss that is shown, or a factor, and freezes nothing.
    Nor does what ends no gradient: a layer that normalises stops that of its mean in
    one of two places, and activations have gradients of their own that go on.

    Args:
      graph: of the step; operations are added to it.
      handles: of the variables.
      losses: of what gradients are taken; those of other graphs are not looked at.
    """
    definition = graph.as_graph_def(add_shapes=True)
    library = {f.signature.name: f for f in definition.library.function}
    stopping = {name for name, f in library.items() if _stops(f.node_def)}
    nodes = {node.name: node for node in definition.node}
    own = [loss for loss in losses if loss.graph is graph]
    before = _reached([loss.op.name for loss in own], lambda name: _inputs(nodes[name]))
    stops = {
        name
        for name in before
        if _stops([nodes[name]]) or not stopping.isdisjoint(_functions(nodes[name]))
    }
    captured, consumers = _captured(graph), _consumers(nodes.values())
    ends_in = _ends(graph, own, stops)
    found = []
    for handle in handles:
        start = [name for name, ids in captured.items() if id(handle) in ids]
        after = _reached(start, consumers)
        found.append(any(ends_in(name, after) for name in stops & after))
    return found


def _ends(
    graph: Any, losses: Sequence[Any], names: Iterable[str]
) -> Callable[[str, set[str]], bool]:
    """Whether a gradient reaches an operation, and none of `after` that goes into it.

    If nobody can tell, since the gradient cannot be taken once more, it does.
    """
    operations = {name: graph.get_operation_by_name(name) for name in names}
    every = [t for one in operations.values() for t in (*one.outputs, *one.inputs)]
    tensors = [t for t in every if t.dtype.is_floating or t.dtype == tf.resource]

    def gradients() -> Sequence[Any]:
        with graph.as_default(), _sums_left_out():
            return tf.gradients(losses, tensors) if tensors else ()

    try:
        # In another thread: what is kept for this one is of the step.
        with concurrent.futures.ThreadPoolExecutor(1) as pool:
            given = pool.submit(gradients).result()
    except Exception:  # of a gradient of the user's own, for example
        return lambda _name, _after: True
    pairs = zip(tensors, given, strict=True)
    reached = {tensor.name for tensor, gradient in pairs if gradient is not None}

    def ends_in(name: str, after: set[str]) -> bool:
        one = operations[name]
        into = [t for t in one.inputs if t.op.name in after and t.name in reached]
        return not into and any(t.name in reached for t in one.outputs)

    return ends_in


@contextlib.contextmanager
def _sums_left_out() -> Iterator[None]:
    """Gradients of sums over replicas are not summed: they ask for the replica's place.

    That was left with the trace.
    """
    context = tf.distribute.ReplicaContext
    original = context.merge_call
    context.merge_call = lambda _self, _merge, args=(), kwargs=None: list(args)
    try:
        yield
    finally:
        context.merge_call = original


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
