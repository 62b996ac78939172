"""What StepSummary writes for TensorBoard, against one device and NumPy."""

import collections

import keras
import numpy as np
import pytest
import tensorflow as tf
from conftest import strategy_of

from distloss import DistlossError, GlobalMean, prepare
from distloss.callbacks import StepSummary

ROWS, SIZE = 27, 8
random = np.random.default_rng(2)
X = (random.normal(size=[ROWS, 3]) * np.linspace(0.5, 2, ROWS)[:, None]).astype(
    "float32"
)
Y = X.sum(-1, keepdims=True) + 1
WEIGHTS = random.uniform(0.5, 5, ROWS).astype("float32")
DENOMINATORS = [WEIGHTS[i : i + SIZE].sum() for i in range(0, ROWS, SIZE)]


class ErrorOfRows(keras.metrics.Metric):
    """GlobalMean of absolute errors."""

    def __init__(self):
        super().__init__(name="error")
        self.mean = GlobalMean()

    def update_state(self, y_true, y_pred, sample_weight=None):
        self.mean.update_state(tf.abs(y_true - y_pred)[:, 0], sample_weight)

    def result(self):
        return self.mean.result()


def compiled(strategy, optimizer):
    with strategy.scope():
        keras.utils.set_random_seed(3)
        model = keras.Sequential([keras.Input([3]), keras.layers.Dense(1)])
        loss = keras.losses.MeanSquaredError(reduction="mean_with_sample_weight")
        model.compile(optimizer(), loss, weighted_metrics=[ErrorOfRows()])
    return model


def fitted(model, x, callbacks=()):
    options = {"shuffle": False, "verbose": 0, "callbacks": list(callbacks)}
    return model.fit(x, Y, SIZE, 1, sample_weight=WEIGHTS, **options).history


def events(folder):
    """Tag -> [(step, number), ...] of all event files."""
    found = collections.defaultdict(list)
    for path in folder.rglob("events.*"):
        for event in tf.compat.v1.train.summary_iterator(str(path)):
            for value in event.summary.value:
                array = tf.make_ndarray(value.tensor)
                if array.dtype.kind == "f":  # Keras writes the model as well
                    found[value.tag].append((event.step, float(array)))
    return found


def norms_on_one_device():
    """Of each step's gradient, in NumPy."""
    model = compiled(strategy_of("none"), lambda: keras.optimizers.SGD(0.05))
    kernel, bias = (w.astype("float64") for w in model.get_weights())
    norms = []
    for start in range(0, ROWS, SIZE):
        x, y, w = (a[start : start + SIZE].astype("float64") for a in (X, Y, WEIGHTS))
        error = w[:, None] * 2 * (x @ kernel + bias - y) / w.sum()
        gradients = x.T @ error, error.sum(0)
        norms.append(np.sqrt(sum((g**2).sum() for g in gradients)))
        kernel, bias = kernel - 0.05 * gradients[0], bias - 0.05 * gradients[1]
    return norms


@pytest.mark.parametrize("options", [{}, {"microbatches": 2}])
@pytest.mark.slow
def test_a_summary_is_of_the_whole_batch(options, tmp_path):
    def sgd():
        return keras.optimizers.SGD(0.05)

    model = prepare(compiled(strategy_of("mirrored"), sgd), **options)
    board = keras.callbacks.TensorBoard(tmp_path / "keras")
    fitted(model, X, [StepSummary(tmp_path / "ours"), board])
    found = events(tmp_path)
    steps = [1, 2, 3, 4]
    for tag, wanted in {
        "distloss/denominator/mean_squared_error": DENOMINATORS,
        "distloss/gradient_norm": norms_on_one_device(),
        "distloss/skipped_steps": [0, 0, 0, 0],
    }.items():
        assert [step for step, _ in found[tag]] == steps
        np.testing.assert_allclose([x for _, x in found[tag]], wanted, rtol=1e-5)

    history = fitted(compiled(strategy_of("none"), sgd), X)
    for name in ("loss", "error"):
        np.testing.assert_allclose(found[f"epoch_{name}"][0][1], history[name][0], 1e-5)


@pytest.mark.slow
def test_skipped_steps_are_counted(tmp_path):
    def scaled():
        return keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(0.05), 2.0**10)

    model = prepare(compiled(strategy_of("mirrored"), scaled))
    x = X.copy()
    x[SIZE + 7] = np.inf  # of the last replica, in the second batch
    fitted(model, x, [StepSummary(tmp_path, every=1)])
    found = events(tmp_path)
    assert found["distloss/skipped_steps"][-1][1] == 1
    norm = found["distloss/gradient_norm"][0][1]
    np.testing.assert_allclose(norm, norms_on_one_device()[0], rtol=1e-5)


def test_what_cannot_be_written_is_refused(tmp_path):
    with pytest.raises(DistlossError, match="at least 1 batch"):
        StepSummary(tmp_path, every=0)
    model = compiled(strategy_of("none"), keras.optimizers.SGD)
    with pytest.raises(DistlossError, match=r"Call distloss.prepare\(model\)"):
        fitted(model, X, [StepSummary(tmp_path)])
