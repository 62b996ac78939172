"""Horovod's processes as replicas: the files of this name alone touch Horovod.

Horovod matches what its processes send by name, so each collective here has a name that
depends on what it is for, and not on what else a process built or traced:
https://github.com/horovod/horovod/blob/v0.28.1/horovod/tensorflow/mpi_ops.py
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass, field
from typing import Any

import keras
import tensorflow as tf

from distloss._errors import (
    ArgumentError,
    ArgumentTypeError,
    ContextError,
)
from distloss._keras.versions import in_symbolic_scope
from distloss._types import GRADIENT_OPS, Gradient, GradientOp
from distloss.replicas import horovod_elastic
from distloss.replicas.alone import is_alone
from distloss.replicas.base import Replicas
from distloss.replicas.buckets import BUCKET_BYTES, checked_bucket_bytes
from distloss.replicas.compression import checked_compression
from distloss.replicas.horovod_calls import (
    SENT,
    all_gather,
    all_reduce,
    broadcast,
    horovod,
    process_set_of,
    reduce_together,
    run_named,
)
from distloss.replicas.strategy import StrategyReplicas

_COMPRESSIONS = ("none", "fp16")


@keras.saving.register_keras_serializable("distloss")
@dataclass(frozen=True)
class HorovodReplicas(Replicas):
    """The processes of Horovod, one replica each.

    Sums are Horovod all-reduces. The number of processes is read when a step runs,
    never kept in a graph: with `gradient_op="sum"` it appears nowhere at all, so that
    a step traced by two processes is right when three run it. Each collective has a
    name of its own, and processes that built other models before, or traced again,
    still match.

    Variables that each process keeps for itself, such as its part of an embedding, have
    no counterpart of Horovod's `register_local_source` and `local_layers`. In a loop,
    give a `DistributedOptimizer` the gradients of the others, and theirs to a plain
    optimizer, undivided: a share is divided by the whole batch already. In `fit` use
    `hvd.DistributedGradientTape(op=hvd.Sum, scale_local_gradients=False)` in a
    `train_step`. `BroadcastState` and `DriftGuard` take all variables for shared.

    Call `hvd.init()` first. A process outside the process set is left alone: its sums
    are its own values.

    Args:
      process_set: the processes that share the batch: an `hvd.ProcessSet` that Horovod
        knows, or its ranks; None for all.
      gradient_op: what will reduce the gradients. `"sum"`: a `DistributedOptimizer`, or
        `hvd.DistributedGradientTape(op=hvd.Sum)`. `"average"`: Horovod's default; each
        share is then made N times larger, so that the average of N is their sum.
      compression: `"fp16"` sends gradients as float16; `"none"` as they are. Also
        `hvd.Compression.fp16` and `.none`. Losses and weights are always sent whole.
      bucket_bytes: gradients of as many bytes are sent by themselves, as soon as the
        backward pass has made them; smaller ones together, when they have as many. 1
        sends each by itself, 2**40 all together after the backward pass. It must be
        the same on all processes.

    Raises:
      ArgumentError: an unknown `gradient_op` (`hvd.Adasum` among them: its result
        depends on how rows are split) or `compression`, or `bucket_bytes` below 1.
      ArgumentTypeError: `process_set` or `bucket_bytes` of a wrong type.
      HorovodMissingError: when used: Horovod is not installed.
      ContextError: when used: `hvd.init()` was not called, or Horovod does not know
        the process set.

    Example:
      >>> from distloss import HorovodReplicas
      >>> HorovodReplicas(process_set=[0, 1]).process_set
      (0, 1)

    Reference: examples/guides/horovod.md.
    """

    process_set: Any = None
    gradient_op: GradientOp = "sum"
    _: KW_ONLY
    compression: Any = "none"
    bucket_bytes: int = field(default=BUCKET_BYTES, compare=False)

    keras_sums_metrics = False

    def __post_init__(self) -> None:
        ranks = _checked_process_set(self.process_set)
        object.__setattr__(self, "process_set", ranks)
        object.__setattr__(self, "gradient_op", _checked_gradient_op(self.gradient_op))
        object.__setattr__(self, "compression", _checked_compression(self.compression))
        checked_bucket_bytes(self.bucket_bytes)

    def count(self) -> int:
        """The processes of the set, now; one outside the set."""
        return int(self._found_set().size()) if self._is_included() else 1

    def count_as(self, dtype: tf.DType) -> tf.Tensor:
        """The processes of the set when it is run."""
        if not self._is_included():
            return tf.ones((), dtype)
        set_id = self._found_set().process_set_id
        return tf.cast(horovod().size_op(process_set_id=set_id), dtype)

    def sum(self, local: tf.Tensor, name: str = "sum") -> tf.Tensor:
        """The sum over processes, by one all-reduce."""
        return self._reduced(local, name, "Sum")

    def maximum(self, local: tf.Tensor, name: str = "maximum") -> tf.Tensor:
        """The largest `local` of all processes, element by element."""
        return self._reduced(local, name, "Max")

    def _reduced(self, local: tf.Tensor, name: str, op: str) -> tf.Tensor:
        if in_symbolic_scope() or not self._is_included():  # as in StrategyReplicas
            return local
        return run_named(
            all_reduce, name, [local], set_id=self._set_id(), op=op, compression="none"
        )[0]

    def loss_to_report(self, value: tf.Tensor) -> tf.Tensor:
        """`value` itself: Keras sees one replica, and multiplies by nothing."""
        return value

    def loss_to_differentiate(self, share: tf.Tensor) -> tf.Tensor:
        """`share`, or N times it where gradients will be averaged."""
        if self.gradient_op == "sum":
            return share
        return share * self.count_as(share.dtype)

    @property
    def sums_are_exact(self) -> bool:
        """Not with compression, nor where they are averaged."""
        return bool(self.compression == "none" and self.gradient_op == "sum")

    def sum_gradients(
        self, local: Sequence[Gradient], name: str = "gradients"
    ) -> list[Gradient]:
        """The sums (with `gradient_op="average"`, averages) over processes.

        Dense gradients are sent while the backward pass goes on, in buckets of one
        dtype; sparse ones are gathered.

        Raises:
          ContextError: of some in bfloat16.
        """
        sums = list(local)
        if not self._is_included():
            return sums
        self._refuse_bfloat16(local)
        is_sparse = [isinstance(gradient, tf.IndexedSlices) for gradient in local]
        for dtype in dict.fromkeys(g.dtype for g in local):
            same = [i for i, gradient in enumerate(local) if gradient.dtype == dtype]
            dense = [i for i in same if not is_sparse[i]]
            for i, gradient in zip(dense, self._dense(local, dense, name), strict=True):
                sums[i] = gradient
            for i in (i for i in same if is_sparse[i]):
                sums[i] = self._gathered(local[i], f"{name}_{i}")
        return sums

    def _refuse_bfloat16(self, local: Sequence[Gradient]) -> None:
        # https://github.com/horovod/horovod/blob/v0.28.1/horovod/tensorflow/mpi_ops.cc
        for gradient in local:
            is_sparse = isinstance(gradient, tf.IndexedSlices)
            sent = gradient.dtype if is_sparse else self.sent_as(gradient.dtype)
            if sent == tf.bfloat16:
                raise ContextError(
                    "Expected gradients that Horovod can sum. Got "
                    f"{'sparse' if is_sparse else 'dense'} ones in bfloat16, which "
                    "Horovod 0.28 does not send. Keep weights in float32: dtype policy "
                    "'mixed_bfloat16' computes in bfloat16 all the same."
                )

    def _dense(self, local: Sequence[Gradient], at: list[int], name: str) -> Any:
        op = "Sum" if self.gradient_op == "sum" else "Average"
        settings = {"op": op, "compression": self.compression, "set_id": self._set_id()}
        dense = [local[i] for i in at]
        return reduce_together(dense, name, self.bucket_bytes, **settings)

    def _gathered(self, local: tf.IndexedSlices, name: str) -> tf.IndexedSlices:
        parts = [local.values, local.indices]
        values, indices = run_named(all_gather, name, parts, set_id=self._set_id())
        if self.gradient_op == "average":
            values = values / self.count_as(values.dtype)
        return tf.IndexedSlices(values, indices, local.dense_shape)

    def index(self) -> tf.Tensor:
        """The place of this process in the set when it is run."""
        if not self._is_included():
            return tf.zeros((), tf.int32)
        if self.process_set is None:  # whose ranks may change
            return tf.cast(horovod().rank_op(), tf.int32)
        return tf.constant(self.process_set.index(self.rank()), tf.int32)

    def described(self, index: int) -> str:
        """By its rank among all of Horovod's processes."""
        rank = index if self.process_set is None else self.process_set[index]
        return f"process {rank}"

    def sent_as(self, dtype: tf.DType) -> tf.DType:
        """float16, where gradients are compressed to it."""
        return tf.float16 if self.compression == "fp16" else dtype

    def as_sum(self, received: tf.Tensor) -> tf.Tensor:
        """`received`, or N times it where it is an average."""
        if self.gradient_op == "sum":
            return received
        return received * self.count_as(received.dtype)

    def gathered(self, local: tf.Tensor, name: str = "gathered") -> tf.Tensor:
        """The rows of all processes one after the other, along axis 0."""
        if not self._is_included():
            return local
        return run_named(all_gather, name, [local], set_id=self._set_id())[0]

    def broadcast(
        self, variables: Sequence[Any], *, root_rank: int = 0, name: str = "broadcast"
    ) -> None:
        """Assigns to each variable its value on process `root_rank`."""
        if not self._is_included():
            return
        values = [tf.convert_to_tensor(variable) for variable in variables]
        # Horovod has no broadcast of some dtypes, such as bfloat16 and uint32
        sent = [v if v.dtype in SENT else tf.cast(v, tf.float64) for v in values]
        settings = {"set_id": self._set_id(), "root_rank": root_rank}
        received = run_named(broadcast, name, sent, **settings)
        for variable, value in zip(variables, received, strict=True):
            variable.assign(tf.cast(value, variable.dtype))

    def elastic_state(self, variables: Sequence[Any], values: dict[str, Any]) -> Any:
        """A `horovod.common.elastic.State` of `variables` and `values`."""
        return horovod_elastic.state_of(self, variables, values)

    def first_rank(self) -> int:
        """The lowest rank of the process set."""
        return int(min(self._found_set().ranks or [0]))

    def rank(self) -> int:
        """The rank of this process among all of Horovod's."""
        return int(horovod().rank())

    def _found_set(self) -> Any:
        hvd = horovod()
        in_process = StrategyReplicas().count()
        if in_process > 1:
            raise ContextError(
                "Expected each Horovod process to be one replica. Got a tf.distribute "
                f"strategy of {in_process} replicas in this process. Start a process "
                "per device with horovodrun, and use no strategy."
            )
        if self.process_set is None:
            return hvd.global_process_set
        return process_set_of(self.process_set)

    def _set_id(self) -> int:
        return int(self._found_set().process_set_id)

    def _is_included(self) -> bool:
        # Not by the set's own `included()`: of Horovod's set of all processes, that may
        # know only the ranks from before processes came or went.
        if is_alone():
            return False
        found = self._found_set()
        return self.process_set is None or horovod().rank() in found.ranks

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments, for Keras to save."""
        ranks = self.process_set
        return {
            "process_set": None if ranks is None else list(ranks),
            "gradient_op": self.gradient_op,
            "compression": self.compression,
            "bucket_bytes": self.bucket_bytes,
        }


def _checked_process_set(process_set: Any) -> tuple[int, ...] | None:
    ranks = getattr(process_set, "ranks", process_set)
    if process_set is None or ranks is None:
        return None
    is_sequence = isinstance(ranks, Sequence) and not isinstance(ranks, str)
    if not is_sequence or not all(isinstance(rank, int) for rank in ranks):
        raise ArgumentTypeError(
            "Expected process_set= to be an hvd.ProcessSet, its ranks, or None for all "
            f"processes. Got process_set={process_set!r} of type "
            f"{type(process_set).__name__}."
        )
    if getattr(process_set, "process_set_id", None) == 0:
        return None
    return tuple(sorted(ranks))


def _checked_gradient_op(op: Any) -> GradientOp:
    if op in GRADIENT_OPS:
        return op
    adasum = (
        " Adasum is refused: it weighs gradients by their angles, so that its result "
        "depends on how rows are split, and no scale makes it that of one device."
    )
    raise ArgumentError(
        f"Expected gradient_op= to be one of {', '.join(map(repr, GRADIENT_OPS))}. Got "
        f"gradient_op={op!r}.{adasum if _is_adasum(op) else ''} Use 'sum' with "
        "distloss.DistributedOptimizer or op=hvd.Sum, 'average' with Horovod's default."
    )


def _is_adasum(op: Any) -> bool:
    if isinstance(op, str):
        return op.lower() == "adasum"
    return isinstance(op, int) and op == 2  # hvd.Adasum


def _checked_compression(compression: Any) -> str:
    name = getattr(compression, "__name__", compression)
    name = {"NoneCompressor": "none", "FP16Compressor": "fp16"}.get(str(name), name)
    if name == "bf16":
        raise ArgumentError(
            "Expected compression= to be 'none' or 'fp16', since Horovod 0.28 adds up "
            "no bfloat16. Got compression='bf16'. Take 'fp16', which overflows at "
            "65,504, with a LossScaleOptimizer; or MultiWorkerMirroredStrategy with "
            "distloss.StrategyReplicas(compression='bf16')."
        )
    return checked_compression(
        name, _COMPRESSIONS, ", or hvd.Compression's of these names"
    )
