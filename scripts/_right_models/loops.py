"""Kinds of loops that are written by hand, in the several ways that people do it.

The gradient of a batch is that of a sum over its rows, divided by one number of the
whole batch. Replicas each take the gradient of their part of the sum, which is right
for any split, as long as that one number is the same for all of them, whoever divides.
"""

import dataclasses

import keras
import tensorflow as tf
from keras import layers

import distloss
from _right_models import by_hand, nets
from _right_models.by_hand import Loop, recipe, summed
from _right_models.draws import clip_settings, optimizer
from _right_models.table import right

TOTALS = (
    by_hand.mean_share,
    by_hand.by_all_reduced_weights,
    by_hand.by_all_reduced_size,
    by_hand.average_loss,
    by_hand.by_rows_of_all,
    by_hand.distributed_loss,
)


@right()
def loop_average_loss(draw):
    """Right since the sum over rows here is divided by the rows of all replicas."""
    return recipe(draw, by_hand.average_loss).step()


@right()
def loop_all_reduced_rows(draw):
    """Right since both sums are over all replicas, the upper one by the optimizer."""
    return recipe(draw, draw.of(*TOTALS[1:3], by_hand.by_rows_of_all)).step()


@right()
def loop_mean_share(draw):
    """Right since distloss divides the local sum by the number of all elements."""
    return recipe(draw, draw.of(by_hand.mean_share, by_hand.distributed_loss)).step()


@right("even", "uneven")
def loop_of_any_network(draw):
    """Right as the others; convolutions and the like want rows on each replica."""
    return recipe(draw, draw.of(*TOTALS), nets.BODIES).step()


@right()
def loop_weights(draw):
    """Right since a sum of weighted losses is divided by what all replicas hold."""
    net = by_hand.with_weights(draw, nets.net(draw, [nets.dense]))
    shares = by_hand.mean_share, by_hand.by_all_reduced_weights
    shares += by_hand.average_weighted_loss, by_hand.average_loss
    return recipe(draw, draw.of(*shares), net=net).step()


@right()
def loop_counts_words(draw):
    """Right since the words of all replicas are counted, and padding is not."""
    share = draw.of(by_hand.mean_share, by_hand.by_all_reduced_weights)
    return recipe(draw, share, [nets.words], weighs=by_hand.padded_words).step()


@right()
def loop_constant_batch(draw):
    """Right since all batches have as many rows as it divides by.

    As with `drop_remainder=True`: a split of the batch does not change its number.
    """

    def share(values, _weights):
        values = by_hand.of_rows(values)
        return tf.nn.compute_average_loss(values, global_batch_size=draw.rows)

    return recipe(draw, share).step()


@right("even")
def loop_mean_by_count(draw):
    """Right on even splits: the mean of means of as many rows is that of all."""

    def share(values, _weights):
        return tf.reduce_mean(values) / by_hand.count()

    return recipe(draw, share).step()


@right()
def loop_sum(draw):
    """Right since it divides by nothing: the loss is a sum over rows."""

    def share(values, _weights):
        return tf.reduce_sum(by_hand.of_rows(values))

    return recipe(draw, share).step()


@right()
def loop_keras_sum(draw):
    """Right since the loss of Keras adds up, and the loop divides by all rows."""
    net = nets.net(draw, [nets.dense])
    loss = net.head.loss(reduction="sum")
    head = dataclasses.replace(net.head, values=lambda y, output: (loss(y, output), y))

    def share(pair, _weights):
        total, y = pair
        return total / summed(tf.cast(tf.shape(y)[0], tf.float32))

    return recipe(draw, share, net=dataclasses.replace(net, head=head)).step()


class DividesAfter(Loop):
    """Takes gradients of a sum, and divides them by rows that are counted beside."""

    def train_step(self, batch):
        """One update."""
        y = batch[1]
        total, gradients = self.gradients(batch)
        gradients = [tf.convert_to_tensor(g) for g in gradients]
        rows = tf.cast(tf.shape(y)[0], tf.float32)
        *gradients, total, rows = summed([*gradients, total, rows])
        # The optimizer adds up once more what is the same on all replicas by now.
        gradients = [g / rows / by_hand.count() for g in gradients]
        self.optimizer.apply(gradients, self.trainable_variables)
        return total / rows


@right()
def loop_divides_gradients(draw):
    """Right since sums of gradients and of rows meet in one collective, then divide."""

    def share(values, _weights):
        return tf.reduce_sum(by_hand.of_rows(values))

    drawn = recipe(draw, share, optimizer=optimizer(draw))
    return DividesAfter(drawn), drawn.net.batch


@right()
def loop_regularizers(draw):
    """Right since penalties on weights, the same everywhere, are divided by N."""
    share, penalty = draw.of(*TOTALS), draw.of(*by_hand.PENALTIES)
    style = by_hand.REGULARIZED
    return recipe(draw, share, [nets.dense], style=style, penalty=penalty).step()


@right()
def loop_penalty_of_rows(draw):
    """Right since what activities cost is a part of the loss of each row."""
    net = nets.net(draw, [nets.dense])
    hidden = net.model.layers[-2].output
    model = keras.Model(net.model.input, [net.model.output, hidden])

    def values(y, outputs):
        output, activity = outputs
        cost = 0.1 * tf.reduce_sum(tf.square(activity), -1)
        return by_hand.of_rows(net.head.values(y, output)) + cost

    head = dataclasses.replace(net.head, values=values)
    both = nets.Net(model, net.batch, head)
    return recipe(draw, draw.of(*TOTALS), net=both).step()


@right()
def loop_clips_the_sum(draw):
    """Right since all clip the same sum, and give the optimizer N-th parts of it."""
    treat = by_hand.clipped_after_the_sum(float(10 ** draw.random.uniform(-3, 0)))
    treat = draw.of(treat, by_hand.normalized_after_the_sum)
    return recipe(draw, draw.of(*TOTALS), treat=treat, optimizer=optimizer(draw)).step()


@right()
def loop_distributed_optimizer(draw):
    """Right since that optimizer adds gradients and slices up before it clips."""
    chosen = distloss.DistributedOptimizer(optimizer(draw, **clip_settings(draw)))
    return recipe(draw, draw.of(*TOTALS), optimizer=chosen).step()


def part_of_step(values, rows_of_step):
    """The sum over a part, by the rows of the whole step."""
    return tf.reduce_sum(values) / rows_of_step


@right()
def loop_accumulates(draw):
    """Right since all parts on all replicas are divided by the same number of rows."""
    parts = draw.between(2, 4)
    return recipe(draw, part_of_step, [nets.dense], parts=parts).step()


class Adversarial(Loop):
    """Two networks with an optimizer each, one after the other."""

    def __init__(self, draw):
        width = draw.between(2, 6)
        self.generator = keras.Sequential(
            [keras.Input([width]), layers.Dense(draw.between(2, 8), "tanh")]
        )
        self.generator.add(layers.Dense(width))
        self.critic = keras.Sequential(
            [keras.Input([width]), layers.Dense(draw.between(2, 8), "tanh")]
        )
        self.critic.add(layers.Dense(1))
        self.share = draw.of(*TOTALS)
        self.optimizers = [optimizer(draw), optimizer(draw)]
        self.batch = draw.normal(width), draw.normal(width) + 1
        for one, model in zip(self.optimizers, self.models, strict=True):
            one.build(model.trainable_variables)

    @property
    def models(self):
        """Both."""
        return self.critic, self.generator

    @property
    def trainable_variables(self):
        """Of both."""
        return [v for model in self.models for v in model.trainable_variables]

    def critic_loss(self, noise, real):
        """Of each row."""
        fake = self.generator(noise)
        values = tf.nn.softplus(-self.critic(real)) + tf.nn.softplus(self.critic(fake))
        return self.share(values[:, 0], None)

    def generator_loss(self, noise, _real):
        """Of each row."""
        values = tf.nn.softplus(-self.critic(self.generator(noise)))
        return self.share(values[:, 0], None)

    def train_step(self, batch):
        """An update of each."""
        losses = self.critic_loss, self.generator_loss
        shown = []
        for loss_of, one, model in zip(
            losses, self.optimizers, self.models, strict=True
        ):
            with tf.GradientTape() as tape:
                loss = loss_of(*batch)
            variables = model.trainable_variables
            one.apply(tape.gradient(loss, variables), variables)
            shown.append(loss)
        return tf.add_n(shown)


@right()
def loop_two_optimizers(draw):
    """Right since each network has a loss that is a sum over rows, divided by all."""
    loop = Adversarial(draw)
    return loop, loop.batch


class Gathers(Loop):
    """Tells each row's partner from the partners of all rows."""

    def loss(self, batch):
        """The share of this replica's rows."""
        x, y = batch
        context = tf.distribute.get_replica_context()
        own, others = self.model(x), self.model(y)
        everybody = context.all_gather(others, axis=0)
        rows = tf.shape(own)[0]
        partner = tf.range(rows) + rows * context.replica_id_in_sync_group
        values = tf.nn.sparse_softmax_cross_entropy_with_logits(
            partner, tf.matmul(own, everybody, transpose_b=True)
        )
        return self.recipe.share(values, None)


@right("even")
def loop_gathers_rows(draw):
    """Right on even splits: rows are compared with those of all replicas.

    The gradient of what is gathered comes back to the replica that gave it. TensorFlow
    cuts that gradient into parts of the same size, so splits are even.
    """
    width = draw.between(2, 6)
    x = keras.Input([width])
    model = keras.Model(x, layers.Dense(draw.between(2, 5))(x))
    first = draw.normal(width)
    batch = first, first + 0.3 * draw.normal(width)
    net = nets.Net(model, batch, None)
    return Gathers(recipe(draw, by_hand.mean_share, net=net)), batch
