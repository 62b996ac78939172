"""What each cause means, in the user's terms, and what to change."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Model:
    """What is known of the model, for advice that it can take.

    Attributes:
      prepared: whether it went through `distloss.prepare`.
      refusal: why `distloss.prepare` does not take it; "" if it does.
      is_keras: whether it is a model of a Keras.
      horovod: whether its replicas are processes of Horovod.
    """

    prepared: bool = False
    refusal: str = ""
    is_keras: bool = True
    horovod: bool = False

    def prepare(self, arguments: str = "") -> str:
        """The call that prepares it."""
        replicas = ", replicas=distloss.HorovodReplicas()" * self.horovod
        return f"distloss.prepare(model{replicas}{arguments})"


@dataclass(frozen=True)
class Remedy:
    """What to change.

    Attributes:
      by_hand: without this package.
      own: with it, in a step of one's own.
      compiled: whether `distloss.prepare` mends it in a compiled model, too.
      arguments: of that, besides the model.
    """

    by_hand: str
    own: str = ""
    compiled: bool = False
    arguments: str = ""

    def __str__(self) -> str:
        """For a model of which nothing is known."""
        if not self.compiled:
            return self._with(self.own)
        compiled = f"{Model().prepare(self.arguments)} for a compiled model"
        return self._with(f"{compiled}, or {self.own}" if self.own else compiled)

    def of(self, model: Model) -> str:
        """For this model."""
        if not self.compiled:
            return str(self)
        if model.prepared:
            return (
                f"{self.by_hand} The model is prepared already, so it comes from what "
                "distloss.prepare does not reach (a layer, a callback or a loss that "
                "averages, divides or clips by itself), or is a fault of distloss."
            )
        if not model.is_keras:
            return self._with(self.own)
        if model.refusal:
            refused = f"distloss.prepare does not take this model: {model.refusal}"
            return f"{self._with(self.own)} ({refused})"
        return self._with(model.prepare(self.arguments))

    def _with(self, way: str) -> str:
        return f"{self.by_hand} With distloss: {way}." if way else self.by_hand


def _divided_by_all(before: str = "") -> Remedy:
    return Remedy(
        before + "By hand: divide the local sum by the rows (or weights) of the whole "
        "batch, summed over replicas.",
        "distloss.DistributedLoss(loss) for a loss, distloss.mean_share(values) for "
        "values, in a step of your own",
        compiled=True,
    )


def _optimizer(by_hand: str) -> Remedy:
    return Remedy(by_hand, "distloss.DistributedOptimizer(optimizer)", compiled=True)


_REPORT = (
    "Sum shares over replicas and average means; with Keras, let the step return "
    "its metrics. distloss.DistributedLoss shows the mean of the batch."
)

# cause, or cause and case -> (explanation, remedy)
_WORDS: dict[str, tuple[str, str | Remedy]] = {
    "sum-of-means": (
        "The gradient is N times too large: each replica computes a mean and the "
        "optimizer adds them up; nobody divides by the number of replicas.",
        _divided_by_all("A loss that returns a scalar is not divided by Keras 3. "),
    ),
    "divided-twice": (
        "The gradient is too small by the number of replicas: it is divided by N once "
        "by you and once by the framework.",
        _divided_by_all(
            "Take one of the two divisions out: Keras losses divide by N by themselves "
            "under a strategy. "
        ),
    ),
    "scaled-n-squared": (
        "The gradient is N*N times too large: it is multiplied by N, and summed over "
        "replicas besides.",
        _divided_by_all("Take the factor N out. "),
    ),
    "mean-of-means": (
        "Each replica divides by what it holds itself (rows, tokens, weights), and the "
        "means are averaged: where replicas hold unequal amounts, some rows count for "
        "more than others.",
        _divided_by_all(),
    ),
    "nominal-batch-size": (
        "The step divides by a constant number of rows, which this batch does not "
        "have: the rows of a short batch count for less.",
        _divided_by_all("Divide by the rows that are there. "),
    ),
    "empty-replica": (
        "A replica that got no rows spoils the step, as happens with the last batch "
        "of an epoch.",
        _divided_by_all(
            "A sum of no rows is 0, a mean of none is not a number: divide sums by "
            "what all replicas hold. "
        ),
    ),
    "regularization-not-scaled": (
        "A term that depends on the weights only, such as a regulariser, is counted "
        "once by each replica: N times in all.",
        "By hand: tf.nn.scale_regularization_loss(...) for such terms. With distloss: "
        "distloss.regularization_share(model.losses).",
    ),
    "added-loss-divided": (
        "A layer adds a sum over its rows to the loss, and the step divides it by the "
        "number of replicas: N replicas add up to 1/N of the sum over the batch.",
        Remedy(
            "Only what is the same on every replica may be divided by N. By hand: add "
            "the sum as it is, loss + tf.add_n(sums), and divide regularisers only.",
            "distloss.mean_share(values) of the losses of rows, in a step of your own",
            compiled=True,
        ),
    ),
    "sparse-slices-apart": (
        "A sparse gradient holds several slices of one index, as an embedding makes "
        "them of an id that comes again, and they are squared or clipped apart: the "
        "update depends on how the gradient happens to be cut, and is another one than "
        "that of the dense gradient.",
        _optimizer(
            "Add slices up by index before anything that is not linear in them. By "
            "hand: tf.convert_to_tensor(gradient), or tf.unique and "
            "tf.math.unsorted_segment_sum."
        ),
    ),
    "not-linear-in-gradient": (
        "The loss is a sum over rows, but what the step makes of its gradient is not "
        "linear in it (clipping by hand, a normalized gradient, a step uphill as in "
        "sharpness-aware minimization), and replicas do it each to its own gradient.",
        "Sum the gradients over replicas first, and do it to the sum: "
        "distloss.StrategyReplicas().sum_gradients(gradients). The optimizer sums "
        "again: give it N-th parts.",
    ),
    "clip-before-sum": (
        "Each replica clips its own gradient before they are added up, which is not "
        "the gradient of the batch, clipped.",
        _optimizer("By hand: sum the gradients over replicas first, then clip."),
    ),
    "not-reduced": (
        "Replicas update with different gradients, so that their weights drift apart: "
        "nobody adds the gradients up.",
        _optimizer(
            "By hand: under Horovod use hvd.DistributedGradientTape; "
            "hvd.DistributedOptimizer does not reduce under Keras 3. Under a strategy "
            "call optimizer.apply_gradients inside strategy.run, with an optimizer "
            "that sums over replicas."
        ),
    ),
    "overflow-not-agreed": (
        "A gradient that is infinite on one replica is not skipped on all, as it is "
        "on one device.",
        _optimizer("By hand: test the summed gradients."),
    ),
    "accumulation-mean-of-means": (
        "Accumulated batches count the same whatever their sizes: rows of a small "
        "one count for more.",
        Remedy(
            "By hand: accumulate sums and denominators, divide once.",
            "distloss.DistributedOptimizer(optimizer, accumulation_steps=K, loss=loss)",
            compiled=True,
            arguments=", microbatches=K",
        ),
    ),
    "accumulation-not-averaged": (
        "The gradients of accumulated batches are added up and not divided: they are "
        "too large by their number.",
        Remedy(
            "Divide by the number of accumulated batches, or better by their rows.",
            compiled=True,
            arguments=", microbatches=K",
        ),
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
        _REPORT,
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
    "mean-of-means, uneven": (
        "Each replica divides by the rows that it holds itself, and the means are "
        "averaged. It shows only when a batch splits unevenly: then the rows of a "
        "replica that holds fewer count for more. On an even split the gradient is "
        "right.",
        _divided_by_all(),
    ),
    "empty-replica, raises": (
        "The step raises on a replica that got no rows, as happens with the last batch "
        "of an epoch.",
        Remedy(
            "By hand: give such a replica a row whose losses have weight 0 (an "
            "operation of TensorFlow may fail on none), or drop batches with fewer "
            "rows than there are replicas.",
            compiled=True,
        ),
    ),
    "report-only, besides": (
        "The loss that is shown is not the loss of the batch either, not even on an "
        "even split.",
        _REPORT,
    ),
}

# cause -> (explanation, remedy)
CAUSES: dict[str, tuple[str, str]] = {
    cause: (explanation, str(remedy))
    for cause, (explanation, remedy) in _WORDS.items()
    if "," not in cause
}


def words_of(cause: str, case: str = "") -> tuple[str, str]:
    """Explanation and remedy of a cause, for any model; of a case of it, if given."""
    explanation, remedy = _WORDS[f"{cause}, {case}" if case else cause]
    return explanation, str(remedy)


def remedy_for(remedy: str, model: Model) -> str:
    """A remedy of `words_of`, as advice that this model can take."""
    for _, known in _WORDS.values():
        if isinstance(known, Remedy) and str(known) == remedy:
            return known.of(model)
    return remedy
