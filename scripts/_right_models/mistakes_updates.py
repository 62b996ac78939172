"""Mutations of what a step does with its gradients."""

import keras
import numpy as np
import tensorflow as tf

from _right_models import loops, nets
from _right_models.by_hand import Loop, count, recipe, summed
from _right_models.mutants import plants
from _right_models.nets import Style


def _loop(draw, planted, wrong):
    """A right loop, or one of class `wrong`."""
    right = recipe(draw, draw.of(*loops.TOTALS))
    model, batch = right.step()
    return (wrong(right) if planted else model), batch


class _Forgets(Loop):
    def train_step(self, batch):
        loss, gradients = self.gradients(batch)
        self.recipe.treat(gradients)
        return self.recipe.show(loss)


@plants("no-update")
def never_applies(draw, planted):
    """Takes gradients, and gives them to nobody."""
    return _loop(draw, planted, _Forgets)


class _Shows(Loop):
    def train_step(self, batch):
        return self.recipe.show(self.loss(batch))


@plants("no-update")
def only_shows_a_loss(draw, planted):
    """Takes no gradients at all."""
    return _loop(draw, planted, _Shows)


class _LeavesToOthers(Loop):
    def train_step(self, batch):
        if count() == 1:
            return super().train_step(batch)
        return self.recipe.show(self.gradients(batch)[0])


@plants("no-update")
def applies_on_one_device_only(draw, planted):
    """Leaves the update of several replicas to somebody who does not make it."""
    return _loop(draw, planted, _LeavesToOthers)


@plants("no-update")
def rounds_a_layer(draw, planted):
    """Rounds what layers give; the right step hands the gradient on."""

    def between(_, y):
        rounded = keras.layers.Lambda(lambda t: tf.round(8 * t) / 8)
        straight = keras.layers.Lambda(lambda t: t + tf.stop_gradient(rounded(t) - t))
        return (rounded if planted else straight)(y)

    style = Style(between)
    return recipe(draw, draw.of(*loops.TOTALS), [nets.dense], style=style).step()


# -- what is kept, added up, and drawn


def _keeps(variables, *, clears):
    """Adds gradients up in variables of each replica."""
    on_read = tf.VariableSynchronization.ON_READ
    sums = [
        tf.Variable(
            tf.zeros(variable.shape),
            trainable=False,
            synchronization=on_read,
            aggregation=tf.VariableAggregation.SUM,
        )
        for variable in variables
    ]

    def treat(gradients):
        for total, gradient in zip(sums, gradients, strict=True):
            total.assign_add(gradient)
        totals = [tf.identity(total) for total in sums]
        for total in sums if clears else ():
            total.assign(tf.zeros_like(total))
        return totals

    return treat


@plants("gradients-not-cleared", shows="later")
def never_clears(draw, planted):
    """Adds gradients of one part or more to those of all steps before."""
    net, parts = nets.net(draw, [nets.dense]), draw.between(1, 3)
    share = draw.of(*loops.TOTALS) if parts == 1 else loops.part_of_step
    treat = _keeps(net.model.trainable_variables, clears=not planted)
    return recipe(draw, share, net=net, parts=parts, treat=treat).step()


@plants("update-scaled")
def sums_twice(draw, planted):
    """Sums gradients over replicas, and so does the optimizer."""

    def treat(gradients):
        return summed(gradients) if planted else gradients

    share = draw.of(*loops.TOTALS)
    return recipe(draw, share, [nets.dense], treat=treat).step()


@plants("variables-scaled-apart")
def sums_kernels_twice(draw, planted):
    """Sums gradients of some variables only, before the optimizer sums them all."""

    def treat(gradients):
        return [summed(g) if planted and len(g.shape) > 1 else g for g in gradients]

    share = draw.of(*loops.TOTALS)
    return recipe(draw, share, [nets.dense], treat=treat).step()


@plants("nondeterministic")
def draws_in_python(draw, planted):
    """Weighs its loss by what Python draws, which nobody can pin."""
    drawn, right = np.random.default_rng(draw.seed), draw.of(*loops.TOTALS)

    def share(values, weights):
        factor = tf.numpy_function(lambda: np.float32(drawn.random()), [], tf.float32)
        factor.set_shape([])
        return right(values, weights) * (1 + factor)

    return recipe(draw, share if planted else right, [nets.dense]).step()


# -- updates by hand


class _ByHand(Loop):
    """Sums gradients over replicas, and moves the weights itself.

    Its `rate` may be another one on each replica.
    """

    def __init__(self, recipe, rate):
        super().__init__(recipe)
        self.rate = rate

    def train_step(self, batch):
        """One update."""
        loss, gradients = self.gradients(batch)
        variables = [variable.value for variable in self.trainable_variables]
        rate = tf.convert_to_tensor(self.rate(gradients), tf.float32)

        def updated(strategy, rate, gradients):
            for variable, gradient in zip(variables, gradients, strict=True):
                strategy.extended.update(variable, _moved, (gradient, rate))

        # What is the same on all replicas by now is not summed again.
        context = tf.distribute.get_replica_context()
        context.merge_call(updated, args=(rate, summed(gradients)))
        return self.recipe.show(loss)


def _moved(variable, gradient, rate):
    variable.assign_sub(rate * gradient)


def _by_hand(draw, planted, wrong):
    """A step with a constant rate, or with what `wrong` makes of it."""
    constant = draw.rate()
    right = recipe(draw, draw.of(*loops.TOTALS), [nets.dense])
    rate = wrong(constant) if planted else lambda _: constant
    return _ByHand(right, rate), right.net.batch


@plants("update-scaled")
def multiplies_the_rate(draw, planted):
    """Multiplies the rate by N, though the batch is the same."""
    return _by_hand(draw, planted, lambda rate: lambda _: rate * count())


def _rate_of_rank(rate):
    def of(_):
        rank = tf.distribute.get_replica_context().replica_id_in_sync_group
        return rate * (1 + tf.cast(rank, tf.float32))

    return of


def _rate_of_gradient(rate):
    # Not of the loss: a share of distloss shows the same number on all replicas.
    return lambda gradients: rate / (tf.linalg.global_norm(gradients) + 1e-12)


@plants("updates-apart")
def rate_of_each_replica(draw, planted):
    """Has a rate that depends on the replica, or on the gradient of its rows."""
    return _by_hand(draw, planted, draw.of(_rate_of_rank, _rate_of_gradient))
