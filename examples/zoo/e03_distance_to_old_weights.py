"""A penalty for moving away from the weights of an earlier task, on each replica.

It depends on weights only, and each of N replicas counts it: its gradient is N times
too large beside that of the loss. (Elastic weight consolidation: squares of distances,
weighted.)

Reported: https://github.com/tensorflow/tensorflow/issues/36694, where two runs with the
same penalty differed. That compared random starts, and does not reproduce; the loop,
taken to a strategy, has this bug.

Symptom: the model forgets less, and learns less, the more replicas there are.
"""

import tensorflow as tf
from _common import Loop, regression_rows, row_losses, small_model
from _entry import Entry

import distloss

ENTRY = Entry(
    bug="E3",
    title="the distance to old weights, counted by each replica",
    reported=("tensorflow/tensorflow#36694",),
    cause="regularization-not-scaled",
    engine="strategy",
    mended_by="`regularization_share([distance])`",
)

RATE = 0.5


class Consolidated:
    """The distance to the weights that a model had, of which some matter more."""

    def __init__(self, variables):
        self.old = [variable.numpy() + 0.3 for variable in variables]

    def distance(self, variables):
        """The weighted sum of squares."""
        terms = [
            tf.reduce_sum((1 + tf.square(old)) * tf.square(new - old))
            for new, old in zip(variables, self.old, strict=True)
        ]
        return RATE * tf.add_n(terms)


def trained(share_of_distance):
    model = small_model()
    consolidated = Consolidated(model.trainable_variables)

    def loss_of(model, x, y):
        distance = consolidated.distance(model.trainable_variables)
        mean = distloss.mean_share(row_losses(model, x, y))
        return mean + share_of_distance(distance)

    return Loop(loss_of, model)


def wrong():
    return trained(lambda distance: distance), regression_rows()


def mended():
    def share_of_distance(distance):
        return distloss.regularization_share([distance])

    return trained(share_of_distance), regression_rows()
