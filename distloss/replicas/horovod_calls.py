"""What Horovod is asked for: its module, and its collectives by name."""

from __future__ import annotations

import collections
import functools
import itertools
import os
import re
import sys
import weakref
from collections.abc import Callable
from typing import Any

import tensorflow as tf

from distloss._errors import (
    ContextError,
    HorovodMissingError,
)
from distloss._keras.private_names.of_others import (
    ALLREDUCE_GRADS,
    BASICS,
    PROCESS_SET,
    PROCESS_SETS,
)
from distloss.replicas.backward_order import one_after_the_other
from distloss.replicas.buckets import buckets, packed, unpacked


def horovod() -> Any:
    """`horovod.tensorflow`, initialized.

    Raises:
      HorovodMissingError: it is not installed.
      ContextError: `hvd.init()` was not called.
    """
    try:
        import horovod.tensorflow as hvd
    except ImportError as error:
        raise HorovodMissingError(
            "Expected Horovod, since replicas=distloss.HorovodReplicas(). Got "
            f"{error!r}. Build it with scripts/install_horovod of distloss, or train "
            "without it: replicas=None."
        ) from error
    if not hvd.is_initialized():
        raise ContextError(
            "Expected Horovod to be initialized, since "
            "replicas=distloss.HorovodReplicas(). Got hvd.is_initialized()=False. Call "
            "hvd.init() of horovod.tensorflow at the start of the program."
        )
    return hvd


def processes() -> int:
    """How many there are; 1 where Horovod is not in use. Loads nothing."""
    hvd = sys.modules.get("horovod.tensorflow")
    return int(hvd.size()) if hvd is not None and hvd.is_initialized() else 1


def start_with_pairs() -> None:
    """Starts Horovod, so that it knows each pair of processes.

    Raises:
      HorovodMissingError: it is not installed.
    """
    try:
        import horovod.tensorflow as hvd
    except ImportError as error:
        raise HorovodMissingError(
            f"Expected Horovod, to sum over its processes. Got {error!r}. Build it by "
            "scripts/install_horovod of distloss."
        ) from error
    size = next((int(os.environ[x]) for x in _SIZES if x in os.environ), 1)
    pairs = list(itertools.combinations(range(size), 2))
    # Of two processes, the pair is all of them; of more, a later start may hang.
    hvd.init(process_sets=[hvd.ProcessSet(list(pair)) for pair in pairs if size > 2])


# Where those that start processes say how many there are, before Horovod knows.
_SIZES = ("HOROVOD_SIZE", "OMPI_COMM_WORLD_SIZE", "PMI_SIZE")


def has_wrapped(optimizer: Any) -> bool:
    """Whether an optimizer, or the one inside it, is an `hvd.DistributedOptimizer`."""
    inner = getattr(optimizer, "inner_optimizer", optimizer)
    is_made_by_horovod = type(inner).__module__.startswith("horovod.")
    return is_made_by_horovod or hasattr(inner, ALLREDUCE_GRADS.name)


def process_set_of(ranks: tuple[int, ...]) -> Any:
    """The process set of these ranks, which Horovod must know."""
    horovod()  # raises where it is not there
    known = PROCESS_SETS.of(BASICS.found())()
    for set_id, set_ranks in known.items():
        if tuple(set_ranks) == ranks:
            found = PROCESS_SET.found()(set_id)
            found.ranks = set_ranks
            return found
    raise ContextError(
        f"Expected a process set that Horovod knows. Got ranks {list(ranks)}; it knows "
        f"{list(known.values())}. Pass the set to hvd.init(process_sets=[...])."
    )


def join() -> None:
    """Waits for all processes to call this, while sums of theirs get zeros from here.

    So a process that has left its program brings here those that wait for its part.
    """
    # The operation has no inputs and does not say that it is stateful, so TensorFlow
    # keeps what came of it the first time, for eager calls and in graphs: a new one.
    # https://github.com/horovod/horovod/blob/v0.28.1/horovod/tensorflow/mpi_ops.cc#L1651
    tf.function(horovod().join, autograph=False)()


# The collectives: (tensors, name, **settings) -> tensors. They read `horovod` when
# called, so that a process without it can import this file.


def _among(set_id: int) -> dict[str, Any]:
    """Arguments of each collective: its processes, and that its name is complete."""
    horovod()  # raises where it is not there
    process_set = PROCESS_SET.found()(set_id)
    return {"process_set": process_set, "ignore_name_scope": True}


# Horovod tells apart what is sent alone by its name, and so processes may send in any
# order; groups it counts as they come. So there are none, and what travels together is
# one tensor:
# https://github.com/horovod/horovod/blob/v0.28.1/horovod/common/group_table.cc


def all_reduce(
    tensors: list[tf.Tensor], name: str, *, set_id: int, op: str, compression: str
) -> list[tf.Tensor]:
    """The sums over the processes, each sent as soon as it is known here."""
    hvd = horovod()
    settings = {
        "op": getattr(hvd, op),
        "compression": getattr(hvd.Compression, compression),
        **_among(set_id),
    }
    sums = [
        hvd.allreduce(_not_constant(tensor), name=f"{name}_{i}", **settings)
        for i, tensor in enumerate(tensors)
    ]
    return [_received(t, sent.shape) for t, sent in zip(sums, tensors, strict=True)]


def all_gather(tensors: list[tf.Tensor], name: str, *, set_id: int) -> list[tf.Tensor]:
    """The rows of all processes, one after the other."""
    rows = [
        horovod().allgather(_not_constant(tensor), f"{name}_{i}", **_among(set_id))
        for i, tensor in enumerate(tensors)
    ]
    open_rows = tf.TensorShape([None])
    return [
        _received(t, open_rows.concatenate(sent.shape[1:]))
        for t, sent in zip(rows, tensors, strict=True)
    ]


def broadcast(
    tensors: list[tf.Tensor], name: str, *, set_id: int, root_rank: int
) -> list[tf.Tensor]:
    """What one process has, on all."""
    return [
        horovod().broadcast(tensor, root_rank, f"{name}_{i}", **_among(set_id))
        for i, tensor in enumerate(tensors)
    ]


SENT = (tf.float16, tf.float32, tf.float64, tf.int32, tf.int64, tf.bool, tf.uint8)


@tf.autograph.experimental.do_not_convert
def run_named(
    collective: Callable[..., list[tf.Tensor]],
    name: str,
    tensors: list[tf.Tensor],
    **settings: Any,
) -> list[tf.Tensor]:
    """`collective` of `tensors`, under a name that is the same on all processes."""
    # hvd.elastic looks for this word in errors to know that a process has gone.
    name = re.sub(r"[^A-Za-z0-9_]", "_", f"distloss_HorovodAllreduce_{name}")
    name = f"{name}_{settings['set_id']}"
    if tf.executing_eagerly():
        # Eager operations have no name, and Horovod would match them by order.
        key = tuple(sorted(settings.items()))
        return _function_of(collective, f"{name}_eager", key)(tensors)
    results = collective(tensors, f"{name}_{_uses_in_graph(name)}", **settings)
    _read(results)
    return results


def _read(results: list[tf.Tensor]) -> None:
    """Reads a part of each result by an operation that is kept, for it is stateful.

    A process that is known to have no rows multiplies by 0, and TensorFlow takes out
    what comes to nothing: its graph would leave out a collective.
    """
    parts = [tf.reshape(result, [-1])[:1] for result in results]
    tf.raw_ops.Assert(condition=horovod().size_op() > 0, data=parts)


def reduce_together(
    tensors: list[tf.Tensor], name: str, bucket_bytes: int, **settings: Any
) -> list[tf.Tensor]:
    """`all_reduce` of tensors of one dtype in buckets, each sent when it is full.

    Under a name that tells which tensors they are.
    """
    if not tensors:
        return []
    elements = [tensor.shape.num_elements() for tensor in tensors]
    size = "" if None in elements else f"_{sum(elements)}"
    name = f"{name}_{tensors[0].dtype.name}_{len(tensors)}{size}"
    together, sums = buckets(tensors, bucket_bytes), list(tensors)
    local = [packed([tensors[i] for i in at]) for at in together]
    one_after_the_other(local)
    received = run_named(all_reduce, name, local, **settings)
    for at, total in zip(together, received, strict=True):
        parts = unpacked(total, [tensors[i] for i in at])
        for i, part in zip(at, parts, strict=True):
            sums[i] = part
    return sums


def _not_constant(tensor: tf.Tensor) -> tf.Tensor:
    """`[*tensor.shape, 1]`, computed when the graph runs; it copies nothing.

    TensorFlow runs operations of constants while it improves a graph, and keeps what
    came out: Horovod's collectives among them, which do not say that they are stateful.
    So the axis hangs on an operation that says it. A reshape would be taken out. It is
    the first of its graph: TensorFlow runs those in turn, and a later one would wait
    for what was received before, and gradients with it, until the backward pass ends.
    https://github.com/horovod/horovod/blob/v0.28.1/horovod/tensorflow/mpi_ops.cc#L671
    """
    graph = tf.compat.v1.get_default_graph()
    if graph not in _first_in_graph:
        _first_in_graph[graph] = horovod().size_op().op.name
    size = graph.get_operation_by_name(_first_in_graph[graph]).outputs[0]
    return tf.expand_dims(tensor, tf.minimum(size, 0) - 1)


_first_in_graph: Any = weakref.WeakKeyDictionary()  # its name


def _received(tensor: tf.Tensor, shape: tf.TensorShape) -> tf.Tensor:
    """What came back for a tensor of `_not_constant`, in the shape that it had."""
    received = tf.squeeze(tensor, [-1])
    received.set_shape(shape)
    return received


@functools.cache
def _function_of(
    collective: Callable[..., list[tf.Tensor]], name: str, settings: Any
) -> Callable[[list[tf.Tensor]], list[tf.Tensor]]:
    return tf.function(
        lambda tensors: collective(tensors, name, **dict(settings)),
        autograph=False,
        reduce_retracing=True,
    )


_uses: Any = weakref.WeakKeyDictionary()


def _uses_in_graph(name: str) -> int:
    """How often `name` was used in the function being traced, before this time.

    Two losses of a kind in one step then differ, and a function that is traced again
    gets the names that it had.
    """
    graph = tf.compat.v1.get_default_graph()
    while (outer := getattr(graph, "outer_graph", None)) is not None:
        if not outer.building_function:
            break
        graph = outer
    uses = _uses.setdefault(graph, collections.Counter())
    uses[name] += 1
    return int(uses[name]) - 1
