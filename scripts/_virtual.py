"""Virtual replicas on this machine's CPU, for the demo and the benchmark."""

import tensorflow as tf

from distloss._virtual_cpus import configure

__all__ = ["configure", "strategy_of"]


def strategy_of(count):
    """A strategy over the first `count` logical CPUs; none for one."""
    if count == 1:
        return tf.distribute.get_strategy()
    # Ring collectives of two strategies over the same devices would collide.
    to_one_device = tf.distribute.ReductionToOneDevice()
    devices = [f"CPU:{index}" for index in range(count)]
    return tf.distribute.MirroredStrategy(devices, cross_device_ops=to_one_device)
