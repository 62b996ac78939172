"""Steps that train nothing, or not all; and right ones of which it looks like that.

Each is a `build` of the audit.
"""

import builds_false_alarms as plain
import keras
import numpy as np
import tensorflow as tf
from builds_false_alarms import dense, rows, small

import distloss

# -- wrong


class Takes(plain.Loop):
    """Takes gradients, and forgets them."""

    def train_step(self, batch):
        loss, _ = self.gradients(batch)
        return loss


def share(model, x, y):
    return distloss.mean_share(plain.losses_of(model, x, y))


def takes_and_forgets():
    return Takes(share), rows()


def takes_and_counts():
    """Clips and counts, and forgets them all the same."""
    loop = Takes(share)
    loop.norm = keras.metrics.Mean()

    def train_step(batch):
        loss, gradients = loop.gradients(batch)
        clipped, norm = tf.clip_by_global_norm(gradients, 1.0)
        loop.norm.update_state(norm + 0 * tf.reduce_sum(clipped[0]))
        loop.optimizer.iterations.assign_add(1)
        return loss

    loop.train_step = train_step
    return loop, rows()


class OnlyMetrics(keras.Sequential):
    """Has its step in training from that in evaluation."""

    def train_step(self, data):
        return self.test_step(data)


def metrics_only():
    model = OnlyMetrics([keras.Input([3]), dense(4, "tanh"), dense(1)])
    model.compile("adam", "mse", metrics=["mae"])
    return model, rows()


class NotApplied(keras.Sequential):
    def train_step(self, data):
        x, y = data
        with tf.GradientTape() as tape:
            loss = self.compute_loss(x, y, self(x, training=True))
        tape.gradient(loss, self.trainable_variables)
        return {"loss": loss}


def keras_step_forgets():
    model = NotApplied([keras.Input([3]), dense(4, "tanh"), dense(1)])
    model.compile("adam", distloss.DistributedLoss("mse"))
    return model, rows()


class TwoParts(plain.Loop):
    """A body and a head; `features` calls the body, `asked` is what shall learn."""

    def __init__(self, cut=None, asked="all", before=False):
        self.body = keras.Sequential([keras.Input([3]), dense(4, "tanh")], name="body")
        self.head = keras.Sequential([keras.Input([4]), dense(1)], name="head")
        self.cut, self.asked, self.before = cut or (lambda x: x), asked, before
        self.optimizer = keras.optimizers.SGD(0.1)
        self.optimizer.build(self.asked_variables())

    @property
    def trainable_variables(self):
        return self.body.trainable_variables + self.head.trainable_variables

    def asked_variables(self):
        is_all = self.asked == "all"
        return self.trainable_variables if is_all else self.head.trainable_variables

    def train_step(self, batch):
        x, y = batch
        early = self.body(x, training=True) if self.before else None
        with tf.GradientTape() as tape:
            features = early if self.before else self.body(x, training=True)
            output = self.head(self.cut(features), training=True)
            loss = distloss.mean_share(tf.reduce_sum((output - y) ** 2, -1))
        asked = self.asked_variables()
        found = tape.gradient(loss, asked)
        pairs = [(g, v) for g, v in zip(found, asked, strict=True) if g is not None]
        self.optimizer.apply([g for g, _ in pairs], [v for _, v in pairs])
        return loss


def body_before_the_tape():
    return TwoParts(before=True), rows()


def body_is_rounded():
    return TwoParts(lambda x: tf.cast(tf.cast(10 * x, tf.int32), x.dtype) / 10), rows()


def only_one_replica_updates():
    loop = plain.Loop(share)
    updates = loop.train_step

    def train_step(batch):
        if tf.distribute.get_strategy().num_replicas_in_sync > 1:
            loss, _ = loop.gradients(batch)
            return loss
        return updates(batch)

    loop.train_step = train_step
    return loop, rows()


# -- right, or not to be told


class OfOnePart(TwoParts):
    """Takes all gradients, and applies those of one part."""

    def train_step(self, batch):
        x, y = batch
        with tf.GradientTape() as tape:
            output = self.head(self.body(x, training=True), training=True)
            loss = distloss.mean_share(tf.reduce_sum((output - y) ** 2, -1))
        found = tape.gradient(loss, self.trainable_variables)
        self.keep(found[:2])
        self.optimizer.apply(found[2:], self.head.trainable_variables)
        return loss

    def keep(self, gradients):
        """Does nothing with them."""


def gradients_of_a_part_are_discarded():
    return OfOnePart(asked="head"), rows()


class KeptInAnotherPart(OfOnePart):
    def __init__(self):
        super().__init__(asked="head")
        shapes = [v.shape for v in self.body.trainable_variables]
        self.kept = [tf.Variable(tf.zeros(s), trainable=False) for s in shapes]

    def keep(self, gradients):
        for variable, gradient in zip(self.kept, gradients, strict=True):
            variable.assign(gradient)


def gradients_of_a_part_are_kept():
    return KeptInAnotherPart(), rows()


def body_is_not_trainable():
    loop = TwoParts(asked="head")
    loop.body.trainable = False
    return loop, rows()


def body_is_left_out():
    return TwoParts(asked="head"), rows()


def body_is_stopped():
    return TwoParts(tf.stop_gradient), rows()


def body_is_stopped_by_its_own_gradient():
    @tf.custom_gradient
    def still(x):
        return tf.identity(x), lambda _: None

    return TwoParts(still), rows()


def body_before_the_tape_of_the_head():
    return TwoParts(asked="head", before=True), rows()


def rectifier_is_dead():
    loop = plain.Loop(share, plain.keras.Sequential([keras.Input([3])]))
    layers = [dense(4, "relu"), dense(1)]
    loop.model = keras.Sequential([keras.Input([3]), *layers])
    layers[0].bias.assign(tf.fill([4], -100.0))
    loop.optimizer = keras.optimizers.SGD(0.1)
    return loop, rows()


class Branch(keras.layers.Layer):
    """What is learnt beside a frozen matrix begins at zero."""

    def build(self, shape):
        self.frozen = self.add_weight(shape=[shape[-1], 2], trainable=False)
        self.down = self.add_weight(shape=[shape[-1], 1], name="down")
        self.up = self.add_weight(shape=[1, 2], initializer="zeros", name="up")
        self.nowhere = self.add_weight(shape=[2], name="nowhere")

    def call(self, x):
        return x @ self.frozen + x @ self.down @ self.up


def branch_begins_at_zero():
    model = keras.Sequential([keras.Input([3]), Branch(), dense(1)])
    model.compile("sgd", distloss.DistributedLoss("mse"))
    return model, rows()


def rows_of_a_table_are_unused():
    model = keras.Sequential(
        [
            keras.Input([2]),
            keras.layers.Embedding(50, 3),
            keras.layers.Flatten(),
            dense(1),
        ]
    )
    model.compile("sgd", distloss.DistributedLoss("mse"))
    _, y = rows()
    return distloss.prepare(model), (np.arange(2 * len(y)).reshape(-1, 2) % 7, y)


def share_of_all(model, x, y):
    return tf.reduce_sum(plain.losses_of(model, x, y)) / plain.ROWS


class Window(plain.Loop):
    """Applies the sum of so many batches, in one call of several."""

    steps = 3

    def __init__(self):
        super().__init__(share_of_all)
        self.kept = [tf.Variable(tf.zeros(v.shape)) for v in self.trainable_variables]
        self.count = tf.Variable(0)

    def train_step(self, batch):
        loss, gradients = self.gradients(batch)
        everyone = tf.distribute.get_replica_context()
        for kept, gradient in zip(
            self.kept, everyone.all_reduce("sum", gradients), strict=True
        ):
            kept.assign_add(gradient)
        self.count.assign_add(1)
        is_last = tf.cast(self.count % self.steps == 0, tf.float32)
        for kept, variable in zip(self.kept, self.trainable_variables, strict=True):
            variable.assign_sub(0.1 * is_last * kept)
            kept.assign(kept * (1 - is_last))
        return loss


class Elsewhere(Window):
    """Only keeps gradients: somebody else applies them."""

    def train_step(self, batch):
        loss, gradients = self.gradients(batch)
        for kept, gradient in zip(self.kept, gradients, strict=True):
            kept.assign_add(gradient)
        return loss


def kept_for_somebody_else():
    return Elsewhere(), rows()


def schedule_begins_at_zero():
    warm = keras.optimizers.schedules.CosineDecay(
        0.0, 100, warmup_target=0.1, warmup_steps=10
    )
    model = small()
    model.compile(
        keras.optimizers.SGD(warm), distloss.DistributedLoss("mse"), jit_compile=False
    )
    return distloss.prepare(model), rows()


class ByHand(plain.Loop):
    """Updates by hand; the rate is 0 in the first step."""

    def __init__(self):
        super().__init__(share)
        self.count = tf.Variable(0.0)

    def train_step(self, batch):
        loss, gradients = self.gradients(batch)
        everyone = tf.distribute.get_replica_context()
        for variable, gradient in zip(
            self.trainable_variables, everyone.all_reduce("sum", gradients), strict=True
        ):
            variable.assign_sub(0.01 * self.count * gradient)
        self.count.assign_add(1.0)
        return loss


def rate_by_hand_begins_at_zero():
    return ByHand(), rows()


def rate_is_zero():
    return plain.Loop(share, optimizer=keras.optimizers.SGD(0.0)), rows()


def scaled_float16():
    keras.config.set_dtype_policy("mixed_float16")
    try:
        model = small()
        model.compile("sgd", "mse")
    finally:
        keras.config.set_dtype_policy("float32")
    return distloss.prepare(model), rows()


class Teacher(plain.Loop):
    """A teacher, trainable by its own account, follows the student."""

    def __init__(self):
        super().__init__(share)
        self.teacher = small("teacher")

    @property
    def trainable_variables(self):
        if not hasattr(self, "teacher"):
            return self.model.trainable_variables
        return self.model.trainable_variables + self.teacher.trainable_variables

    def train_step(self, batch):
        x, y = batch
        own = self.model.trainable_variables
        with tf.GradientTape() as tape:
            output = self.model(x, training=True)
            apart = (output - self.teacher(x)) ** 2 + (output - y) ** 2
            loss = distloss.mean_share(tf.reduce_sum(apart, -1))
        self.optimizer.apply(tape.gradient(loss, own), own)
        for target, source in zip(self.teacher.trainable_variables, own, strict=True):
            target.assign(0.9 * target + 0.1 * source)
        return loss


def teacher_follows():
    return Teacher(), rows()


class Straight(TwoParts):
    """Rounds, and lets the gradient through."""

    def __init__(self):
        super().__init__(lambda x: x + tf.stop_gradient(tf.round(10 * x) / 10 - x))


def rounded_straight_through():
    return Straight(), rows()


def window_by_hand():
    return Window(), rows()
