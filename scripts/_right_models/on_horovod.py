"""Kinds of steps for Horovod's processes.

Horovod adds up, or averages, what each process gives: a sum of shares of one mean is
right for any split, wherever it is added up.
"""

import tensorflow as tf

import distloss
from _right_models import nets
from _right_models.by_hand import Loop, of_rows, recipe
from _right_models.draws import clip_settings, optimizer
from _right_models.table import right


def _share(values, _weights):
    import horovod.tensorflow as hvd

    values = of_rows(values)
    rows = hvd.allreduce(tf.cast(tf.size(values), tf.float32), op=hvd.Sum, name="rows")
    return tf.reduce_sum(values) / rows


class TapeLoop(Loop):
    """With Horovod's tape, which adds up gradients."""

    def gradients(self, batch):
        """The share of this process, and gradients that are summed."""
        import horovod.tensorflow as hvd

        with tf.GradientTape() as tape:
            loss = self.loss(batch)
        tape = hvd.DistributedGradientTape(tape, op=hvd.Sum)
        # Horovod does not know variables of Keras 3, but those of TensorFlow in them.
        values = [variable.value for variable in self.trainable_variables]
        return loss, tape.gradient(loss, values)


@right(engine="horovod")
def horovod_by_hand(draw):
    """Right since local sums are divided by the rows of all processes, then summed."""
    import horovod.tensorflow as hvd

    hvd.init()
    drawn = recipe(draw, _share, [nets.dense])
    return TapeLoop(drawn), drawn.net.batch


@right(engine="horovod")
def horovod_prepared(draw):
    """Right as prepared models are under a strategy; Horovod is who adds up."""
    import horovod.tensorflow as hvd

    hvd.init()
    net = nets.net(draw, [nets.dense, nets.images, nets.series])
    settings = clip_settings(draw) if draw.chance(0.4) else {}
    names = "sum_over_batch_size", "mean_with_sample_weight"
    loss = net.head.loss(reduction=draw.of(*names))
    net.model.compile(optimizer(draw, **settings), loss)
    replicas = distloss.HorovodReplicas()
    return distloss.prepare(net.model, replicas=replicas), net.batch
