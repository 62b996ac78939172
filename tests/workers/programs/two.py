"""Two workers: loops, fit and ways to deal rows; then one does not come to a step."""

import functools
import pathlib
import sys
import time

import keras
import problem_of_workers as problem
import tensorflow as tf

import distloss

strategy = tf.distribute.MultiWorkerMirroredStrategy()
ME = strategy.cluster_resolver.task_id
FOLDER = pathlib.Path(sys.argv[1])
keras.utils.set_random_seed(ME)  # all must start from the weights of the first
POLICY = tf.data.experimental.AutoShardPolicy


def whole():
    return problem.sharded(tf.data.Dataset.range(problem.ROWS), POLICY.DATA)


def in_a_loop(batches, loss_of=problem.distributed_loss, optimizer=None):
    batches = strategy.experimental_distribute_dataset(batches)
    optimizer = optimizer or problem.wrapped("SGD")
    return problem.trained_in_a_loop(strategy, batches, loss_of, optimizer)


def loop_with_wrappers():
    return in_a_loop(whole())


def loop_with_mean_share():
    plain = functools.partial(problem.optimizer_of, "Adam")
    return in_a_loop(whole(), problem.share_of_mean, plain)


def loop_with_means_of_means():
    return in_a_loop(whole(), problem.mean_of_means)


def loop_over_files():
    return in_a_loop(problem.from_files(FOLDER, POLICY.FILE))


def loop_over_own_rows():
    """Every second row, which TensorFlow does not deal."""
    own = tf.data.Dataset.range(ME, problem.ROWS, 2)
    return in_a_loop(problem.sharded(own, POLICY.OFF))


def loop_in_buckets():
    """Each gradient is summed by itself."""
    replicas = distloss.StrategyReplicas(bucket_bytes=1)
    return in_a_loop(whole(), optimizer=problem.wrapped("SGD", replicas=replicas))


def sums_in_16_bits():
    """Of 1/3 and 1e5 of each worker, dense and as slices."""
    parts = tf.constant([1 / 3, 1e5])
    slices = tf.IndexedSlices(parts, tf.constant([0, 1]), tf.constant([2]))
    found = {}
    for compression in ("fp16", "bf16"):
        replicas = distloss.StrategyReplicas(compression=compression)
        summed = tf.function(functools.partial(replicas.sum_gradients, [parts, slices]))
        sums = strategy.run(summed)
        found[compression] = [tf.convert_to_tensor(x).numpy().tolist() for x in sums]
    return found


def loop_that_accumulates():
    optimizer = problem.wrapped("SGD", accumulation_steps=2, loss=problem.LOSS)
    return in_a_loop(whole(), optimizer=optimizer)


def overflow_on_one_worker():
    """An infinite gradient on worker 1 alone."""
    with strategy.scope():
        weight = keras.Variable([1.0])
        inner = keras.optimizers.SGD(0.1)
        optimizer = keras.optimizers.LossScaleOptimizer(inner, initial_scale=64.0)
        optimizer = distloss.DistributedOptimizer(optimizer)
        optimizer.build([weight])

    @tf.function
    def step(gradient):
        def replica_step():
            optimizer.apply_gradients([(gradient[tf.newaxis], weight)])

        strategy.run(replica_step)

    step(tf.constant([64.0, float("inf")][ME]))
    skipped = float(weight.value.numpy()[0])
    step(tf.constant([32.0, 64.0][ME]))  # of a loss scaled by 32
    scale = float(optimizer.dynamic_scale.numpy())
    return {
        "skipped": skipped,
        "weight": float(weight.value.numpy()[0]),
        "scale": scale,
    }


def losses_in_another_order():
    names = ["mse", "mae"] if ME == 0 else ["mae", "mse"]
    losses = [distloss.DistributedLoss(name) for name in names]

    @tf.function
    def step():
        return strategy.run(
            lambda: [f(tf.zeros([2, 1]), tf.ones([2, 1])) for f in losses]
        )

    try:
        step()
    except tf.errors.InvalidArgumentError as error:
        return {"raised": str(error)}
    return {"raised": None}


def fit_prepared():
    model = problem.prepared(strategy, "SGD")
    data = whole().map(problem.without_ids)
    result = problem.fitted(model, data, validation_data=data)
    result["predicted"] = model.predict(problem.X, verbose=0).ravel().tolist()
    return result


def fit_prepared_in_parts():
    model = problem.prepared(strategy, "Adam", microbatches=3)
    return problem.fitted(model, whole().map(problem.without_ids))


def fit_prepared_over_files():
    model = problem.prepared(strategy, "SGD")
    return problem.fitted(
        model, problem.from_files(FOLDER, POLICY.FILE).map(problem.without_ids)
    )


def fit_of_plain_keras():
    with strategy.scope():
        model = problem.compiled(problem.optimizer_of("SGD"))
    try:
        problem.fitted(model, whole().map(problem.without_ids))
    except Exception as error:
        return {"raised": type(error).__name__}
    return {"raised": None}


def tf_keras_model():
    import tf_keras

    layers = [tf_keras.layers.Dense(4, "tanh"), tf_keras.layers.Dense(1)]
    return tf_keras.Sequential([tf_keras.Input((3,)), *layers]), tf_keras


def fit_of_tf_keras(distribute=lambda model: model):
    """Also what its one device gives, from the weights that the workers start with."""
    data = whole().map(lambda _, x, y, weight: (x[:, 0], y[:, 0], weight[:, 0]))
    with strategy.scope():
        model, tf_keras = tf_keras_model()
        model.compile(tf_keras.optimizers.SGD(0.1, global_clipnorm=0.3), "mse")
    alone, _ = tf_keras_model()
    alone.compile(tf_keras.optimizers.SGD(0.1, global_clipnorm=0.3), "mse")
    alone.set_weights(model.get_weights())
    wanted = problem.fitted(alone, data)["weights"]
    return {**problem.fitted(distribute(model), data), "wanted": wanted}


def fit_of_tf_keras_prepared():
    return fit_of_tf_keras(distloss.prepare)


def fit_of_own_steps():
    """Also what one device gives, from the weights that the workers start with."""
    results, data = {}, whole().map(problem.without_ids)
    for name, make in problem.OWN.items():
        with strategy.scope():
            model = distloss.prepare(make())
        alone = make()
        alone.set_weights(model.get_weights())
        wanted = problem.fitted(alone, data)
        results[name] = {**problem.fitted(model, data), "wanted": wanted}
    return results


CHECKS = [
    fit_of_own_steps,
    loop_with_wrappers,
    loop_with_mean_share,
    loop_with_means_of_means,
    loop_over_files,
    loop_over_own_rows,
    loop_in_buckets,
    sums_in_16_bits,
    loop_that_accumulates,
    overflow_on_one_worker,
    losses_in_another_order,
    fit_prepared,
    fit_prepared_in_parts,
    fit_prepared_over_files,
    fit_of_plain_keras,
    fit_of_tf_keras,
    fit_of_tf_keras_prepared,
]


def missing_worker():
    """Worker 1 lives, but does not come to a sum."""
    if ME == 1:
        while not (FOLDER / "missed0.json").exists():
            time.sleep(0.1)
        return
    # As MultiWorkerMirroredStrategy(communication_options=CommunicationOptions(
    # timeout_seconds=3)) sets it, which above would also end a slow first step.
    strategy.extended._communication_options.timeout_seconds = 3
    began = time.monotonic()

    @tf.function
    def step():
        return strategy.run(lambda: distloss.mean_share(tf.ones([2])))

    try:
        step()
        raised = None
    except tf.errors.OpError as error:
        raised = type(error).__name__
    seconds = time.monotonic() - began
    problem.write(FOLDER, ME, {"raised": raised, "seconds": seconds}, "missed")


problem.write(FOLDER, ME, problem.results_of(CHECKS))
missing_worker()
