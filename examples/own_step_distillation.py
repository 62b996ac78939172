"""Distillation with sample weights and a `train_step` of its own, on four replicas.

A frozen teacher tells a small student how it sees each digit. The step is written as
Keras' own examples write it: `compile` is given two Keras losses and keeps them as
attributes, and the step adds up both. One of them is a weighted average: it divides by
the weights of the rows, of which replicas hold unequal amounts.

`distloss.prepare(model)` makes both right, and leaves the step as it is. Keras losses
that are called in it know of all replicas: the weighted one sums its weights over them,
by one small collective; the other needs none. Plain Keras divides by the weights that a
replica holds itself, and by the number of replicas.
"""

import keras
import numpy as np
import tensorflow as tf
from _own_steps import ROWS, compare
from _replicas import four_replicas
from sklearn.datasets import load_digits

PIXELS, CLASSES, TEMPERATURE = 64, 10, 3.0


class Distiller(keras.Model):
    """A student that learns from labels and from a teacher."""

    def __init__(self, teacher, student):
        super().__init__()
        self.teacher, self.student = teacher, student
        self.teacher.trainable = False
        self.built = True  # the two networks are, and there is no call to build

    def compile(self, optimizer, student_loss, distillation_loss):
        """Takes two losses, of which Keras knows nothing."""
        super().compile(optimizer)
        self.student_loss = student_loss
        self.distillation_loss = distillation_loss

    def train_step(self, data):
        """One update of the student."""
        pixels, labels, weight = data
        soft = tf.nn.softmax(self.teacher(pixels, training=False) / TEMPERATURE)
        with tf.GradientTape() as tape:
            logits = self.student(pixels, training=True)
            student_loss = self.student_loss(labels, logits, sample_weight=weight)
            alike = self.distillation_loss(soft, tf.nn.softmax(logits / TEMPERATURE))
            loss = 0.5 * student_loss + 0.5 * TEMPERATURE**2 * alike
        weights = self.student.trainable_weights
        gradients = tape.gradient(loss, weights)
        self.optimizer.apply_gradients(zip(gradients, weights, strict=True))
        return {"loss": loss, "student_loss": student_loss}


def network(hidden):
    layers = [keras.layers.Dense(hidden, "relu"), keras.layers.Dense(CLASSES)]
    return keras.Sequential([keras.Input([PIXELS]), *layers])


def labels_loss():
    return keras.losses.SparseCategoricalCrossentropy(
        from_logits=True, reduction="mean_with_sample_weight"
    )


def learned_teacher():
    """The weights of a teacher that has seen other digits."""
    pixels, labels, _ = digits(slice(ROWS, None))
    keras.utils.set_random_seed(0)
    teacher = network(64)
    teacher.compile(keras.optimizers.Adam(0.01), labels_loss())
    teacher.fit(pixels, labels, batch_size=64, epochs=2, verbose=0)
    return teacher.get_weights()


def build(prepare, teacher_weights):
    """The compiled model; `prepare` is `distloss.prepare`, or leaves it as it is."""
    teacher, student = network(64), network(8)
    teacher.set_weights(teacher_weights)
    model = Distiller(teacher, student)
    model.compile(
        keras.optimizers.SGD(0.1),
        student_loss=labels_loss(),
        distillation_loss=keras.losses.KLDivergence(),
    )
    return prepare(model)  # <- the one line


def digits(chosen=slice(ROWS)):
    pixels, labels = load_digits(return_X_y=True)
    weight = np.where(labels < 5, 1.0, 4.0)
    pixels, weight = (pixels / 16).astype("float32"), weight.astype("float32")
    return pixels[chosen], labels[chosen], weight[chosen]


def main():
    four_replicas()  # first: it configures the devices
    teacher_weights = learned_teacher()
    compare(lambda prepare: build(prepare, teacher_weights), digits())


if __name__ == "__main__":
    main()
