"""What 3 Horovod processes do, written as JSON per rank to the folder named first.

Then one of them is killed.
"""

import itertools
import json
import pathlib
import sys
import traceback

import horovod.tensorflow as hvd
import keras
import killed
import numpy as np
import problem
import tensorflow as tf
from compressed import compressed
from in_buckets import in_buckets
from problem import MEAN, OPTIMIZERS, WEIGHTED

import distloss
from distloss import DistributedLoss, DistributedOptimizer, HorovodReplicas
from distloss.callbacks import (
    BroadcastState,
    DriftGuard,
    GlobalMetrics,
    StepCheck,
    elastic_state,
)
from distloss.data import in_step

REPLICAS = HorovodReplicas()
AVERAGED = HorovodReplicas(gradient_op="average")


def mine():
    return problem.batches(problem.dealt(hvd.rank()))


def wrapped(name, reduction=MEAN, **options):
    loss = DistributedLoss("mse", reduction=reduction, replicas=REPLICAS)
    optimizer = DistributedOptimizer(OPTIMIZERS[name](), replicas=REPLICAS, **options)
    return optimizer, loss


def one_more_model():
    """On rank 0 only: names and graphs that the others do not have."""
    if hvd.rank() == 0:
        extra = problem.dense(
            "sgd", DistributedLoss("mae", replicas=distloss.OneDevice())
        )
        extra.fit(problem.X, problem.Y, verbose=0)


def fit_with_wrappers():
    one_more_model()
    results = {}
    for name, reduction in itertools.product(OPTIMIZERS, (MEAN, WEIGHTED)):
        model = problem.dense(*wrapped(name, reduction))
        fitted = problem.fitted(model, mine(), callbacks=[GlobalMetrics()])
        results[f"{name} {reduction}"] = fitted
    return results


def fit_with_horovods_own_optimizer():
    optimizer = hvd.DistributedOptimizer(OPTIMIZERS["SGD"]())
    return problem.fitted(problem.dense(optimizer, "mse"), mine())


def fit_prepared(microbatches, optimizer=None):
    losses = [keras.losses.MeanSquaredError(reduction=r) for r in (MEAN, WEIGHTED)]
    model = problem.two_outputs(optimizer or OPTIMIZERS["Adam"](), losses)
    distloss.prepare(model, replicas=REPLICAS, microbatches=microbatches)
    data = problem.two_targets(problem.dealt(hvd.rank()))
    result = problem.fitted(model, data, validation_data=data)
    return {**result, "evaluate": model.evaluate(data, verbose=0, return_dict=True)}


def custom_loop(make_tape, replicas):
    model = problem.dense("sgd", "mse")
    optimizer = OPTIMIZERS["Adam"]()
    loss_fn = DistributedLoss("mse", reduction=WEIGHTED, replicas=replicas)

    # Traced once, for Horovod's own tape takes names from the graph, and the graphs of
    # a process with one row and of one with two differ.
    @tf.function(input_signature=mine().element_spec)
    def step(x, y, weight):
        with tf.GradientTape() as tape:
            error = model(x) - y
            regularizer = 0.1 * tf.reduce_sum(model.weights[0] ** 2)
            value = loss_fn(y, model(x), weight)
            total = (
                value
                + distloss.mean_share(error**4, replicas=replicas)
                + distloss.regularization_share(regularizer, replicas=replicas)
            )
        variables = model.trainable_variables
        values = [v.value for v in variables]  # Horovod wants a tf.Variable
        gradients = make_tape(tape).gradient(total, values)
        optimizer.apply_gradients(zip(gradients, variables, strict=True))
        return value

    values = [float(step(*batch)) for batch in mine()]
    return {"weights": problem.flat(model.weights), "values": values}


def averaging_tape():
    return custom_loop(hvd.DistributedGradientTape, AVERAGED)


def summing_tape():
    def make_tape(tape):
        return hvd.DistributedGradientTape(tape, op=hvd.Sum)

    return custom_loop(make_tape, REPLICAS)


def embeddings():
    data = problem.batches(problem.dealt(hvd.rank()), (problem.IDS, problem.Y))
    return problem.fitted(problem.embedding(*wrapped("Adam")), data)


def overflow():
    """Inf on rank 2 only, in the first batch of two."""
    keras.config.set_dtype_policy("mixed_float16")
    try:
        model = problem.dense("sgd", DistributedLoss("mse", replicas=REPLICAS))
        optimizer = keras.optimizers.LossScaleOptimizer(
            keras.optimizers.SGD(0.1, momentum=0.9), initial_scale=64.0
        )
        model.compile(DistributedOptimizer(optimizer, replicas=REPLICAS), model.loss)
        x, y = problem.X[:6], problem.Y[:6].copy()
        before = problem.flat(model.weights)
        y[5] = np.inf  # of rank 2, which has two of the six rows
        span = slice(2 * hvd.rank(), 2 * hvd.rank() + 2)
        model.train_on_batch(x[span], y[span])
        skipped = problem.flat(model.weights)
        scale = float(model.optimizer.dynamic_scale.numpy())
        model.train_on_batch(x[span], problem.Y[:6][span])
    finally:
        keras.config.set_dtype_policy("float32")
    return {
        "before": before,
        "skipped": skipped,
        "scale": scale,
        "iterations": int(model.optimizer.iterations.numpy()),
        "weights": problem.flat(model.weights),
    }


def accumulation():
    loss = DistributedLoss("mse", reduction=WEIGHTED, replicas=REPLICAS)
    optimizer = DistributedOptimizer(
        OPTIMIZERS["Adam"](), replicas=REPLICAS, accumulation_steps=2, loss=loss
    )
    return problem.fitted(problem.dense(optimizer, loss), mine())


def half_precision_gradients():
    replicas = HorovodReplicas(compression=hvd.Compression.fp16)
    optimizer = DistributedOptimizer(OPTIMIZERS["SGD"](), replicas=replicas)
    loss = DistributedLoss("mse", replicas=replicas)
    return problem.fitted(problem.dense(optimizer, loss), mine())


def unequal_numbers_of_batches():
    """Rank r has the batches r, r + 3, ... of 4: 2, 1 and 1 of them."""
    spans = list(problem.whole())[hvd.rank() :: 3]
    data = in_step(problem.batches(spans), replicas=REPLICAS)
    counted = in_step(problem.batches(spans).filter(lambda *_: True), replicas=REPLICAS)
    model = problem.dense(*wrapped("Adam", WEIGHTED))
    result = problem.fitted(model, data, callbacks=[GlobalMetrics()])
    lengths = [sum(1 for _ in data), sum(1 for _ in counted)]
    rows = sum(len(x) for x, *_ in data)
    return {**result, "lengths": lengths, "rows": rows}


def metric():
    mean = distloss.GlobalMean(replicas=REPLICAS)
    for _, y, weight in mine():
        mean.update_state(y[:, 0], weight)
    return float(mean.result())


def broadcast():
    """Only rank 0 has trained, as if it had loaded a checkpoint."""
    optimizer, loss = wrapped("Adam")
    model = problem.dense(optimizer, loss)
    if hvd.rank() == 0:
        plain = problem.dense(OPTIMIZERS["Adam"](), "mse")
        plain.fit(problem.X, problem.Y, verbose=0)
        model.set_weights(plain.get_weights())
        optimizer.build(model.trainable_variables)
        for ours, theirs in zip(
            optimizer.variables, plain.optimizer.variables, strict=True
        ):
            ours.assign(theirs)
    else:
        model.set_weights([w + hvd.rank() for w in model.get_weights()])
    callbacks = [BroadcastState(REPLICAS), DriftGuard(REPLICAS, every=1)]
    result = problem.fitted(model, mine(), callbacks=callbacks)
    return {**result, "state": problem.flat(optimizer.variables)}


def caught(function):
    try:
        function()
    except distloss.DistlossError as error:
        return f"{type(error).__name__}: {error}"
    return "no error"


def drift():
    model = problem.dense(*wrapped("SGD"))
    if hvd.rank() == 1:
        model.layers[1].bias.assign([0.25])
    guard = DriftGuard(REPLICAS, every=2)
    return caught(lambda: model.fit(mine(), callbacks=[guard], verbose=0))


def drift_of_horovods_own_optimizer():
    model = problem.dense(hvd.DistributedOptimizer(OPTIMIZERS["SGD"]()), "mse")
    guard = DriftGuard(REPLICAS, every=2)
    return caught(lambda: model.fit(mine(), callbacks=[guard], verbose=0))


def other_models():
    units = 2 + hvd.rank()
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(units)])
    model.compile(*wrapped("SGD"))
    callback = BroadcastState(REPLICAS)
    callback.set_model(model)
    return caught(callback.on_train_begin)


def refusals():
    unbuilt = keras.Sequential([keras.layers.Dense(1)])
    unbuilt.compile(*wrapped("SGD"))
    callback = BroadcastState(REPLICAS)
    callback.set_model(unbuilt)
    horovods = hvd.DistributedOptimizer(OPTIMIZERS["SGD"]())
    model = problem.dense(horovods, "mse")
    return {
        "loss": caught(lambda: DistributedLoss("mse")),
        "optimizer": caught(lambda: DistributedOptimizer("sgd")),
        "prepare": caught(lambda: distloss.prepare(problem.dense("sgd", "mse"))),
        "share": caught(lambda: distloss.mean_share([1.0])),
        "unknown set": caught(lambda: HorovodReplicas([0, 1]).sum(tf.constant(1.0))),
        "horovods optimizer": caught(
            lambda: DistributedOptimizer(horovods, replicas=REPLICAS)
        ),
        "prepare horovods": caught(lambda: distloss.prepare(model, replicas=REPLICAS)),
        "not built": caught(callback.on_train_begin),
        "endless": caught(lambda: in_step(mine().repeat(), replicas=REPLICAS)),
    }


def same_names_after_another_trace():
    """Rank 1 traces more often than the others, eagerly and in graphs."""
    function = tf.function(lambda x: REPLICAS.sum(tf.reduce_sum(x), "again"))
    sizes = [2, 3, 4] if hvd.rank() == 1 else [2, 2, 2]
    return [float(function(tf.ones(size))) for size in sizes]


def tf_keras_loop():
    import tf_keras

    model = problem.dense("sgd", "mse")
    variables = [variable.value for variable in model.trainable_variables]
    inner = tf_keras.optimizers.SGD(0.1, momentum=0.9, global_clipnorm=0.3)
    optimizer = DistributedOptimizer(inner, replicas=REPLICAS)
    loss_fn = DistributedLoss("mse", reduction=WEIGHTED, replicas=REPLICAS)
    for x, y, weight in mine():
        with tf.GradientTape() as tape:
            value = loss_fn(y, model(x), weight)
        gradients = tape.gradient(value, variables)
        optimizer.apply_gradients(zip(gradients, variables, strict=True))
    is_same_class = isinstance(optimizer, tf_keras.optimizers.SGD)
    return {"weights": problem.flat(variables), "is_same_class": is_same_class}


def wrapped_of_tf_keras():
    import tf_keras

    loss = tf_keras.losses.MeanSquaredError()
    inner = problem.adam_of_tf_keras()
    optimizer = DistributedOptimizer(inner, replicas=REPLICAS)
    loss = DistributedLoss(loss, reduction=WEIGHTED, replicas=REPLICAS)
    return problem.dense_of_tf_keras(optimizer, loss)


def tf_keras_callbacks():
    """Only rank 0 has the weights that all are to start from."""
    model = wrapped_of_tf_keras()
    model.set_weights([w + hvd.rank() for w in model.get_weights()])
    every = [BroadcastState(REPLICAS), GlobalMetrics(REPLICAS)]
    guard = DriftGuard(REPLICAS, every=1)
    result = problem.fitted(model, mine(), callbacks=[*every, guard])
    report = model.evaluate(mine(), verbose=0, return_dict=True)
    return {**result, "evaluate": report}


def tf_keras_drift():
    model = wrapped_of_tf_keras()
    if hvd.rank() == 1:
        model.layers[1].bias.assign([0.25])
    guard = DriftGuard(REPLICAS, every=2)
    return caught(lambda: model.fit(mine(), callbacks=[guard], verbose=0))


def tf_keras_elastic_state():
    """What was committed on rank 0 is what all have after a reset."""
    model = wrapped_of_tf_keras()
    state = elastic_state(model, replicas=REPLICAS, epoch=3)
    model.set_weights([w + 1 + hvd.rank() for w in model.get_weights()])
    state.commit()
    model.set_weights([0 * w for w in model.get_weights()])
    state.restore()
    state.sync()
    return {"weights": problem.flat(model.weights), "epoch": state.epoch}


def prepared_whole():
    return fit_prepared(1)


def prepared_in_parts():
    return fit_prepared(2)


def prepared_under_a_loss_scale():
    """Which is not ours until it is built, in the first step."""
    inner = DistributedOptimizer(OPTIMIZERS["Adam"](), replicas=REPLICAS)
    return fit_prepared(1, keras.optimizers.LossScaleOptimizer(inner))


def own_steps():
    """Models with a step of their own, prepared; and one of them that is not."""
    results = {}
    for name, make in problem.OWN.items():
        model = distloss.prepare(make(), replicas=REPLICAS)
        results[name] = problem.fitted(model, in_step(mine()))
    results["unprepared"] = problem.fitted(problem.own_means(), mine())
    return results


def own_loop():
    """A step of a loop, in which each process has its own rows."""
    model = problem.own_means()
    optimizer = DistributedOptimizer(OPTIMIZERS["SGD"](), replicas=REPLICAS)
    model.optimizer = optimizer
    step = distloss.row_weighted(model.train_step, model, replicas=REPLICAS)
    step = tf.function(step, reduce_retracing=True)
    fourth = [float(step(b)["fourth"]) for b in in_step(mine()) for _ in range(2)]
    return {"weights": problem.flat(model.weights), "fourth": fourth}


def steps_checked():
    """What StepCheck says of each step: of the third process at times without rows."""
    models = {
        "prepared": distloss.prepare(problem.own_means(), replicas=REPLICAS),
        "wrapped": problem.dense(*wrapped("Adam", WEIGHTED)),
        "of tf-keras": wrapped_of_tf_keras(),
    }
    found = {}
    for name, model in models.items():
        check = StepCheck(every=1)
        model.fit(mine().take(2), verbose=0, callbacks=[check])
        found[name] = [[report.agrees, report.rows] for report in check.reports]
    return found


CHECKS = (
    own_steps,
    steps_checked,
    own_loop,
    fit_with_wrappers,
    fit_with_horovods_own_optimizer,
    prepared_whole,
    prepared_in_parts,
    prepared_under_a_loss_scale,
    averaging_tape,
    summing_tape,
    embeddings,
    overflow,
    accumulation,
    half_precision_gradients,
    compressed,
    unequal_numbers_of_batches,
    in_buckets,
    metric,
    broadcast,
    drift,
    drift_of_horovods_own_optimizer,
    other_models,
    refusals,
    same_names_after_another_trace,
    tf_keras_loop,
    tf_keras_callbacks,
    tf_keras_drift,
    tf_keras_elastic_state,
)


def result_of(check):
    """Its result, or a traceback, so that the other checks still run."""
    try:
        return check()
    except Exception:
        traceback.print_exc()
        return traceback.format_exc()


def main(folder, *names):
    """Runs the checks of these names, or all and then the end of a process."""
    hvd.init()
    path, results = pathlib.Path(folder) / f"{hvd.rank()}.json", {}
    for check in CHECKS:
        if not names or check.__name__ in names:
            print(f"{path.stem}: {check.__name__}", flush=True)
            results[check.__name__] = result_of(check)
    path.write_text(json.dumps(results))
    if not names:
        killed.train(folder)


if __name__ == "__main__":
    main(*sys.argv[1:])
