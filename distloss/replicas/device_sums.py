"""Sums over some devices, of which no strategy need know: to try each pair of them."""

from __future__ import annotations

from collections.abc import Sequence

import tensorflow as tf

# Strategies count their groups and collectives from small numbers; these are others'.
_FIRST_GROUP = 700_000
_FIRST_COLLECTIVE = 900_000


def sums_over_devices(
    tensors: Sequence[tf.Tensor],
    devices: Sequence[str],
    *,
    count: int,
    group: int,
    number: int,
) -> list[tf.Tensor]:
    """The sum over a group of devices, on each of those that are of this process.

    Args:
      tensors: what the devices of this process give, in their order.
      devices: of this process.
      count: how many devices the group has, those of other processes too.
      group: a number that no other group has; the same in all processes.
      number: of this sum, which no other has; the same in all processes.
    """
    hint = "nccl" if "GPU" in devices[0] else "ring"
    tokens = [_token(device) for device in devices]

    @tf.function(autograph=False)
    def summed(given: list[tf.Tensor]) -> list[tf.Tensor]:
        every = zip(given, devices, tokens, strict=True)
        return [_sum(tensor, device, token) for tensor, device, token in every]

    def _sum(tensor: tf.Tensor, device: str, token: tf.Variable) -> tf.Tensor:
        with tf.device(device):
            return tf.raw_ops.CollectiveReduceV2(
                input=tf.identity(tensor),
                group_size=count,
                group_key=_FIRST_GROUP + group,
                instance_key=_FIRST_COLLECTIVE + number,
                # without one of its own each would wait until the other is done
                ordering_token=[token.handle],
                merge_op="Add",
                final_op="Id",
                communication_hint=hint,
            )

    return list(summed(list(tensors)))


def _token(device: str) -> tf.Variable:
    with tf.device(device):
        return tf.Variable(0.0)
