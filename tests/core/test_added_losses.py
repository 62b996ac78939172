"""What layers added on a replica is still there after it has waited for others.

However a loop holds its models. What a layer adds is the
sum of its replica's row, which is its number in the strategy.
"""

import threading
import types

import keras
import pytest
import tensorflow as tf
from conftest import REPLICAS

from distloss import DistributedLoss
from distloss._keras import added_losses


class Adds(keras.layers.Layer):
    def call(self, x):
        self.add_loss(tf.reduce_sum(x))
        return x


def model():
    return keras.Sequential([keras.Input((1,)), Adds()])


def held_by_a_list(loss):
    models = [model(), model()]

    def step(x):
        first, _second = [one(x) for one in models]
        loss(x, first)
        return tf.add_n([added for one in models for added in one.losses]) / 2

    return step


def held_by_an_attribute_of_an_attribute(loss):
    trainer = types.SimpleNamespace(networks=types.SimpleNamespace(main=model()))

    def step(x):
        loss(x, trainer.networks.main(x))
        return tf.add_n(trainer.networks.main.losses)

    return step


def of_a_model_beside_the_one_that_computes_a_loss(loss):
    class ComputesLoss(keras.Sequential):
        def loss_of(self, x):
            return loss(x, self(x))

    one, other = ComputesLoss([keras.Input((1,)), Adds()]), model()

    def step(x):
        other(x)
        one.loss_of(x)
        return tf.add_n(other.losses)

    return step


STEPS = [
    held_by_a_list,
    held_by_an_attribute_of_an_attribute,
    of_a_model_beside_the_one_that_computes_a_loss,
]


def added_on(strategy, step):
    dealt = strategy.experimental_distribute_values_from_function(
        lambda context: tf.fill((1, 1), float(context.replica_id_in_sync_group))
    )
    added = strategy.run(step, (dealt,))
    return [float(value) for value in strategy.experimental_local_results(added)]


@pytest.mark.parametrize("make", STEPS, ids=lambda make: make.__name__)
def test_each_replica_reads_what_its_own_layers_added(make, four):
    with four.scope():
        step = make(DistributedLoss("mse"))
    assert added_on(four, tf.function(step)) == [*map(float, range(REPLICAS))]


def test_nothing_of_keras_is_changed_when_no_replica_waits(four):
    """Nor is what somebody else has put into the place of its methods."""
    before = keras.Layer.add_loss, keras.Layer._clear_losses
    with four.scope():
        step = held_by_a_list(DistributedLoss("mse"))

    def fails(x):
        step(x)
        raise ValueError("after a collective")

    with pytest.raises(ValueError, match="after a collective"):
        added_on(four, tf.function(fails))
    assert not added_losses._waiting
    assert (keras.Layer.add_loss, keras.Layer._clear_losses) == before


def test_what_one_replica_puts_back_another_does_not_lose():
    """Where both wait, and the first goes on first."""
    layer = Adds()
    layer._losses[:] = ["first"]
    with added_losses.kept(tf.distribute.get_strategy):
        added_losses.set_losses(layer, ["second"])
        second = added_losses.kept(tf.distribute.get_strategy)
        second.__enter__()
    assert layer._losses == ["first"]
    second.__exit__(None, None, None)
    assert layer._losses == ["second"]


def test_what_a_thread_outside_the_strategy_adds_meanwhile_stays(four):
    layer = Adds()

    def elsewhere():
        layer(tf.ones((1, 1)))

    with four.scope(), added_losses.kept(tf.distribute.get_strategy):
        thread = threading.Thread(target=elsewhere)
        thread.start()
        thread.join()
    assert [float(loss) for loss in layer.losses] == [1.0]
