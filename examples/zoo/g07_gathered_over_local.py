"""The loss that is shown is a sum over all replicas, divided by local tokens.

The gradient is right. For the log the sum is gathered, and the count is that of this
replica.

Reported: https://github.com/modelscope/ms-swift/pull/9152. Near it, means of ranks that
are averaged for the log: https://github.com/deepseek-ai/DeepSpec/issues/34

Symptom: the logged loss is about N times too large, training is as it should be.
"""

import tensorflow as tf
from _common import Loop, row_losses, token_model, token_rows
from _entry import Entry

import distloss

ENTRY = Entry(
    bug="G7",
    title="shown: the sum of all replicas over the tokens of one",
    reported=("modelscope/ms-swift#9152", "deepseek-ai/DeepSpec#34"),
    cause="report-only",
    engine="strategy",
    mended_by="both sums of all replicas",
)


def is_token(tokens):
    return tf.cast(tokens > 0, tf.float32)


class Logging(Loop):
    """Trains on shares, shows what `shown` makes of sums."""

    def __init__(self, shown):
        super().__init__(loss_of, token_model())
        self.shown = shown

    def train_step(self, batch):
        """One update."""
        x, y = batch
        mask = is_token(x)
        total = tf.reduce_sum(row_losses(self.model, x, y) * mask)
        super().train_step(batch)
        return self.shown(total, tf.reduce_sum(mask))


def loss_of(model, x, y):
    return distloss.mean_share(row_losses(model, x, y), is_token(x))


def wrong():
    def shown(total, tokens):
        return distloss.StrategyReplicas().sum(total) / tokens

    return Logging(shown), token_rows()


def mended():
    def shown(total, tokens):
        sums = distloss.StrategyReplicas()
        return sums.sum(total) / sums.sum(tokens)

    return Logging(shown), token_rows()
