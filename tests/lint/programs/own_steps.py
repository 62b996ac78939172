"""Models and loops with steps of their own: prepared, weighed by rows, and neither."""

import keras
import tensorflow as tf

import distloss

strategy = tf.distribute.MirroredStrategy()


class Prepared(keras.Model):
    def __init__(self):
        super().__init__()
        self.net = keras.layers.Dense(1, kernel_regularizer="l2")

    def train_step(self, data):
        x, y = data
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean((self.net(x) - y) ** 2) + sum(self.losses)
        variables = self.trainable_variables
        self.optimizer.apply(tape.gradient(loss, variables), variables)
        return {"objective": loss}


class Pair(keras.Model):
    def __init__(self):
        super().__init__()
        self.critic, self.generator = keras.layers.Dense(1), keras.layers.Dense(3)

    def compile(self, optimizers):
        super().compile()
        self.optimizers = optimizers

    def train_step(self, data):
        parts = (self.critic, self.generator)
        for optimizer, part in zip(self.optimizers, parts, strict=True):
            with tf.GradientTape() as tape:
                loss = tf.reduce_mean(self.critic(self.generator(data)))
            variables = part.trainable_variables
            optimizer.apply(tape.gradient(loss, variables), variables)
        return {"objective": loss}


class Plain(keras.Model):
    def __init__(self):
        super().__init__()
        self.net = keras.layers.Dense(1)

    def train_step(self, data):
        x, y = data
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean((self.net(x) - y) ** 2)  # ! sum-of-means
        variables = self.trainable_variables
        self.optimizer.apply(tape.gradient(loss, variables), variables)
        return {"objective": loss}


with strategy.scope():
    prepared, pair, plain = Prepared(), Pair(), Plain()
    prepared.compile(keras.optimizers.Adam(global_clipnorm=1.0))
    pair.compile([keras.optimizers.SGD(clipnorm=1.0), keras.optimizers.Adam()])
    plain.compile(keras.optimizers.Adam(clipvalue=1.0))  # ! clip-before-sum
    distloss.prepare(prepared)
    distloss.prepare(pair)
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1)])
    optimizer = distloss.DistributedOptimizer(keras.optimizers.SGD(clipnorm=1.0))


def step(x, y):
    with tf.GradientTape() as tape:
        loss = tf.reduce_mean((model(x) - y) ** 2)
    variables = model.trainable_variables
    optimizer.apply(tape.gradient(loss, variables), variables)
    return loss


weighed = distloss.row_weighted(step, model)


@tf.function
def train(batch):
    return strategy.reduce("SUM", strategy.run(weighed, batch), axis=None)
