"""A custom training loop whose loss, metric and weights do not depend on the replicas.

The step of 45 digits in batches of 16 (the last has 13 rows, dealt 4, 4, 4 and 1) uses:

- `DistributedLoss` for what is a mean over rows,
- `regularization_share` for what is the same on every replica,
- `GlobalMean` for a number to watch, read outside `strategy.run`.

Printed for each epoch: loss and metric on one device, by plain Keras and NumPy's rules,
and on four replicas; at the end, the largest difference in any weight.
"""

import keras
import numpy as np
import tensorflow as tf
from _replicas import four_replicas
from sklearn.datasets import load_digits

from distloss import DistributedLoss, GlobalMean, regularization_share

ROWS, BATCH_SIZE, EPOCHS = 45, 16, 2


def batches():
    pixels, labels = load_digits(return_X_y=True)
    pixels, labels = (pixels[:ROWS] / 16).astype("float32"), labels[:ROWS]
    return tf.data.Dataset.from_tensor_slices((pixels, labels)).batch(BATCH_SIZE)


def new_model():
    keras.utils.set_random_seed(1)  # the same initial weights in each run
    penalty = keras.regularizers.L2(0.01)
    return keras.Sequential(
        [keras.Input([64]), keras.layers.Dense(10, kernel_regularizer=penalty)]
    )


def cross_entropy():
    return keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def is_right(labels, logits):
    right = tf.equal(tf.argmax(logits, -1), tf.cast(labels, tf.int64))
    return tf.cast(right, tf.float32)


def trained_on_replicas(strategy):
    """Loss and accuracy of each epoch, and the weights after the last."""
    with strategy.scope():
        model, optimizer = new_model(), keras.optimizers.SGD(0.5)
        loss, accuracy = DistributedLoss(cross_entropy()), GlobalMean("accuracy")
        optimizer.build(model.trainable_variables)

    def replica_step(pixels, labels):
        with tf.GradientTape() as tape:
            logits = model(pixels, training=True)
            # before the loss: replicas take turns there, and share the list of losses
            penalty = regularization_share(model.losses)
            value = loss(labels, logits) + penalty
        gradients = tape.gradient(value, model.trainable_variables)
        # Inside strategy.run, Keras optimizers sum the gradients over replicas.
        optimizer.apply_gradients(
            zip(gradients, model.trainable_variables, strict=True)
        )
        accuracy.update_state(is_right(labels, logits))
        return value

    @tf.function
    def step(pixels, labels):
        value = strategy.run(replica_step, (pixels, labels))
        # Each replica returns a part; their sum is the loss of the whole batch.
        return strategy.reduce("SUM", value, axis=None)

    dataset = strategy.experimental_distribute_dataset(batches())
    seen = []
    for _ in range(EPOCHS):
        accuracy.reset_state()
        losses = [float(step(*batch)) for batch in dataset]
        # Read here, in nobody's replica: the mean over all rows of all replicas.
        seen.append((np.mean(losses), float(accuracy.result())))
    return np.array(seen), model.get_weights()


def trained_on_one_device():
    """The same without distloss: what the four replicas have to reproduce."""
    model, optimizer, loss = new_model(), keras.optimizers.SGD(0.5), cross_entropy()
    seen = []
    for _ in range(EPOCHS):
        losses, rights = [], []
        for pixels, labels in batches():
            with tf.GradientTape() as tape:
                logits = model(pixels, training=True)
                value = loss(labels, logits) + sum(model.losses)
            optimizer.apply(
                tape.gradient(value, model.trainable_variables),
                model.trainable_variables,
            )
            losses.append(float(value))
            rights.extend(is_right(labels, logits).numpy())
        seen.append((np.mean(losses), np.mean(rights)))
    return np.array(seen), model.get_weights()


def main():
    strategy = four_replicas()  # first: it configures the devices
    wanted, wanted_weights = trained_on_one_device()
    seen, weights = trained_on_replicas(strategy)

    print(f"{'':8}{'one device':>20}{'4 replicas':>22}")
    print(f"{'epoch':8}{'loss':>10}{'accuracy':>10}{'loss':>12}{'accuracy':>10}")
    for epoch in range(EPOCHS):
        (loss, accuracy), (loss4, accuracy4) = wanted[epoch], seen[epoch]
        print(
            f"{epoch + 1:<8}{loss:10.5f}{accuracy:10.4f}{loss4:12.5f}{accuracy4:10.4f}"
        )
    pairs = zip(weights, wanted_weights, strict=True)
    off = max(np.abs(weight - other).max() for weight, other in pairs)
    print(f"\nlargest difference in any weight: {off:.1e}")

    if not np.allclose(seen, wanted, rtol=1e-5):
        raise SystemExit("loss or accuracy on replicas differ from one device")
    if off > 1e-5:
        raise SystemExit("weights on replicas differ from one device")


if __name__ == "__main__":
    main()
