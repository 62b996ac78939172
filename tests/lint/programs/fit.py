"""Models for `fit`, made in a function that a scope calls."""

import functools

import keras
import tensorflow as tf


def local_mean(y_true, y_pred, factor):
    return factor * keras.ops.mean(keras.ops.square(y_true - y_pred))


def build(loss):
    layers = [
        keras.layers.Dense(10),
        keras.layers.BatchNormalization(),  # ! batch-statistics
    ]
    model = keras.Sequential(layers)
    optimizer = keras.optimizers.AdamW(
        global_clipnorm=1.0,  # ! clip-before-sum
        gradient_accumulation_steps=4,  # ! accumulation-under-strategy
    )
    model.compile(optimizer, loss)  # ! sum-of-means
    return model


def half_precision():
    keras.mixed_precision.set_global_policy("mixed_float16")  # ! overflow-not-agreed
    model = keras.Sequential([keras.layers.Dense(10)])
    model.compile("adam", "mse")  # ! mean-of-means
    return model


def divided():
    def loss(y_true, y_pred):
        count = tf.distribute.get_strategy().num_replicas_in_sync
        return keras.losses.mse(y_true, y_pred) / count  # ! divided-twice

    model = keras.Sequential([keras.layers.Dense(10)])
    model.compile("adam", loss=loss)


def main():
    strategy = tf.distribute.MirroredStrategy()
    with strategy.scope():
        build(functools.partial(local_mean, factor=0.5))
        build(lambda y_true, y_pred: keras.ops.mean(y_true - y_pred))
        half_precision()
        divided()


if __name__ == "__main__":
    main()
