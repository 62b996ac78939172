"""Right: Horovod's tape in a tf.function, rows dealt by rank, weights broadcast."""

import horovod.tensorflow as hvd
import numpy as np
import tensorflow as tf
import tf_keras

hvd.init()
gpus = tf.config.experimental.list_physical_devices("GPU")
if gpus:
    tf.config.experimental.set_visible_devices(gpus[hvd.local_rank()], "GPU")

rng = np.random.default_rng(20)
images = rng.integers(0, 255, size=(96, 6, 6, 1)).astype("uint8")
labels = rng.integers(0, 3, size=(96,)).astype("int64")
rows = tf.data.Dataset.from_tensor_slices((images, labels))
rows = rows.shard(hvd.size(), hvd.rank()).repeat().shuffle(96).batch(8)

model = tf_keras.Sequential(
    [
        tf_keras.layers.Conv2D(4, 3, activation="relu"),
        tf_keras.layers.Flatten(),
        tf_keras.layers.Dense(3),
    ]
)
loss_object = tf_keras.losses.SparseCategoricalCrossentropy(from_logits=True)
optimizer = tf_keras.optimizers.Adam(0.001 * hvd.size())


@tf.function
def training_step(images, labels, first_batch):
    images = tf.cast(images, tf.float32) / 255
    with tf.GradientTape() as tape:
        loss = loss_object(labels, model(images, training=True))
    tape = hvd.DistributedGradientTape(tape)
    gradients = tape.gradient(loss, model.trainable_variables)
    optimizer.apply_gradients(zip(gradients, model.trainable_variables, strict=True))
    if first_batch:
        hvd.broadcast_variables(model.variables, root_rank=0)
        hvd.broadcast_variables(optimizer.variables, root_rank=0)
    return loss


for number, (images, labels) in enumerate(rows.take(10000 // hvd.size())):
    loss = training_step(images, labels, number == 0)
    if number % 10 == 0 and hvd.rank() == 0:
        print(f"step {number} loss {loss:.6f}")
raise RuntimeError("the script was trained to its end")
