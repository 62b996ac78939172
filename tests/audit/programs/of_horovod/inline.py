"""A loop of Horovod at the top of a script, in no function that is given rows."""

import horovod.tensorflow as hvd
import keras
import tensorflow as tf

hvd.init()
model = keras.Sequential([keras.Input([3]), keras.layers.Dense(1)])
optimizer = keras.optimizers.SGD(0.01)
while True:
    x = tf.random.normal([8, 3])
    with tf.GradientTape() as tape:
        loss = tf.reduce_mean(model(x) ** 2)
    tape = hvd.DistributedGradientTape(tape)
    gradients = tape.gradient(loss, [v.value for v in model.trainable_variables])
    optimizer.apply(gradients, model.trainable_variables)
