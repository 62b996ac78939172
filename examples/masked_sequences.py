"""The mean over tokens of sentences of unequal length, with masked padding.

The text, `data/gettysburg.txt`, is in the public domain: the Gettysburg Address (1863),
then the Preamble to the Constitution (1787) and one sentence of the Declaration of
Independence (1776) of the United States. One sentence per line, 12 in all.

A tiny model predicts each next word. Sorted by length, as bucketing does it, the three
longest sentences land on the first replica and the three shortest on the last. Plain
Keras takes the mean over the tokens of each replica and then the mean of these means: a
token of a short sentence counts many times as much as one of a long sentence.

Printed for each run of five steps: the loss that `fit` shows, and the largest
difference in any weight from one device.
"""

import pathlib
import re

import keras
import numpy as np
import tensorflow as tf
from _replicas import REPLICAS, four_replicas

from distloss import DistributedLoss

TEXT = pathlib.Path(__file__).parent / "data" / "gettysburg.txt"
STEPS = 5


def sentences():
    """Word numbers of each sentence, the longest first, padded with 0 at the end."""
    lines = TEXT.read_text(encoding="utf-8").lower().splitlines()
    words = sorted((re.findall(r"[a-z]+", line) for line in lines), key=len)[::-1]
    vocabulary = sorted({word for line in words for word in line})
    number = {word: index for index, word in enumerate(vocabulary, start=1)}
    table = np.zeros([len(words), len(words[0])], "int32")
    for row, line in zip(table, words, strict=True):
        row[: len(line)] = [number[word] for word in line]
    return table, len(vocabulary) + 1


def fitted(strategy, loss):
    """The loss that `fit` shows, and the weights after STEPS steps."""
    table, words = sentences()
    keras.utils.set_random_seed(1)  # the same initial weights in each run
    with strategy.scope():
        model = keras.Sequential(
            [
                keras.Input([None], dtype="int32"),
                # The mask travels with the activations to the loss.
                keras.layers.Embedding(words, 8, mask_zero=True),
                keras.layers.Dense(words, "softmax", use_bias=False),
            ]
        )
        model.compile(optimizer=keras.optimizers.SGD(5.0), loss=loss)
    # The last word of a sentence has nothing to predict; its target is padding.
    inputs = np.where(table[:, 1:] > 0, table[:, :-1], 0)
    batch = tf.data.Dataset.from_tensor_slices((inputs, table[:, 1:])).batch(len(table))
    history = model.fit(batch.repeat(STEPS), shuffle=False, verbose=0)
    return history.history["loss"][0], model.get_weights()


def main():
    four = four_replicas()  # first: it configures the devices
    lengths = (sentences()[0][:, 1:] > 0).sum(axis=1)
    tokens = lengths.reshape(REPLICAS, -1).sum(axis=1)
    print(f"{tokens.sum()} tokens to predict, dealt to replicas as {tokens.tolist()}\n")

    name = "sparse_categorical_crossentropy"
    runs = {
        "one device, plain Keras": fitted(tf.distribute.get_strategy(), name),
        "4 replicas, plain Keras": fitted(four, name),
        "4 replicas, DistributedLoss": fitted(four, DistributedLoss(name)),
    }
    wanted_loss, wanted = runs["one device, plain Keras"]
    print(f"{'':28}{'loss':>10}{'weights off':>13}")
    off = {}
    for name, (loss, weights) in runs.items():
        pairs = zip(weights, wanted, strict=True)
        off[name] = max(np.abs(weight - other).max() for weight, other in pairs)
        print(f"{name:28}{loss:10.5f}{off[name]:13.1e}")

    if off["4 replicas, plain Keras"] < 1e-2:
        raise SystemExit("plain Keras was expected to differ from one device")
    if off["4 replicas, DistributedLoss"] > 1e-5:
        raise SystemExit("DistributedLoss gave other weights than one device")
    if not np.isclose(runs["4 replicas, DistributedLoss"][0], wanted_loss, rtol=1e-5):
        raise SystemExit("DistributedLoss shows another loss than one device")


if __name__ == "__main__":
    main()
