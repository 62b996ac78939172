"""What the audit is given of tf-keras: right and wrong build functions."""

import tensorflow as tf
import tf_keras
from builds import rows

import distloss


class ClipsFirst(tf_keras.Sequential):
    """Clips each replica's gradients."""

    def train_step(self, data):
        x, y = data
        with tf.GradientTape() as tape:
            y_pred = self(x, training=True)
            loss = self.compute_loss(x, y, y_pred, None)
        gradients = tape.gradient(loss, self.trainable_variables)
        gradients, _ = tf.clip_by_global_norm(gradients, 0.1)
        pairs = zip(gradients, self.trainable_variables, strict=True)
        self.optimizer.apply_gradients(pairs)
        return self.compute_metrics(x, y, y_pred, None)


def dense_model(kind=tf_keras.Sequential):
    L2 = tf_keras.regularizers.L2(0.05)
    return kind(
        [
            tf_keras.layers.Dense(4, "tanh", kernel_regularizer=L2, input_shape=[3]),
            tf_keras.layers.Dropout(0.5),
            tf_keras.layers.Dense(1),
        ]
    )


def scalar_loss_and_clipping():
    model = dense_model(ClipsFirst)
    model.compile("sgd", lambda y, y_pred: tf.reduce_mean((y - y_pred) ** 2))
    return model, rows()


def prepared():
    model = dense_model()
    model.compile(tf_keras.optimizers.Adam(global_clipnorm=0.1), "mse")
    return distloss.prepare(model), rows()
