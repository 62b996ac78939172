"""Replicas of `tf.distribute`."""

from __future__ import annotations

import functools
import zlib
from collections.abc import Callable, Sequence
from dataclasses import KW_ONLY, dataclass, field
from typing import Any

import keras
import tensorflow as tf

from distloss._errors import ContextError
from distloss._keras import versions
from distloss._types import Compression, Gradient
from distloss.replicas.backward_order import vectors_in_order
from distloss.replicas.base import Replicas, without_result
from distloss.replicas.buckets import (
    BUCKET_BYTES,
    checked_bucket_bytes,
    of_one_dtype,
    unpacked,
)
from distloss.replicas.compression import (
    checked_compression,
    compressed,
    dtype_sent,
)
from distloss.replicas.meeting import meeting_others


@keras.saving.register_keras_serializable("distloss")
@dataclass(frozen=True)
class StrategyReplicas(Replicas):
    """The replicas in sync of the current `tf.distribute` strategy.

    The strategy is looked up at each call and not kept: outside any strategy
    there is one replica. Sums need replica context, that is the function given
    to `strategy.run`; with one replica they need nothing.

    Under `MultiWorkerMirroredStrategy` the replicas of all workers are counted.
    TensorFlow matches their sums by order: all workers must run the same program, and
    losses that one of them calls in another order are an error when the step runs.

    Workers of a `ParameterServerStrategy` are not in sync. Each makes updates of its
    own, each from one batch, so one replica is counted: a loss is divided by the
    weight of that batch and by nothing else, however many workers there are.

    Args:
      bucket_bytes: gradients of as many bytes are sent by themselves, as soon as the
        backward pass has made them; smaller ones together, when they have as many.
        None: 1 MB between workers, and all together in one process.
        `CommunicationOptions(bytes_per_pack=)` of the strategy cuts further.
      compression: `"fp16"` and `"bf16"` send dense gradients as float16 or bfloat16,
        and add them up in that; `"none"` as they are. Sparse gradients, losses and
        weights are always sent whole.

    Raises:
      ArgumentError: `bucket_bytes` is below 1, or an unknown `compression`.
      ArgumentTypeError: `bucket_bytes` is no int.

    Example:
      >>> from distloss import StrategyReplicas
      >>> StrategyReplicas().count()
      1
    """

    _: KW_ONLY
    bucket_bytes: int | None = field(default=None, compare=False)
    compression: Compression = "none"

    def __post_init__(self) -> None:
        checked_compression(self.compression)
        if self.bucket_bytes is not None:
            checked_bucket_bytes(self.bucket_bytes)

    def count(self) -> int:
        """`num_replicas_in_sync` of the current strategy."""
        return tf.distribute.get_strategy().num_replicas_in_sync

    def sum(self, local: tf.Tensor, name: str = "sum") -> tf.Tensor:
        """The sum over replicas, by one collective; none for one replica.

        Raises:
          ContextError: there are several replicas, and this is not replica
            context, or it is in a `tf.function` inside the replica function.
          tf.errors.InvalidArgumentError: when run: other workers sum something else.
        """
        if self.count() == 1:
            return local
        context = tf.distribute.get_replica_context()
        if context is None:
            return self._sum_while_keras_builds(local)
        # A function argument has no device, and the collective then has "no
        # destination"; the identity gives it one.
        with meeting_others():
            if has_several_workers(tf.distribute.get_strategy()):
                return self._sum_of_the_same(tf.identity(local), name, context)
            return context.all_reduce(tf.distribute.ReduceOp.SUM, tf.identity(local))

    def _sum_of_the_same(self, local: tf.Tensor, name: str, context: Any) -> tf.Tensor:
        # Workers are matched by the order of their collectives: what one worker sums
        # in another order would be added up crosswise. So the name goes along.
        code = tf.constant(zlib.crc32(name.encode()) % 4096, local.dtype)
        coded = tf.concat([tf.reshape(local, [-1]), [code]], 0)
        sums = context.all_reduce(tf.distribute.ReduceOp.SUM, coded)
        is_same = tf.debugging.assert_equal(
            sums[-1],
            code * self.count_as(code.dtype),
            f"Expected all workers to sum {name} now. Got other names from others, "
            "since they call losses in another order. Run the same program on all.",
        )
        with tf.control_dependencies([is_same]):
            return tf.reshape(sums[:-1], tf.shape(local))

    def _sum_while_keras_builds(self, local: tf.Tensor) -> tf.Tensor:
        # Keras builds a model's loss in cross-replica context from symbolic
        # tensors, for their shapes only (`_symbolic_build`): any value will do.
        if versions.in_symbolic_scope():
            return local
        raise self._not_in_replica_context()

    def _not_in_replica_context(self) -> ContextError:
        return ContextError(
            f"A sum over {self.count()} replicas must be called in replica context, "
            "inside the function given to strategy.run(...). It was called in "
            "cross-replica context, where each replica's part is out of reach. Move "
            "the call into the replica function, or, if this tensor is the whole "
            "batch, pass replicas=distloss.OneDevice()."
        )

    def loss_to_report(self, value: tf.Tensor) -> tf.Tensor:
        """`value / N`, since `strategy.reduce("SUM", ...)` and Keras give N times it.

        Loss trackers of Keras before 3.8 do not: they get `value`.
        """
        if versions.is_read_by_trackers_that_do_not_multiply():
            return value
        return value / self.count_as(value.dtype)

    def share_to_report(self, share: tf.Tensor) -> tf.Tensor:
        """`share`, which adds up to the value; N times it for such loss trackers."""
        if versions.is_read_by_trackers_that_do_not_multiply():
            return share * self.count_as(share.dtype)
        return share

    def sum_gradients(
        self, local: Sequence[Gradient], name: str = "gradients"
    ) -> list[Gradient]:
        """The sums over replicas, by one collective for each bucket.

        Raises:
          ContextError: there are several replicas, and this is not replica
            context.
        """
        sums = list(local)
        if self.count() == 1:
            return sums
        context = tf.distribute.get_replica_context()
        if context is None:
            raise self._not_in_replica_context()
        local = compressed(local, self.compression)
        size = self.bucket_bytes
        if size is None and not self.is_in_one_process:
            size = BUCKET_BYTES
        together = of_one_dtype(local, size)
        buckets = [[local[i] for i in at] for at in together]
        all_sent = self._sent(buckets)
        for at, bucket, sent in zip(together, buckets, all_sent, strict=True):
            with meeting_others():
                summed = context.all_reduce(tf.distribute.ReduceOp.SUM, sent)
            if len(sent) < len(bucket):
                summed = unpacked(summed[0], bucket)
            for i, gradient in zip(at, summed, strict=True):
                sums[i] = tf.cast(gradient, sums[i].dtype)
        return sums

    def _sent(self, buckets: list[list[Gradient]]) -> list[list[Gradient]]:
        """What each bucket sends: between workers one vector."""
        if self.is_in_one_process:
            return [[*map(tf.identity, bucket)] for bucket in buckets]  # as in `sum`
        return [[vector] for vector in vectors_in_order(buckets)]

    @property
    def sums_are_exact(self) -> bool:
        """Not with compression."""
        return self.compression == "none"

    def sent_as(self, dtype: tf.DType) -> tf.DType:
        """float16 or bfloat16, where gradients are compressed to that."""
        return dtype_sent(dtype, self.compression)

    def gathered(self, local: Sequence[tf.Tensor]) -> tf.Tensor:
        """What each replica has, one after the other along a new axis 0.

        Args:
          local: of each replica of this process, of one shape. Called outside of
            replicas, in the scope of the strategy, and by all workers together.
        """
        strategy = tf.distribute.get_strategy()
        if len(local) == strategy.num_replicas_in_sync:
            return tf.stack(local)
        parts = iter(local)
        placed = strategy.experimental_distribute_values_from_function(
            lambda _context: tf.identity(next(parts))[tf.newaxis]
        )
        return strategy.gather(placed, axis=0)

    def read_together(self, read: Callable[[], Any]) -> Any:
        """As the base class says; of one process, outside any replica."""
        context = tf.distribute.get_replica_context()
        in_one_process = isinstance(current_strategy(), tf.distribute.MirroredStrategy)
        if context is None or not in_one_process or self.count() == 1:
            return read()
        with meeting_others():
            return context.merge_call(lambda _strategy: read())

    def index(self) -> tf.Tensor:
        """As the base class says; of several it needs replica context."""
        if self.count() == 1:
            return super().index()
        context = tf.distribute.get_replica_context()
        if context is None:
            raise self._not_in_replica_context()
        return tf.cast(context.replica_id_in_sync_group, tf.int32)

    @property
    def is_in_one_process(self) -> bool:
        """As the base class says."""
        return not has_several_workers(tf.distribute.get_strategy())

    def described(self, index: int) -> str:
        """With its device, where that is in this process."""
        devices = () if self.count() == 1 else _devices()
        if not self.is_in_one_process or index >= len(devices):
            return super().described(index)
        short = devices[index].rpartition("/device:")[2]
        return f"{super().described(index)} ({short})"

    def together(
        self,
        function: Callable[[list[list[tf.Tensor]]], tf.Tensor],
        local: Sequence[tf.Tensor],
    ) -> tf.Tensor:
        """As the base class says; needs replica context.

        Raises:
          ContextError: not replica context.
        """
        if self.count() == 1 or len(_devices()) == 1:
            return super().together(function, local)
        context = tf.distribute.get_replica_context()
        if context is None:
            raise self._not_in_replica_context()

        def of_all(strategy: tf.distribute.Strategy, values: Any) -> tf.Tensor:
            columns = map(strategy.experimental_local_results, values)
            return function([list(row) for row in zip(*columns, strict=True)])

        with meeting_others():
            return context.merge_call(of_all, args=(list(local),))

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments, for Keras to save."""
        return {"bucket_bytes": self.bucket_bytes, "compression": self.compression}

    def call_if(
        self,
        condition: tf.Tensor,
        function: Callable[..., None],
        arguments: Sequence[Any] = (),
    ) -> None:
        """As the base class says; needs replica context.

        Raises:
          ContextError: not replica context, or under a ParameterServerStrategy.
        """
        if isinstance(current_strategy(), tf.distribute.ParameterServerStrategy):
            raise ContextError(
                "Expected replicas that take their steps together, to accumulate over "
                "several of them. Got a ParameterServerStrategy, whose workers would "
                "add to one window, each at its own time. Leave out accumulation_steps="
                ", or use another strategy."
            )
        needs_no_merge = tf.__internal__.distribute.strategy_supports_no_merge_call
        if needs_no_merge():  # also where there is no strategy
            super().call_if(condition, function, arguments)
            return
        # A collective may not sit in a tf.cond of a replica's own, but the replicas
        # may be called from a tf.cond that they share, as LossScaleOptimizer does:
        # https://github.com/keras-team/keras/blob/v3.12.0/keras/src/optimizers/loss_scale_optimizer.py

        def call_all(
            strategy: tf.distribute.Strategy, conditions: Any, *arguments: Any
        ) -> None:
            shared = strategy.experimental_local_results(conditions)[0]
            on_all = functools.partial(
                strategy.extended.call_for_each_replica, function, arguments
            )
            tf.cond(shared, without_result(on_all), tf.no_op)

        context = tf.distribute.get_replica_context()
        if context is None:
            raise self._not_in_replica_context()
        with meeting_others():
            context.merge_call(call_all, args=(condition, *arguments))


def _devices() -> tuple[str, ...]:
    """Those of the replicas in this process."""
    return tf.distribute.get_strategy().extended.worker_devices


def has_several_workers(strategy: tf.distribute.Strategy) -> bool:
    """Whether some replicas of a strategy are in other processes."""
    if not isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy):
        return False
    return len(strategy.extended.worker_devices) < strategy.num_replicas_in_sync


def current_strategy() -> tf.distribute.Strategy | None:
    """The strategy in whose scope this is called, or None outside any."""
    return tf.distribute.get_strategy() if tf.distribute.has_strategy() else None
