"""A class that gets its strategy from elsewhere; lambdas and methods as steps."""

import tensorflow as tf


class Trainer:
    def __init__(self, strategy, model, optimizer):
        self.strategy = strategy
        self.model = model
        self.optimizer = optimizer
        self.row_losses = tf.keras.losses.MeanSquaredError(reduction="none")

    def loss_of(self, y, y_pred):
        return tf.reduce_mean(self.row_losses(y, y_pred))  # ! sum-of-means

    def step(self, inputs):
        x, y = inputs
        with tf.GradientTape() as tape:
            loss = self.loss_of(y, self.model(x, training=True))
            loss += sum(self.model.losses)  # ! regularization-not-scaled
        gradients = tape.gradient(loss, self.model.trainable_variables)
        gradients = [
            tf.clip_by_norm(gradient, 1.0)  # ! clip-before-sum
            for gradient in gradients
        ]
        self.optimizer.apply_gradients(
            [*zip(gradients, self.model.trainable_variables, strict=True)]
        )

    def train(self, iterator):
        self.strategy.run(self.step, args=(next(iterator),))


class Scaled(Trainer):
    def loss_of(self, y, y_pred):
        count = self.strategy.num_replicas_in_sync
        mean = tf.reduce_mean(self.row_losses(y, y_pred))
        return mean * count  # ! scaled-n-squared

    def train(self, iterator):
        self.strategy.run(lambda batch: self.step(batch), args=(next(iterator),))
