"""The main job: the same model on 1 and on 4 replicas, right and wrong.

Trains a classifier of scikit-learn's handwritten digits, with unequal sample weights
and batch sizes that leave a short last batch. Prints one table, writes one picture.
"""

import argparse
import dataclasses
import pathlib
from collections.abc import Callable

import keras
import matplotlib as mpl
import numpy as np
import rich.box
import tensorflow as tf
from _virtual import configure, strategy_of
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.table import Table
from sklearn.datasets import load_digits

from distloss import DistributedLoss

mpl.use("Agg")
import matplotlib.pyplot as plt

REPLICAS = 4
BATCH_SIZES = (64, 100)  # 1,438 rows leave 30 and 38 for the last batch
EPOCHS = 3
CURVE_STEPS = 60
AGREES = 1e-5  # relative, float32
RED, ORANGE, GREEN, GREY = "#c1272d", "#e08214", "#1b7837", "#888888"


@dataclasses.dataclass(frozen=True)
class Digits:
    """Scans `[rows, 64]` in 0..1, digits `[rows]`, weights `[rows]`."""

    x: np.ndarray
    y: np.ndarray
    weight: np.ndarray


def digits():
    """Training and test rows; an 8 or a 9 weighs ten times as much as the others."""
    x, y = load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(x))
    x, y = (x[order] / 16).astype("float32"), y[order]
    weight = np.where(y >= 8, 10.0, 1.0).astype("float32")
    test = len(x) // 5
    return Digits(x[test:], y[test:], weight[test:]), Digits(
        x[:test], y[:test], weight[:test]
    )


def classifier():
    """The same initial weights each time."""
    keras.utils.set_random_seed(1)
    layers = [keras.layers.Dense(32, "relu"), keras.layers.Dense(10, "softmax")]
    return keras.Sequential([keras.Input((64,)), *layers])


def plain_loss():
    """What Keras would use; on one device it is right."""
    return keras.losses.SparseCategoricalCrossentropy(
        reduction="mean_with_sample_weight"
    )


# --- the table: Keras' fit ---------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Result:
    """One fit: the weights, the last epoch's loss, the accuracy on test rows."""

    weights: list
    loss: float
    accuracy: float


def fitted(strategy, loss, batch_size, train, test):
    """The Result of `fit` under `strategy`."""
    with strategy.scope():
        model = classifier()
        model.compile(keras.optimizers.SGD(0.2, momentum=0.9), loss)
    history = model.fit(
        train.x,
        train.y,
        batch_size,
        sample_weight=train.weight,
        epochs=EPOCHS,
        shuffle=False,
        verbose=0,
    )
    accuracy = float((model(test.x).numpy().argmax(-1) == test.y).mean())
    return Result(model.get_weights(), history.history["loss"][-1], accuracy)


def largest_difference(weights, wanted):
    """The largest difference, relative to the largest weight of its variable."""
    pairs = zip(weights, wanted, strict=True)
    return max(float(np.abs(a - b).max() / np.abs(b).max()) for a, b in pairs)


def fit_everything(strategies, train, test, advance):
    """Rows of the table: (batch size, loss, replicas, Result, difference)."""
    rows = []
    for batch_size in BATCH_SIZES:
        standard = None
        for name, wrap in (
            ("plain Keras", lambda loss: loss),
            ("DistributedLoss", DistributedLoss),
        ):
            for replicas, strategy in strategies.items():
                loss = wrap(plain_loss())
                result = fitted(strategy, loss, batch_size, train, test)
                standard = standard or result
                difference = largest_difference(result.weights, standard.weights)
                rows.append((batch_size, name, replicas, result, difference))
                advance()
    return rows


def table(rows, train_rows):
    """The rows of `fit_everything`, right ones green and wrong ones red."""
    shown = Table(
        title=f"Digits, {EPOCHS} epochs, compared with plain Keras on 1 replica",
        caption="batch: rows (of the last batch); weights: largest relative difference",
        box=rich.box.SIMPLE_HEAD,
    )
    for column in (
        "batch",
        "loss",
        "replicas",
        "weights",
        "reported",
        "accuracy",
    ):
        shown.add_column(column, justify="right", no_wrap=True)
    for batch_size, name, replicas, result, difference in rows:
        right = difference < AGREES
        shown.add_row(
            f"{batch_size} ({train_rows % batch_size})",
            name,
            str(replicas),
            f"{'same' if right else 'WRONG'} {difference:.0e}",
            f"{result.loss:.4f}",
            f"{result.accuracy:.1%}",
            style="green" if right else "red",
            end_section=name == "DistributedLoss" and replicas == REPLICAS,
        )
    return shown


# --- the picture: a loop of one's own -----------------------------------------------


def local_mean(y_true, y_pred, weight):
    """The common bug: the mean of this replica's rows; gradients are then summed."""
    values = keras.losses.sparse_categorical_crossentropy(y_true, y_pred)
    return tf.reduce_sum(values * weight) / tf.reduce_sum(weight)


def mean_of_means(y_true, y_pred, weight):
    """The common cure: divide by the number of replicas."""
    return local_mean(y_true, y_pred, weight) / REPLICAS


@dataclasses.dataclass(frozen=True)
class Curve:
    """One way to scale the loss, and how its line looks."""

    label: str
    colour: str
    style: dict
    replicas: int
    loss: Callable


LINE, BROAD, DASHED = {"lw": 1.5}, {"lw": 6, "alpha": 0.5}, {"lw": 2, "ls": "--"}
CURVES = (
    Curve("1 device", GREY, BROAD, 1, plain_loss()),
    Curve("4 replicas, local means summed", RED, LINE, REPLICAS, local_mean),
    Curve("4 replicas, mean of means", ORANGE, LINE, REPLICAS, mean_of_means),
    Curve(
        "4 replicas, DistributedLoss",
        GREEN,
        DASHED,
        REPLICAS,
        DistributedLoss(plain_loss()),
    ),
)


def short_batch_first(train, batch_size):
    """Batches without end, the first one short."""
    rows = tf.data.Dataset.from_tensor_slices((train.x, train.y, train.weight))
    short = len(train.x) % batch_size
    first = rows.take(short).batch(batch_size)
    return first.concatenate(rows.skip(short).repeat().batch(batch_size))


def loop(strategy, curve, train, batch_size, advance):
    """The first step's gradient, and the loss on all rows after each step."""
    with strategy.scope():
        model = classifier()
        optimizer = keras.optimizers.SGD(0.4)
        optimizer.build(model.trainable_variables)

    def replica_step(x, y, weight):
        with tf.GradientTape() as tape:
            loss = curve.loss(y, model(x), weight)
        gradients = tape.gradient(loss, model.trainable_variables)
        # a Keras optimizer sums the gradients of all replicas
        optimizer.apply_gradients(
            zip(gradients, model.trainable_variables, strict=True)
        )
        flat = [tf.reshape(gradient, [-1]) for gradient in gradients]
        return tf.concat(flat, 0)

    @tf.function(reduce_retracing=True)
    def step(batch):
        return strategy.reduce("SUM", strategy.run(replica_step, batch), axis=None)

    batches = strategy.experimental_distribute_dataset(
        short_batch_first(train, batch_size)
    )
    gradients, losses = [], []
    for _, batch in zip(range(CURVE_STEPS), batches, strict=False):
        gradients.append(step(batch).numpy())
        losses.append(float(plain_loss()(train.y, model(train.x), train.weight)))
        advance()
    return gradients[0], losses


def picture(results, short, path):
    """Draw what scaling does to the gradient and to training."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4.2), layout="constrained")
    one_device = results[0][0]
    for curve, (gradient, losses) in zip(CURVES, results, strict=True):
        right.plot(losses, color=curve.colour, label=curve.label, **curve.style)
        if curve.replicas > 1:
            alpha = gradient @ one_device / (one_device @ one_device)
            off = np.linalg.norm(gradient - alpha * one_device)
            rho = off / np.linalg.norm(gradient)
            name = curve.label.removeprefix("4 replicas, ")
            label = f"{name}: {alpha:.2f} times, {rho:.0%} off"
            left.plot(one_device, gradient, ".", ms=3, color=curve.colour, label=label)
    limit = np.abs(one_device).max()
    left.plot([-limit, limit], [-limit, limit], color=GREY, lw=1, zorder=0)
    left.set(
        title=f"The gradient of a short batch, {short} rows",
        xlabel="each component on 1 device",
        ylabel="the same on 4 replicas",
    )
    right.set(
        title="Training, the same learning rate",
        xlabel="step",
        ylabel="loss on all rows",
        ylim=(0, 1.3 * results[0][1][0]),
    )
    left.legend(markerscale=4, fontsize=8)
    right.legend(fontsize=8)
    for axis in (left, right):
        axis.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=90)
    plt.close(figure)


def main(arguments=None):
    """Exit code 1 if a DistributedLoss did not train as one device does."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--picture", type=pathlib.Path, default="demo.png")
    options = parser.parse_args(arguments)
    console = Console()
    configure(REPLICAS)
    strategies = {count: strategy_of(count) for count in (1, REPLICAS)}
    train, test = digits()
    bar = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        console=console,
    )
    with bar:
        fits = bar.add_task("fit", total=4 * len(BATCH_SIZES))
        steps = bar.add_task("custom loop", total=CURVE_STEPS * len(CURVES))
        rows = fit_everything(strategies, train, test, lambda: bar.advance(fits))
        results = [
            loop(
                strategies[c.replicas],
                c,
                train,
                BATCH_SIZES[0],
                lambda: bar.advance(steps),
            )
            for c in CURVES
        ]
    console.print(table(rows, len(train.x)))
    picture(results, len(train.x) % BATCH_SIZES[0], options.picture)
    console.print(f"picture: {options.picture}")
    broken = [row for row in rows if row[1] == "DistributedLoss" and row[4] >= AGREES]
    return 1 if broken else 0


if __name__ == "__main__":
    raise SystemExit(main())
