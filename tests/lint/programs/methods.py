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


def logged(function):
    def inner(*args, **kwargs):
        print("a step")
        return function(*args, **kwargs)

    return inner


class Adversarial(tf.keras.Model):
    """With a step of its own for `fit`, and inputs that each replica draws."""

    def __init__(self):
        super().__init__()
        self.generator = tf.keras.Sequential([tf.keras.layers.Dense(1)])

    def call(self, x):
        return self.generator(x)

    @tf.function
    @logged
    def train_step(self, data):
        with tf.GradientTape() as tape:
            drawn = self(tf.random.normal([8, 100]), training=True)
            loss = tf.reduce_mean(drawn)  # ! sum-of-means
            loss += tf.reduce_mean(self(data) - drawn)  # ! sum-of-means
        gradients = tape.gradient(loss, self.trainable_variables)
        pairs = zip(gradients, self.trainable_variables, strict=True)
        self.optimizer.apply_gradients(pairs)
        return {"loss": loss}


with tf.distribute.MirroredStrategy().scope():
    Adversarial().compile(optimizer="adam")
