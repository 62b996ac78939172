"""Right with Horovod, or not to be seen: nothing is found here."""

import horovod.tensorflow as hvd
import horovod.tensorflow.keras as hvd_keras
import keras
import tensorflow as tf
import tf_keras
from somewhere import data, settings

import distloss

hvd.init()
model = keras.Sequential([keras.layers.Dense(10)])
optimizer = keras.optimizers.Adam(0.001 * hvd.size(), clipnorm=1.0)  # after the sum
row_losses = keras.losses.MeanSquaredError(reduction=None)
replicas = distloss.HorovodReplicas()


@tf.function
def step(images, labels):
    with tf.GradientTape() as tape:
        values = row_losses(labels, model(images, training=True))
        rows = hvd.allreduce(tf.cast(tf.size(values), tf.float32), op=hvd.Sum)
        loss = tf.reduce_sum(values) / rows
        loss += distloss.mean_share(values, replicas=replicas)
    tape = hvd.DistributedGradientTape(tape, op=hvd.Sum)
    gradients = tape.gradient(loss, model.trainable_variables)
    optimizer.apply_gradients(zip(gradients, model.trainable_variables, strict=True))


for images, labels in data.shard(hvd.size(), hvd.rank()):
    step(images, labels)
    hvd.broadcast_variables(model.variables, root_rank=0)

# an optimizer that Horovod knows, and passes of which the number is not known
older = tf_keras.optimizers.Adam(clipnorm=1.0)
older = hvd_keras.DistributedOptimizer(
    older,
    backward_passes_per_step=settings.passes,
    average_aggregated_gradients=settings.averages,
)
prepared = keras.Sequential([keras.layers.Dense(10)])
prepared.compile(keras.optimizers.Adam(clipnorm=1.0), "mse")
distloss.prepare(prepared, replicas=replicas)
