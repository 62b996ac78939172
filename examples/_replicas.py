"""Four replicas on one computer, so that the examples need no GPU."""

import tensorflow as tf

REPLICAS = 4


def four_replicas():
    """A strategy over four logical CPUs. Call it before TensorFlow computes anything.

    TensorFlow fixes its devices when it first uses one; four logical CPUs that are
    configured already (by a test run, say) are used as they are.
    """
    cpu = tf.config.list_physical_devices("CPU")[0]
    if tf.config.get_logical_device_configuration(cpu) is None:
        one = tf.config.LogicalDeviceConfiguration()
        tf.config.set_logical_device_configuration(cpu, [one] * REPLICAS)
    return tf.distribute.MirroredStrategy(
        [f"CPU:{index}" for index in range(REPLICAS)],
        # The default on CPUs, ring collectives, numbers its sums from the start in
        # each strategy, so two strategies over the same devices in one process
        # collide. Sums that are taken on one device cannot.
        cross_device_ops=tf.distribute.ReductionToOneDevice(),
    )
