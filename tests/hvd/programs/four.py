"""Two process sets of 2 in a world of 4: each trains on data of its own."""

import json
import pathlib
import sys

import horovod.tensorflow as hvd
import problem
import tensorflow as tf

from distloss import DistributedLoss, DistributedOptimizer, HorovodReplicas
from distloss.callbacks import StepCheck

SETS = ([0, 1], [2, 3])
EVERYONE = HorovodReplicas()


def spans_of(number):
    """The batches of a set: the first two or the last two."""
    spans = list(problem.whole())
    return spans[:2] if number == 0 else spans[2:]


def parts(number, member):
    for span in spans_of(number):
        cut = span.start + 3 * (span.stop - span.start) // 4
        yield slice(span.start, cut) if member == 0 else slice(cut, span.stop)


def sum_of_a_constant():
    """Whether it is taken whenever the function runs; ends Horovod."""
    function = tf.function(lambda: EVERYONE.sum(tf.constant(2.0), "constant"))
    first = float(function())
    hvd.shutdown()
    try:
        return [first, float(function())]
    except tf.errors.OpError:
        return [first, "not initialized"]


def main(folder):
    process_sets = [hvd.ProcessSet(ranks) for ranks in SETS]
    hvd.init(process_sets=process_sets)
    number, member = divmod(hvd.rank(), 2)
    # one set by its object, the other by its ranks, as after loading a model
    replicas = HorovodReplicas(process_sets[0] if number == 0 else SETS[1])
    others = HorovodReplicas(process_sets[1 - number])
    loss = DistributedLoss("mse", reduction=problem.WEIGHTED, replicas=replicas)
    optimizer = DistributedOptimizer(problem.OPTIMIZERS["SGD"](), replicas=replicas)
    model = problem.dense(optimizer, loss)
    check = StepCheck()
    data = problem.batches(parts(number, member))
    result = problem.fitted(model, data, callbacks=[check])
    result["checked"] = [[report.agrees, report.rows] for report in check.reports]
    result["count"], result["outside"] = replicas.count(), others.count()
    path = pathlib.Path(folder) / f"{hvd.rank()}.json"
    # All take part, so that no set is done earlier and ends Horovod for the other.
    result["sum_of_a_constant"] = sum_of_a_constant()
    path.write_text(json.dumps(result))


if __name__ == "__main__":
    main(sys.argv[1])
