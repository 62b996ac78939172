"""Retrieval with two towers: in-batch negatives are not those of one device.

Each query is compared with the items of the whole batch, of which one is its own. A
replica that compares with its own items only has N times fewer wrong ones to choose
from: another, easier task. No scale mends that, and the audit says `not-decomposable`:

    distloss audit examples/two_towers.py:local_negatives      # exit 1
    distloss audit examples/two_towers.py:gathered_negatives   # exit 0

The honest way is to gather the items of all replicas, and then to take the share of
each replica's queries. The gradient of a gather sums what all replicas want of an item,
so nothing else needs to be scaled.

This trains both ways on four replicas, and on one device, and prints how far apart the
embeddings end.
"""

import keras
import numpy as np
import tensorflow as tf
from _replicas import four_replicas

from distloss import mean_share

ROWS, BATCH_SIZE, EPOCHS = 75, 16, 3
USERS, ITEMS = 40, 60


class TwoTowers:
    """Embeddings of users and items, and one step that brings pairs together."""

    def __init__(self, *, gather):
        keras.utils.set_random_seed(2)
        self.gather = gather
        self.users = keras.Sequential([keras.layers.Embedding(USERS, 8)])
        self.items = keras.Sequential([keras.layers.Embedding(ITEMS, 8)])
        self.users.build([None])
        self.items.build([None])
        self.optimizer = keras.optimizers.Adagrad(0.5)
        self.optimizer.build(self.trainable_variables)

    @property
    def trainable_variables(self):
        """The two tables."""
        return self.users.trainable_variables + self.items.trainable_variables

    def candidates(self, items):
        """What a query is compared with, and where this replica's own items begin."""
        if not self.gather:
            return items, 0
        context = tf.distribute.get_replica_context()
        rows = context.all_gather(tf.shape(items)[:1], axis=0)
        before = tf.cumsum(rows, exclusive=True)[context.replica_id_in_sync_group]
        return context.all_gather(items, axis=0), before

    def train_step(self, batch):
        """One update from a replica's part of the batch."""
        users, items = batch
        with tf.GradientTape() as tape:
            queries = self.users(users)
            candidates, start = self.candidates(self.items(items))
            logits = tf.matmul(queries, candidates, transpose_b=True)
            own = start + tf.range(tf.shape(queries)[0])
            loss = mean_share(
                tf.nn.sparse_softmax_cross_entropy_with_logits(own, logits)
            )
        gradients = tape.gradient(loss, self.trainable_variables)
        # Keras adds the gradients of all replicas.
        self.optimizer.apply(gradients, self.trainable_variables)
        return loss


def pairs():
    """Users and the items that they chose, int32 `[75]` each."""
    random = np.random.default_rng(6)
    users = random.integers(0, USERS, ROWS)
    items = (users + random.integers(0, 8, ROWS)) % ITEMS
    return users.astype("int32"), items.astype("int32")


def local_negatives():
    """For the audit: each replica has negatives of its own."""
    return TwoTowers(gather=False), pairs()


def gathered_negatives():
    """For the audit: the negatives are those of the batch."""
    return TwoTowers(gather=True), pairs()


def embeddings(strategy, *, gather):
    """Of users and items after training, in one array."""
    with strategy.scope():
        towers = TwoTowers(gather=gather)

    @tf.function
    def step(batch):
        strategy.run(towers.train_step, args=(batch,))

    data = tf.data.Dataset.from_tensor_slices(pairs()).batch(BATCH_SIZE)
    for _ in range(EPOCHS):
        for batch in strategy.experimental_distribute_dataset(data):
            step(batch)
    return np.concatenate([v.numpy() for v in towers.trainable_variables])


def main():
    four = four_replicas()  # first: it configures the devices
    wanted = embeddings(tf.distribute.OneDeviceStrategy("CPU:0"), gather=False)
    off = {
        name: np.abs(embeddings(four, gather=gather) - wanted).max()
        for name, gather in (("their own", False), ("all gathered", True))
    }
    for name, difference in off.items():
        print(f"four replicas, negatives {name}: {difference:.1e} from one device")
    if off["all gathered"] > 1e-5 or off["their own"] < 1e-2:
        raise SystemExit("gathered negatives were expected to train as one device")


if __name__ == "__main__":
    main()
