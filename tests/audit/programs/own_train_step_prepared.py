"""Right: a train_step of raw means, and an optimizer that clips, prepared."""

import keras
import numpy as np
import tensorflow as tf

import distloss

strategy = tf.distribute.MirroredStrategy()


class Classifier(keras.Model):
    def __init__(self):
        super().__init__()
        self.dense = keras.layers.Dense(3)

    def call(self, inputs):
        return self.dense(inputs["features"])

    def train_step(self, data):
        x, y = data
        with tf.GradientTape() as tape:
            logits = self(x, training=True)
            losses = keras.losses.sparse_categorical_crossentropy(
                y, logits, from_logits=True
            )
            loss = tf.reduce_mean(losses)
        gradients = tape.gradient(loss, self.trainable_variables)
        self.optimizer.apply(gradients, self.trainable_variables)
        return {"loss": loss}


rng = np.random.default_rng(3)
x = {"features": rng.normal(size=(40, 5)).astype("float32")}
y = rng.integers(0, 3, size=(40,))
data = tf.data.Dataset.from_tensor_slices((x, y)).shuffle(40).batch(10)
with strategy.scope():
    model = Classifier()
    model.compile(optimizer=keras.optimizers.SGD(0.1, global_clipnorm=0.1))
    distloss.prepare(model)
model.fit(data, epochs=4)
raise RuntimeError("the script was trained to its end")
