"""A batch too large for memory, in eight parts: the same update in a fraction of it.

A small convolutional network on 1,024 scanned digits, enlarged to 24 x 24 pixels, keeps
the activations of all rows until gradients are taken. `prepare(model, microbatches=8)`
keeps those of one part, and sums gradients over the parts.

Printed: by how much the process grows while it trains (Linux only, from /proc), and the
largest difference in any weight between the two.
"""

import pathlib

import keras
import numpy as np
from sklearn.datasets import load_digits

from distloss import prepare

ROWS, PARTS = 1024, 8


def digits():
    pixels, labels = load_digits(return_X_y=True)
    images = (pixels[:ROWS] / 16).astype("float32").reshape(-1, 8, 8, 1)
    return np.kron(images, np.ones([1, 3, 3, 1], "float32")), labels[:ROWS]


def network():
    keras.utils.set_random_seed(1)
    convolutions = [
        keras.layers.Conv2D(16, 3, padding="same", activation="relu") for _ in range(8)
    ]
    pooled = [keras.layers.GlobalAveragePooling2D(), keras.layers.Dense(10)]
    model = keras.Sequential([keras.Input([24, 24, 1]), *convolutions, *pooled])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.SGD(0.1), loss)
    return model


def resident(kind):
    """Memory of this process in MiB: "VmRSS" now, "VmHWM" at its peak."""
    lines = pathlib.Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(kind)) / 1024


def trained(parts):
    """By how many MiB memory grew, and the weights, after one batch."""
    images, labels = digits()
    model = prepare(network(), microbatches=parts)
    model.fit(images[:PARTS], labels[:PARTS], verbose=0)  # traces the step
    pathlib.Path("/proc/self/clear_refs").write_text("5")  # the peak begins here
    before = resident("VmRSS")
    model.fit(images, labels, batch_size=ROWS, shuffle=False, verbose=0)
    return resident("VmHWM") - before, model.get_weights()


def main():
    in_parts, weights = trained(PARTS)
    whole, wanted = trained(1)
    pairs = zip(weights, wanted, strict=True)
    off = max(np.abs(weight - other).max() for weight, other in pairs)
    print(f"microbatches=1: {whole:6.0f} MiB")
    print(
        f"microbatches={PARTS}: {in_parts:6.0f} MiB, {whole / in_parts:.1f} times less"
    )
    print(f"largest difference in a weight: {off:.1e}")
    if in_parts * 3 > whole:
        raise SystemExit("a third of the memory was expected to do")
    if off > 1e-5:
        raise SystemExit("the same update was expected")


if __name__ == "__main__":
    main()
