"""On one device means and clipping are fine; tf.distribute is only spoken of."""

import keras
import tensorflow as tf

strategy = tf.distribute.OneDeviceStrategy("CPU:0")
first = tf.distribute.MirroredStrategy(["GPU:0"])
default = tf.distribute.get_strategy()


def build():
    model = keras.Sequential([keras.layers.Dense(1)])
    optimizer = keras.optimizers.Adam(clipnorm=1.0, gradient_accumulation_steps=2)
    model.compile(optimizer, loss=lambda y, y_pred: tf.reduce_mean(y - y_pred))
    return model


model = build()
optimizer = keras.optimizers.SGD(global_clipnorm=1.0)


def step(x, y):
    with tf.GradientTape() as tape:
        loss = tf.reduce_mean(keras.losses.mse(y, model(x))) + tf.add_n(model.losses)
    gradients = tape.gradient(loss, model.trainable_variables)
    gradients, _ = tf.clip_by_global_norm(gradients, 1.0)
    optimizer.apply_gradients(zip(gradients, model.trainable_variables, strict=True))


step(tf.ones([1]), tf.ones([1]))
for one in (strategy, first, default):
    with one.scope():
        build()
    one.run(step, args=(tf.ones([1]), tf.ones([1])))
