"""Steps that keep gradients from one update to the next; and right ones that keep some.

Each is a `build` of the audit.
"""

import builds_false_alarms as plain
import keras
import tensorflow as tf
from builds_false_alarms import rows, small
from builds_no_update import Window, share

import distloss


class Keeps(plain.Loop):
    """`update(kept, gradient, step)` is what is kept, and `given` what is applied."""

    def __init__(self, update, given=None, optimizer=None):
        super().__init__(share, optimizer=optimizer)
        self.kept = [tf.Variable(tf.zeros(v.shape)) for v in self.trainable_variables]
        self.count = tf.Variable(0.0)
        self.update, self.given = update, given or (lambda kept, *_: kept)

    def train_step(self, batch):
        loss, found = self.gradients(batch)
        step = self.count.assign_add(1.0)
        applied = []
        for kept, gradient in zip(self.kept, found, strict=True):
            # What is applied may be of what was kept before.
            before = tf.identity(kept)
            kept.assign(self.update(before, gradient, step))
            applied.append(self.given(kept, before, gradient, step))
        self.optimizer.apply(applied, self.trainable_variables)
        return loss


# -- wrong


def never_cleared():
    return Keeps(lambda kept, gradient, _: kept + gradient), rows()


def never_cleared_with_adam():
    adam = keras.optimizers.Adam()
    return Keeps(lambda kept, gradient, _: kept + gradient, optimizer=adam), rows()


class WindowNeverCleared(Window):
    def train_step(self, batch):
        loss, gradients = self.gradients(batch)
        everyone = tf.distribute.get_replica_context()
        self.count.assign_add(1)
        is_last = tf.cast(self.count % 2 == 0, tf.float32)
        summed = everyone.all_reduce("sum", gradients)
        for kept, variable, gradient in zip(
            self.kept, self.trainable_variables, summed, strict=True
        ):
            kept.assign_add(gradient)
            variable.assign_sub(0.1 * is_last * kept)
        return loss


def window_never_cleared():
    return WindowNeverCleared(), rows()


class KerasKeeps(keras.Model):
    def __init__(self):
        super().__init__()
        self.inner = small()
        self.kept = [
            self.add_weight(shape=v.shape, initializer="zeros", trainable=False)
            for v in self.inner.trainable_variables
        ]

    def call(self, x):
        return self.inner(x)

    def train_step(self, data):
        x, y = data
        with tf.GradientTape() as tape:
            loss = self.compute_loss(x, y, self(x, training=True))
        found = tape.gradient(loss, self.trainable_variables)
        for kept, gradient in zip(self.kept, found, strict=True):
            kept.assign_add(gradient)
        self.optimizer.apply([k + 0.0 for k in self.kept], self.trainable_variables)
        return {"loss": loss}


def keras_step_never_clears():
    model = KerasKeeps()
    model.compile("sgd", distloss.DistributedLoss("mse"))
    return model, rows()


# -- right


def momentum():
    return plain.Loop(share, optimizer=keras.optimizers.SGD(0.1, momentum=0.9)), rows()


def adam():
    model = small()
    model.compile("adam", "mse")
    return distloss.prepare(model), rows()


def momentum_by_hand():
    return Keeps(lambda kept, gradient, _: 0.9 * kept + gradient), rows()


def nesterov_by_hand():
    def given(kept, _before, gradient, _step):
        return 0.9 * kept + gradient

    return Keeps(lambda kept, gradient, _: 0.9 * kept + gradient, given), rows()


def average_of_all_steps():
    def update(kept, gradient, step):
        return kept + (gradient - kept) / step

    return Keeps(update), rows()


def moving_average():
    return Keeps(lambda kept, gradient, _: 0.5 * kept + 0.5 * gradient), rows()


def last_gradient_is_kept():
    def given(_kept, before, gradient, _step):
        return 2 * gradient - before

    return Keeps(lambda _, gradient, __: gradient, given), rows()


def gradient_warms_up():
    def given(_kept, _before, gradient, step):
        return gradient * step

    return Keeps(lambda _, gradient, __: gradient, given), rows()


def kept_and_cleared():
    def given(kept, *_):
        found = tf.identity(kept)
        kept.assign(tf.zeros_like(kept))
        return found

    return Keeps(lambda kept, gradient, _: kept + gradient, given), rows()


def only_counted():
    """Keeps the sum of all gradients to look at it, and applies this step's."""

    def given(_kept, _before, gradient, _step):
        return gradient

    return Keeps(lambda kept, gradient, _: kept + gradient, given), rows()


def window_is_cleared():
    return Window(), rows()
