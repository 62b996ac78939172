"""What Horovod's callbacks do on Keras 3, in one process: JSON to the path named first.

Alone, and in `fit` of a model that reports over all processes by ours.
"""

import json
import pathlib
import sys

import horovod.tensorflow as tensorflow_horovod
import horovod.tensorflow.keras as hvd
import problem
from horovod.tensorflow.keras import elastic

import distloss
from distloss.callbacks import elastic_state

REPLICAS = distloss.HorovodReplicas()


def state_of(model):
    return elastic_state(model, replicas=REPLICAS, epoch=0, batch=0)


CALLBACKS = {
    "BroadcastGlobalVariablesCallback": lambda cls, _: cls(0),
    "MetricAverageCallback": lambda cls, _: cls(),
    "LearningRateScheduleCallback": lambda cls, _: cls(0.1, 0.5),
    "LearningRateWarmupCallback": lambda cls, _: cls(0.1),
    "BestModelCheckpoint": lambda cls, _: cls(monitor="loss"),
    "CommitStateCallback": lambda cls, model: cls(state_of(model)),
    "UpdateBatchStateCallback": lambda cls, model: cls(state_of(model)),
    "UpdateEpochStateCallback": lambda cls, model: cls(state_of(model)),
}


def outcome(function):
    try:
        function()
    except (AttributeError, TypeError, distloss.DistlossError) as error:
        return f"{type(error).__name__}: {error}"
    return "trains"


def fit(name, prepare):
    """Under a subclass, as a user may have made one."""
    model = prepare(problem.dense("sgd", "mse"))
    cls = getattr(hvd.callbacks, name, None) or getattr(elastic, name)

    def run():
        callback = CALLBACKS[name](type("Own", (cls,), {}), model)
        problem.fitted(model, whole(), callbacks=[callback])

    return outcome(run)


def whole():
    return problem.batches(problem.whole())


def prepared(model):
    return distloss.prepare(model, replicas=REPLICAS)


def states():
    model = problem.dense("sgd", "mse")
    model.optimizer.build(model.trainable_variables)
    return outcome(lambda: elastic.KerasState(model))


def main(path):
    tensorflow_horovod.init()
    found = {
        name: {"plain": fit(name, lambda model: model), "prepared": fit(name, prepared)}
        for name in CALLBACKS
    }
    found["KerasState"] = {"plain": states()}
    pathlib.Path(path).write_text(json.dumps(found))


if __name__ == "__main__":
    main(*sys.argv[1:])
