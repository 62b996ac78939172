"""The loop of TensorFlow's guide, with aliases, a helper and a decorated step."""

import tensorflow as tf
from tensorflow import keras as kk

strategy = tf.distribute.MirroredStrategy()
with strategy.scope():
    model = kk.Sequential([kk.layers.Dense(1), kk.layers.Dense(2)])
    optimizer = kk.optimizers.Adam(clipnorm=1.0)  # ! clip-before-sum
    loss_object = kk.losses.MeanSquaredError(reduction=kk.losses.Reduction.NONE)


def compute_loss(labels, predictions, model_losses):
    per_example = loss_object(labels, predictions)
    loss = tf.reduce_mean(per_example)  # ! sum-of-means
    if model_losses:
        loss += tf.nn.scale_regularization_loss(tf.add_n(model_losses))
    return loss


def train_step(inputs):
    images, labels = inputs
    with tf.GradientTape() as tape:
        predictions = model(images, training=True)
        loss = compute_loss(labels, predictions, model.losses)
    gradients = tape.gradient(loss, model.trainable_variables)
    optimizer.apply_gradients(zip(gradients, model.trainable_variables, strict=True))
    return loss


@tf.function
def distributed_train_step(batch):
    losses = strategy.run(train_step, args=(batch,))
    return strategy.reduce("MEAN", losses, axis=None)  # ! mean-of-means


def main(dataset):
    for batch in strategy.experimental_distribute_dataset(dataset):
        distributed_train_step(batch)
