"""What each cause means, in the user's terms, and what to change."""

from __future__ import annotations

_LOSS = (
    "By hand: divide the local sum by the rows (or weights) of the whole batch, "
    "summed over replicas. With distloss: distloss.prepare(model) for a compiled "
    "model, distloss.DistributedLoss(loss) for a loss, distloss.mean_share(values) "
    "in a loop of your own."
)

# cause -> (explanation, remedy)
CAUSES: dict[str, tuple[str, str]] = {
    "sum-of-means": (
        "The gradient is N times too large: each replica computes a mean and the "
        "optimizer adds them up; nobody divides by the number of replicas.",
        "A loss that returns a scalar is not divided by Keras 3. " + _LOSS,
    ),
    "divided-twice": (
        "The gradient is too small by the number of replicas: it is divided by N once "
        "by you and once by the framework.",
        "Take one of the two divisions out: Keras losses divide by N by themselves "
        "under a strategy. " + _LOSS,
    ),
    "scaled-n-squared": (
        "The gradient is N*N times too large: it is multiplied by N, and summed over "
        "replicas besides.",
        "Take the factor N out. " + _LOSS,
    ),
    "mean-of-means": (
        "Each replica divides by what it holds itself (rows, tokens, weights), and the "
        "means are averaged: where replicas hold unequal amounts, some rows count for "
        "more than others.",
        _LOSS,
    ),
    "nominal-batch-size": (
        "The step divides by a constant number of rows, which this batch does not "
        "have: the rows of a short batch count for less.",
        "Divide by the rows that are there. " + _LOSS,
    ),
    "empty-replica": (
        "A replica that got no rows spoils the step, as happens with the last batch "
        "of an epoch.",
        "A sum of no rows is 0, a mean of none is not a number: divide sums by what "
        "all replicas hold. " + _LOSS,
    ),
    "regularization-not-scaled": (
        "A term that depends on the weights only, such as a regulariser, is counted "
        "once by each replica: N times in all.",
        "By hand: tf.nn.scale_regularization_loss(...) for such terms. With distloss: "
        "distloss.regularization_share(model.losses).",
    ),
    "clip-before-sum": (
        "Each replica clips its own gradient before they are added up, which is not "
        "the gradient of the batch, clipped.",
        "By hand: sum the gradients over replicas first, then clip. With distloss: "
        "distloss.DistributedOptimizer(optimizer), or distloss.prepare(model).",
    ),
    "not-reduced": (
        "Replicas update with different gradients, so that their weights drift apart: "
        "nobody adds the gradients up.",
        "Under Horovod use hvd.DistributedGradientTape, or distloss.prepare(model, "
        "replicas=distloss.HorovodReplicas()); hvd.DistributedOptimizer does not "
        "reduce under Keras 3. Under a strategy call optimizer.apply_gradients inside "
        "strategy.run, with an optimizer that sums over replicas.",
    ),
    "overflow-not-agreed": (
        "A gradient that is infinite on one replica is not skipped on all, as it is "
        "on one device.",
        "By hand: test the summed gradients. With distloss: "
        "distloss.DistributedOptimizer(optimizer), or distloss.prepare(model).",
    ),
    "accumulation-mean-of-means": (
        "Accumulated batches count the same whatever their sizes: rows of a small "
        "one count for more.",
        "By hand: accumulate sums and denominators, divide once. With distloss: "
        "distloss.DistributedOptimizer(optimizer, accumulation_steps=K, loss=loss), or "
        "distloss.prepare(model, microbatches=K).",
    ),
    "accumulation-not-averaged": (
        "The gradients of accumulated batches are added up and not divided: they are "
        "too large by their number.",
        "Divide by the number of accumulated batches, or better by their rows. With "
        "distloss: distloss.prepare(model, microbatches=K).",
    ),
    "batch-statistics": (
        "BatchNormalization normalises by the rows of its replica, so that the model "
        "itself is another one on N replicas; with it frozen, the difference is gone.",
        "keras.layers.BatchNormalization(synchronized=True), or another "
        "normalization, or accept it: the scale of the loss is right.",
    ),
    "not-decomposable": (
        "The loss of the batch is no weighted sum of losses of rows, so no factor "
        "makes the parts add up: it compares rows, is a ratio of sums, or adds up "
        "means with different denominators.",
        "Take means each with its own denominator (distloss.mean_share for each). Sum "
        "over replicas what a ratio consists of before it is taken, or gather the "
        "other rows; mind that gradients are summed once more.",
    ),
    "report-only": (
        "The gradient is right; the loss that is shown is not the loss of the batch.",
        "Sum shares over replicas and average means; with Keras, let the step return "
        "its metrics. distloss.DistributedLoss shows the mean of the batch.",
    ),
    "nondeterministic": (
        "Two runs of the same step on the same rows differ, so that no split can be "
        "compared with another.",
        "Seed what is random, or turn it off in build().",
    ),
    "variables-scaled-apart": (
        "Some variables get gradients of another scale than the others.",
        "Look at how the gradients of these variables are reduced: sparse ones, or "
        "those of one replica, may be summed where others are averaged.",
    ),
    "elements-divided-by-rows": (
        "A loss of pixels or tokens is divided by the number of rows only: it grows "
        "with the size of an image or the length of a text, on one device, too.",
        "Take the mean over pixels or tokens first: tf.reduce_mean(loss, axis=...), or "
        "distloss.mean_share(values), which counts elements.",
    ),
    "weights-divided-by-rows": (
        "The mean of weighted losses is no weighted mean: it is divided by the number "
        "of rows, not by the sum of the weights.",
        "tf.reduce_sum(loss * weight) / sum of weights over all replicas, or "
        "distloss.mean_share(values, weight).",
    ),
    "batch-size-as-weight": (
        "The batch size went to compute_average_loss in the place of sample_weight: "
        "the gradient is multiplied by it.",
        "tf.nn.compute_average_loss(loss, global_batch_size=...), by its name.",
    ),
    "batch-dealt-twice": (
        "The data set gives the same rows to several replicas: each of them counts "
        "several times, and the batch is that much smaller than it looks.",
        "Let tf.distribute split batches (strategy.experimental_distribute_dataset), "
        "or shard the rows yourself: dataset.shard(context.num_input_pipelines, "
        "context.input_pipeline_id), in batches of "
        "context.get_per_replica_batch_size(global_batch_size).",
    ),
    "batch-grows-with-replicas": (
        "Each replica gets a batch of its own size, so the batch of all of them is "
        "another one than on one replica.",
        "Batch by context.get_per_replica_batch_size(global_batch_size) in the "
        "function that is given to distribute_datasets_from_function.",
    ),
    "unexplained": (
        "The gradient depends on how the batch is split; the cause could not be told.",
        "See the evidence for what was tried.",
    ),
}
