"""Virtual replicas on the CPU of this machine."""

from __future__ import annotations

import tensorflow as tf


def configure(count: int) -> None:
    """Makes `count` logical CPUs, before TensorFlow uses a device.

    Raises:
      RuntimeError: of TensorFlow, which has used one.
    """
    cpu = tf.config.list_physical_devices("CPU")[0]
    one = tf.config.LogicalDeviceConfiguration()
    tf.config.set_logical_device_configuration(cpu, [one] * count)
