"""What the audit is given in its tests: good, bad and hostile build functions."""

import os
import signal
import sys
import time

import keras
import numpy as np
import tensorflow as tf

import distloss

ROWS = 22


def rows(count=ROWS):
    random = np.random.default_rng(3)
    size = np.linspace(0.5, 2, count)[:, np.newaxis]
    x = random.normal(size=[count, 3]) * size
    return x.astype("float32"), (x[:, :1] + size).astype("float32")


def dense_model(name="first"):
    layers = [keras.layers.Dense(4, "tanh", name=name), keras.layers.Dense(1)]
    return keras.Sequential([keras.Input([3]), *layers])


def right():
    model = dense_model()
    model.compile("sgd", "mse")
    return distloss.prepare(model), rows()


def scalar_loss():
    model = dense_model()
    model.compile("sgd", lambda y, y_pred: keras.ops.mean((y - y_pred) ** 2))
    return model, rows()


def scalar_loss_and_clipping():
    model = dense_model()
    optimizer = keras.optimizers.SGD(global_clipnorm=0.1)
    model.compile(optimizer, lambda y, y_pred: keras.ops.mean((y - y_pred) ** 2))
    return model, rows()


def small_bug_in_bfloat16():
    """The loss of output b is N times too large, and counts a hundredth."""
    keras.config.set_dtype_policy("mixed_bfloat16")
    x = keras.Input([3])
    hidden = keras.layers.Dense(4, "tanh")(x)
    heads = {n: keras.layers.Dense(1, dtype="float32", name=n)(hidden) for n in "ab"}
    model = keras.Model(x, heads)
    model.compile(
        "sgd",
        {
            "a": distloss.DistributedLoss("mse"),
            "b": lambda y, y_pred: keras.ops.mean((y - y_pred) ** 2),
        },
        loss_weights={"a": 1.0, "b": 0.01},
    )
    inputs, y = rows()
    return model, (inputs, {"a": y, "b": y})


class Averaging:
    """A custom loop whose weights are changed by hand: no Keras optimizer."""

    def __init__(self):
        self.model = dense_model()
        self.trainable_variables = self.model.trainable_variables

    def train_step(self, batch):
        x, y = batch
        with tf.GradientTape() as tape:
            losses = tf.reduce_sum((self.model(x) - y) ** 2, -1)
            loss = distloss.mean_share(losses)
        gradients = tape.gradient(loss, self.trainable_variables)
        gradients = distloss.StrategyReplicas().sum_gradients(gradients)
        for gradient, variable in zip(gradients, self.trainable_variables, strict=True):
            variable.assign_sub(0.1 * gradient)
        return loss


def without_optimizer():
    return Averaging(), rows()


def random_step():
    class Noisy(Averaging):
        def train_step(self, batch):
            noise = tf.py_function(np.random.default_rng().normal, [], tf.float32)
            noise.set_shape([])
            return super().train_step((batch[0] + noise, batch[1]))

    return Noisy(), rows()


def raises():
    raise KeyError("weights/of/yesterday.h5")


def hangs():
    time.sleep(1000)


def hangs_busily():
    while True:
        pass


def wrong_type():
    return {"model": dense_model()}


def not_compiled():
    return dense_model(), rows()


def no_step():
    return object(), rows()


def wrong_batch():
    return right()[0], "a batch"


def ragged_batch():
    x, y = rows()
    return right()[0], (x, y[:-1])


def few_rows():
    return right()[0], rows(3)


def prints_rubbish():
    print("\x00{}\n\x1b[2J" * 100, flush=True)
    os.write(1, b"\xff\xfe" * 1000)
    sys.stderr.write("}\n")
    return right()


def exits():
    sys.exit("no data set")


def kills_itself():
    os.kill(os.getpid(), signal.SIGKILL)


def leaves_quietly():
    os._exit(0)


def starts_others():
    import subprocess

    subprocess.Popen([sys.executable, "-c", "import time; time.sleep(1000)  # orphan"])
    time.sleep(1000)


def changes_policy():
    keras.config.set_dtype_policy("bfloat16")
    keras.config.set_floatx("float64")
    return right()


class StepThatRaises(Averaging):
    def train_step(self, batch):
        raise ZeroDivisionError("in the step")


def step_raises():
    return StepThatRaises(), rows()


class NeedsRows(Averaging):
    def train_step(self, batch):
        tf.debugging.assert_greater_equal(tf.shape(batch[0])[0], 16, "needs 16 rows")
        return super().train_step(batch)


def step_needs_rows():
    return NeedsRows(), rows()


def no_update():
    class Idle(Averaging):
        def train_step(self, batch):
            return tf.reduce_sum(batch[0])

    return Idle(), rows()
