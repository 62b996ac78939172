"""One device against four replicas, for the examples with a train_step of their own.

Each of them trains two epochs. The first has three batches of 16 rows, dealt 4, 4, 4
and 4. The second ends with a batch of 5 rows, dealt 2, 2, 1 and 0: one replica
gets none, as it may happen at the end of any epoch.
"""

import keras
import numpy as np
import tensorflow as tf
from _replicas import four_replicas

from distloss import prepare

EPOCHS, BATCH_SIZE = {"full batches": 48, "and a short one": 53}, 16
ROWS = 53


def compare(build, rows):
    """Trains on one device and on four replicas, prints how they differ, and checks.

    Args:
      build: takes a function to prepare the model with, returns the compiled model.
      rows: arrays of ROWS rows each: what the data set holds.
    """
    four = four_replicas()  # first: it configures the devices
    one = tf.distribute.get_strategy()
    runs = {
        "one device, plain Keras": trained(build, rows, one, leave_as_it_is),
        "4 replicas, plain Keras": trained(build, rows, four, leave_as_it_is),
        "4 replicas, prepared": trained(build, rows, four, prepare),
    }
    wanted, plain, prepared = runs.values()
    print_table(runs)
    if not (off(plain[0], wanted[0]) > 1e-2 and not off(plain[1], wanted[1]) < 1e-2):
        raise SystemExit("plain Keras was expected to train other weights")
    for got, expected in zip(prepared, wanted, strict=True):
        if not off(got, expected) < 1e-5:
            raise SystemExit("prepared replicas trained other weights than one device")
        for name, number in expected[0].items():
            if not np.isclose(got[0][name], number, rtol=1e-5):
                raise SystemExit(f"prepared replicas report another {name}")


def trained(build, rows, strategy, prepare_model):
    """What `fit` reports, and the weights, after each epoch."""
    keras.utils.set_random_seed(1)  # the same initial weights in each run
    with strategy.scope():
        model = build(prepare_model)
    after = []
    for count in EPOCHS.values():
        first = tuple(array[:count] for array in rows)
        batches = tf.data.Dataset.from_tensor_slices(first).batch(BATCH_SIZE)
        history = model.fit(batches, shuffle=False, verbose=0).history
        numbers = {name: values[0] for name, values in history.items()}
        after.append((numbers, model.get_weights()))
    return after


def leave_as_it_is(model):
    return model


def off(got, wanted):
    """The largest difference of weights, relative to the largest of their variable."""
    pairs = zip(got[1], wanted[1], strict=True)
    # not max(), which may leave out a NaN
    return np.max([np.abs(a - b).max() / max(np.abs(b).max(), 1e-3) for a, b in pairs])


def print_table(runs):
    wanted = runs["one device, plain Keras"]
    for index, title in enumerate(EPOCHS):
        names = list(wanted[index][0])
        columns = "".join(f"{name:>14}" for name in names)
        print(f"{title:25}{columns}{'weights off':>13}")
        for name, after in runs.items():
            numbers = "".join(f"{after[index][0][number]:14.5f}" for number in names)
            print(f"  {name:23}{numbers}{off(after[index], wanted[index]):13.1e}")
