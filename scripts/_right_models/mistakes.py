"""Mutations of loops that are written by hand."""

import keras
import tensorflow as tf

import distloss
from _right_models import by_hand, loops, nets
from _right_models.by_hand import Loop, count, of_rows, recipe, summed
from _right_models.draws import clip_settings, optimizer
from _right_models.mutants import plants
from _right_models.prepared_layers import Adds

# A mean of no rows is not a number, and a wrong gradient comes with a wrong loss.
NONE, SHOWN = "empty-replica", "report-only"
DENSE = (nets.dense, nets.categories)


def local_mean(values, weights):
    """Of the rows that are here."""
    return tf.reduce_mean(of_rows(values if weights is None else values * weights))


def mean_of_means(values, weights):
    """Each replica's mean counts 1/N."""
    return local_mean(values, weights) / count()


def with_share(draw, planted, wrong, **changes):
    """A right step, or one with another share of the loss."""
    right = draw.of(*changes.pop("right", loops.TOTALS))
    return recipe(draw, wrong(right) if planted else right, **changes).step()


@plants("sum-of-means", beside=(NONE, SHOWN))
def drops_the_division(draw, planted):
    """Takes a local mean, which nobody divides by N."""
    return with_share(draw, planted, lambda _: local_mean)


@plants("sum-of-means", beside=(SHOWN,))
def sums_in_the_tape(draw, planted):
    """Sums inside the tape, whose gradient is summed again."""

    def share(values, _weights):
        values = of_rows(values)
        total = summed(tf.reduce_sum(values))
        return total / summed(tf.cast(tf.size(values), tf.float32))

    return with_share(draw, planted, lambda _: share)


@plants("divided-twice", beside=(SHOWN,))
def divides_twice(draw, planted):
    """Divides a right share by N."""
    return with_share(draw, planted, lambda right: lambda *a: right(*a) / count())


@plants("scaled-n-squared", beside=(NONE, SHOWN))
def multiplies_by_count(draw, planted):
    """Multiplies a local mean by N, and the optimizer adds up."""
    return with_share(draw, planted, lambda _: lambda *a: local_mean(*a) * count())


@plants("mean-of-means", beside=(NONE, SHOWN))
def means_of_parts(draw, planted):
    """Averages the means of replicas."""
    return with_share(draw, planted, lambda _: mean_of_means)


def _local_weights(values, weights):
    total = tf.reduce_sum(values * weights)
    return tf.math.divide_no_nan(total, tf.reduce_sum(weights)) / count()


@plants("mean-of-means", beside=(NONE, SHOWN))
def counts_weights_locally(draw, planted):
    """Divides by the weights of its own rows."""
    net = by_hand.with_weights(draw, nets.net(draw, [nets.dense]))
    right = by_hand.mean_share, by_hand.by_all_reduced_weights
    return with_share(draw, planted, lambda _: _local_weights, net=net, right=right)


@plants("mean-of-means", beside=(NONE, SHOWN))
def counts_words_locally(draw, planted):
    """Divides by the words of its own rows."""
    changes = {"bodies": [nets.words], "weighs": by_hand.padded_words}
    right = by_hand.mean_share, by_hand.by_all_reduced_weights
    return with_share(draw, planted, lambda _: _local_weights, right=right, **changes)


# The gradient of a mean of no rows is a sum over none, zero; its value is no number.
@plants("empty-replica", beside=(SHOWN,), shows="shown")
def mean_of_no_rows(draw, planted):
    """Weighs its mean by rows, which is not a number where there are none."""

    def share(values, _weights):
        values = of_rows(values)
        here = by_hand.rows_of(values)
        return tf.reduce_mean(values) * here / summed(here)

    return with_share(draw, planted, lambda _: share)


@plants("clip-before-sum", "not-linear-in-gradient")
def clips_by_hand_early(draw, planted):
    """Clips the gradient of its own rows."""
    norm = float(10 ** draw.random.uniform(-3, 0))
    right = by_hand.clipped_after_the_sum(norm)
    early = _clipped(norm) if planted else right
    share, chosen = draw.of(*loops.TOTALS), optimizer(draw)
    return recipe(draw, share, [nets.dense], treat=early, optimizer=chosen).step()


def _clipped(norm):
    return lambda gradients: tf.clip_by_global_norm(gradients, norm)[0]


@plants("clip-before-sum")
def clips_in_the_optimizer(draw, planted):
    """Has a Keras optimizer clip, which does it before it adds up."""
    chosen = optimizer(draw, **clip_settings(draw))
    chosen = chosen if planted else distloss.DistributedOptimizer(chosen)
    share = draw.of(*loops.TOTALS)
    return recipe(draw, share, [nets.dense], optimizer=chosen).step()


@plants("not-linear-in-gradient", "clip-before-sum")
def normalizes_early(draw, planted):
    """Gives the gradient of its own rows the length 1."""

    def early(gradients):
        norm = tf.linalg.global_norm(gradients) + 1e-12
        return [g / norm / count() for g in gradients]

    treat = early if planted else by_hand.normalized_after_the_sum
    share, chosen = draw.of(*loops.TOTALS), optimizer(draw)
    return recipe(draw, share, [nets.dense], treat=treat, optimizer=chosen).step()


@plants("not-reduced", beside=(SHOWN,))
def drops_the_reduction(draw, planted):
    """Has an optimizer that adds nothing up, as that of Keras did until 3.4.1."""
    chosen = optimizer(draw)
    if planted:
        chosen._all_reduce_sum_gradients = lambda pairs: pairs
    return recipe(draw, draw.of(*loops.TOTALS), [nets.dense], optimizer=chosen).step()


@plants("regularization-not-scaled", beside=(SHOWN,))
def penalty_on_each(draw, planted):
    """Counts regularisers on each replica."""
    share, right = draw.of(*loops.TOTALS), draw.of(*by_hand.PENALTIES)
    penalty, style = tf.add_n if planted else right, by_hand.REGULARIZED
    return recipe(draw, share, [nets.dense], style=style, penalty=penalty).step()


@plants("regularization-not-scaled", beside=(SHOWN,))
def weight_decay_on_each(draw, planted):
    """Adds squares of weights to the loss by hand, on each replica."""
    factor = float(10 ** draw.random.uniform(-3, -1))
    net, share = nets.net(draw, [nets.dense]), draw.of(*loops.TOTALS)

    def with_penalty(values, weights):
        squares = [tf.nn.l2_loss(v) for v in net.model.trainable_variables]
        penalty = factor * tf.add_n(squares)
        return share(values, weights) + (penalty if planted else penalty / count())

    return recipe(draw, with_penalty, net=net).step()


@plants("added-loss-divided", beside=(SHOWN,))
def divides_an_added_sum(draw, planted):
    """Divides by N what a layer adds up of its rows."""

    def between(draw, y):
        return Adds("sum", 0.1)(y)

    penalty = by_hand.divided_by_count if planted else tf.add_n
    style = nets.Style(between)
    share = draw.of(*loops.TOTALS)
    return recipe(draw, share, [nets.dense], style=style, penalty=penalty).step()


@plants("nominal-batch-size", beside=(SHOWN,))
def constant_batch_size(draw, planted):
    """Divides by the rows of a full batch; this one is short."""
    # More than the rows of this batch, less than twice as many.
    missing = draw.between(1, draw.rows - 1)
    full = draw.rows + missing if planted else draw.rows
    by_tensorflow = draw.chance(0.5)

    def share(values, _weights):
        values = of_rows(values)
        if by_tensorflow:
            return tf.nn.compute_average_loss(values, global_batch_size=full)
        return tf.reduce_sum(values) / full

    return recipe(draw, share).step()


@plants("elements-divided-by-rows", beside=(SHOWN,))
def divides_words_by_rows(draw, planted):
    """Divides the losses of all words by the number of texts."""

    def share(values, _weights):
        rows = summed(tf.shape(values)[0])
        return tf.nn.compute_average_loss(values, global_batch_size=rows)

    return with_share(draw, planted, lambda _: share, bodies=[nets.words])


@plants("weights-divided-by-rows", beside=("mean-of-means", NONE, SHOWN))
def divides_weights_by_rows(draw, planted):
    """Takes the plain mean of weighted losses."""

    def share(values, weights):
        return tf.reduce_mean(values * weights) / count()

    net = by_hand.with_weights(draw, nets.net(draw, [nets.dense]))
    right = by_hand.mean_share, by_hand.by_all_reduced_weights
    return with_share(draw, planted, lambda _: share, net=net, right=right)


# The rows of a replica as a weight cancel the division by them: 1/N is left of it.
@plants("batch-size-as-weight", beside=("divided-twice", "mean-of-means", NONE, SHOWN))
def batch_size_as_weight(draw, planted):
    """Gives the batch size as the second argument, which is that of weights."""

    def share(values, _weights):
        values = of_rows(values)
        rows = tf.cast(tf.shape(values)[0], tf.float32)
        return tf.nn.compute_average_loss(values, rows)

    return with_share(draw, planted, lambda _: share)


@plants("report-only", shows="shown")
def shows_another_loss(draw, planted):
    """Shows the loss divided or multiplied once too often."""
    off = draw.of(lambda share: share / count(), lambda share: share * count() ** 2)
    share = draw.of(*loops.TOTALS)
    return recipe(draw, share, show=off if planted else lambda one: one).step()


@plants("sparse-slices-apart")
def slices_apart(draw, planted):
    """Squares slices of one index one by one."""
    of = keras.optimizers
    # Adagrad starts its sum of squares at 0.1, beside which these are nothing.
    kind = draw.of(of.Adam, of.AdamW, of.Nadam, of.RMSprop)
    chosen = kind(draw.rate())
    chosen = chosen if planted else distloss.DistributedOptimizer(chosen)
    bodies = [nets.categories, nets.words]
    return recipe(draw, draw.of(*loops.TOTALS), bodies, optimizer=chosen).step()


# -- parts of a step


def _part_of_part(values, _rows_of_step):
    return tf.reduce_sum(values) / summed(by_hand.rows_of(values))


def _accumulates(draw, planted, parts, **changes):
    share = _part_of_part if planted else loops.part_of_step
    changes = changes if planted else {}
    return recipe(draw, share, [nets.dense], parts=parts, **changes).step()


@plants("accumulation-not-averaged", beside=(SHOWN, NONE))
def parts_not_averaged(draw, planted):
    """Adds up the gradients of the means of parts."""
    parts = draw.between(2, 4)
    return _accumulates(draw, planted, parts, show=lambda total: total / parts)


@plants("accumulation-mean-of-means", beside=(SHOWN, NONE))
def parts_count_alike(draw, planted):
    """Averages the means of parts of unequal rows."""
    parts = draw.of(*(k for k in range(2, 6) if draw.rows % k))

    def average(gradients):
        return [g / parts for g in gradients]

    return _accumulates(
        draw, planted, parts, finish=average, show=lambda total: total / parts
    )


# -- losses of batches


class Overlap(Loop):
    """How far what is marked is not what should be: a ratio of sums over rows."""

    def __init__(self, recipe, *, local):
        super().__init__(recipe)
        self.local = local

    def loss(self, batch):
        """The ratio of the sums of all replicas, or of this one."""
        x, y = batch
        marked = tf.sigmoid(self.model(x))
        sums = tf.stack([tf.reduce_sum(marked * y), tf.reduce_sum(marked + y)])
        both, either = tf.unstack(sums if self.local else summed(sums))
        return (1 - (2 * both + 1) / (either + 1)) / count()


@plants("not-decomposable", beside=(SHOWN, NONE))
def overlap_of_parts(draw, planted):
    """Takes a ratio on each replica, which is that of the batch for none of them."""
    body = nets.dense(draw)
    model = keras.Model(body.inputs, keras.layers.Dense(1)(body.features))
    batch = body.x, draw.integers(2, 1).astype("float32")
    net = nets.Net(model, batch, None)
    return Overlap(recipe(draw, None, net=net), local=planted), batch


# -- data


def _data(size_of):
    def dataset(context, batch):
        rows = tf.data.Dataset.from_tensor_slices(batch)
        return rows.repeat().batch(size_of(context))

    return dataset


def _with_data(draw, wrong_size, planted):
    # 12 rows are as many for each of 1, 2, 3 and 4 replicas.
    dataset = _data(
        lambda context: (
            wrong_size if planted else context.get_per_replica_batch_size(12)
        )
    )
    share = draw.of(*loops.TOTALS)
    return recipe(draw, share, [nets.dense], dataset=dataset).step()


@plants("batch-dealt-twice", shows="rows")
def deals_a_batch_twice(draw, planted):
    """Gives all rows to each replica."""
    return _with_data(draw, draw.rows, planted)


@plants("batch-grows-with-replicas", shows="rows")
def batch_of_each(draw, planted):
    """Gives each replica a batch of the size that is meant for all."""
    return _with_data(draw, draw.rows // 4, planted)
