"""Files that an earlier arrangement of our modules wrote: each loads and trains on.

They lie in saved/, written by `save` below when each of our modules was a file of the
package itself, and Horovod's replicas in one whose address is gone. What is expected is
plain Keras that trained on the same rows from the start, on one device.
"""

import importlib
import json
import pathlib
import zipfile

import keras
import numpy as np
import pytest
import tensorflow as tf
from conftest import strategy_of

from distloss import DistributedLoss, DistributedOptimizer, HorovodReplicas

SAVED = pathlib.Path(__file__).parent / "saved"
RNG = np.random.default_rng(11)
X = RNG.normal(size=(24, 3)).astype("float32")
Y = RNG.normal(size=(24, 2)).astype("float32")
WEIGHT = RNG.uniform(0.5, 2.0, size=24).astype("float32")
START = [np.float32([[0.5, -1], [0.25, 1], [-0.5, 0.75]]), np.float32([0.1, -0.2])]
REDUCTION = "mean_with_sample_weight"
BATCHES = [slice(0, 7), slice(7, 12), slice(12, 20), slice(20, 24)]  # of unequal size
BEFORE = 2  # batches that were trained on before the file was written


def model_of(optimizer, loss):
    layers = [keras.Input((3,)), keras.layers.Dense(2, name="dense")]
    model = keras.Sequential(layers, name="saved")
    model.set_weights(START)
    model.compile(optimizer, loss)
    return model


def rule():
    return keras.optimizers.Adam(0.125, clipnorm=0.5)


def train(model, batches):
    for rows in batches:
        model.train_on_batch(X[rows], Y[rows], sample_weight=WEIGHT[rows])
    return model.get_weights()


def our_loss():
    return DistributedLoss("mse", reduction=REDUCTION)


def step(model, optimizer, loss, rows):
    with tf.GradientTape() as tape:
        value = loss(Y[rows], model(X[rows]), sample_weight=WEIGHT[rows])
    optimizer.apply(tape.gradient(value, model.trainable_variables))


def checkpoint(**options):
    """A model, what steps it, and both as a checkpoint."""
    model, loss = model_of(None, None), our_loss()
    inner = keras.optimizers.SGD(0.25, momentum=0.5)
    if options:
        options["loss"] = loss
    optimizer = DistributedOptimizer(inner, **options)
    optimizer.build(model.trainable_variables)
    return model, optimizer, loss, tf.train.Checkpoint(model=model, optimizer=optimizer)


def save(folder=SAVED):
    """Writes the files; called with the code before."""
    folder.mkdir(exist_ok=True)
    model = model_of(DistributedOptimizer(rule()), our_loss())
    train(model, BATCHES[:BEFORE])
    model.save(folder / "model.keras")
    for name, options in CHECKPOINTS.items():
        model, optimizer, loss, both = checkpoint(**options)
        for rows in BATCHES[:BEFORE]:
            step(model, optimizer, loss, rows)
        both.write(str(folder / name))
    replicas = HorovodReplicas(compression="fp16")
    loss = keras.losses.serialize(DistributedLoss("mae", replicas=replicas))
    (folder / "loss.json").write_text(json.dumps(loss))


# The second of those that accumulate is older: it does not count which variables the
# batches of the window have reached, so that it can only be read in part.
CHECKPOINTS = {
    "optimizer": {},
    "accumulating": {"accumulation_steps": 3},
    "accumulating_uncounted": {"accumulation_steps": 3},
}


def of_plain_keras(groups):
    """Plain Keras after one update of each group of batches, with SGD."""
    model = model_of(keras.optimizers.SGD(0.25, momentum=0.5), "mse")
    model.optimizer.build(model.trainable_variables)
    for group in groups:
        rows = np.concatenate([np.arange(24)[batch] for batch in group])
        with tf.GradientTape() as tape:
            of_rows = tf.reduce_mean((Y[rows] - model(X[rows])) ** 2, -1)
            value = tf.reduce_sum(of_rows * WEIGHT[rows]) / WEIGHT[rows].sum()
        model.optimizer.apply(tape.gradient(value, model.trainable_variables))
    return model.get_weights()


def assert_same(found, wanted):
    for one, other in zip(found, wanted, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)


def plain_fit():
    loss = keras.losses.MeanSquaredError(
        **({"reduction": REDUCTION} if keras.__version__ >= "3.7" else {})
    )
    return train(model_of(rule(), loss), BATCHES)


@pytest.mark.parametrize("kind", ["none", "mirrored"])
def test_a_model_that_was_saved_before_trains_on(kind):
    with strategy_of(kind).scope():
        model = keras.models.load_model(SAVED / "model.keras")
    assert isinstance(model.loss, DistributedLoss)
    assert isinstance(model.optimizer, DistributedOptimizer)
    assert_same(train(model, BATCHES[BEFORE:]), plain_fit())


@pytest.mark.parametrize("name", CHECKPOINTS)
def test_a_checkpoint_that_was_written_before_trains_on(name):
    model, optimizer, loss, both = checkpoint(**CHECKPOINTS[name])
    status = both.read(str(SAVED / name))
    status.expect_partial() if "uncounted" in name else status.assert_consumed()
    for rows in BATCHES[BEFORE : BEFORE + 1]:
        step(model, optimizer, loss, rows)
    groups = [BATCHES[:3]] if CHECKPOINTS[name] else [[b] for b in BATCHES[:3]]
    assert_same(model.get_weights(), of_plain_keras(groups))


def test_a_loss_that_names_horovod_is_found():
    loss = keras.losses.deserialize(json.loads((SAVED / "loss.json").read_text()))
    assert isinstance(loss, DistributedLoss)
    replicas = loss.get_config()["replicas"]
    assert replicas["registered_name"] == "distloss>HorovodReplicas"
    assert replicas["config"]["compression"] == "fp16"


def addresses(config):
    """The module and class of each object of ours in a saved config."""
    if isinstance(config, dict):
        if str(config.get("module", "")).startswith("distloss"):
            yield config["module"], config["class_name"], config["registered_name"]
        config = list(config.values())
    if isinstance(config, list):
        for value in config:
            yield from addresses(value)


def test_the_addresses_in_the_file_lead_to_the_classes(tmp_path):
    """And what is saved today has the same addresses."""
    with zipfile.ZipFile(SAVED / "model.keras") as saved:
        before = set(addresses(json.loads(saved.read("config.json"))))
    assert ("distloss.losses", "DistributedLoss", "distloss>DistributedLoss") in before
    for module, _, registered in before:
        found = keras.saving.get_registered_object(registered)
        name = registered.partition(">")[2]
        assert issubclass(found, getattr(importlib.import_module(module), name))
    model = model_of(DistributedOptimizer(rule()), our_loss())
    model.save(tmp_path / "model.keras")
    with zipfile.ZipFile(tmp_path / "model.keras") as saved:
        assert set(addresses(json.loads(saved.read("config.json")))) == before
