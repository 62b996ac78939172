"""What StepCheck, check_step and DriftGuard say of two workers."""

import contextlib
import io
import warnings

import problem_of_workers as problem
import tensorflow as tf

import distloss
from distloss._keras.update_rules import parts_of
from distloss.callbacks import DriftGuard, StepCheck

# The rows that each of two workers holds of each batch.
DEALT = ((5, 3), (0, 2))


def dealt_to(strategy):
    """Batches of which each worker has its rows."""
    spans, start = [], 0
    for sizes in DEALT:
        mine = start + sum(sizes[: strategy.cluster_resolver.task_id])
        spans.append(range(mine, mine + sizes[strategy.cluster_resolver.task_id]))
        start += sum(sizes)
    parts = tf.data.Dataset.from_generator(
        lambda: (list(span) for span in spans),
        output_signature=tf.TensorSpec([None], tf.int64),
    )
    data = parts.map(problem.rows_of).map(problem.without_ids)
    data = data.apply(tf.data.experimental.assert_cardinality(len(DEALT)))
    return strategy.distribute_datasets_from_function(lambda _context: data)


def said_of(run):
    """What `run` raised, warned of and printed, and the reports that it returned."""
    found, said = {"raised": "", "reports": []}, io.StringIO()
    with contextlib.redirect_stdout(said), warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always", UserWarning)
        try:
            found["reports"] = [vars(report) for report in run()]
        except distloss.DistlossError as error:
            found["raised"] = f"{type(error).__name__}: {error}"
    found["warned"] = "\n".join(str(one.message) for one in seen)
    return {**found, "printed": said.getvalue()}


def fit(model, strategy, callback):
    options = {"steps_per_epoch": len(DEALT), "shuffle": False, "verbose": 0}
    model.fit(dealt_to(strategy), callbacks=[callback], **options)


def right_steps(strategy):
    """Two steps of fit, of whose second one worker has no rows."""
    model = problem.prepared(strategy, "Adam")
    check = StepCheck(every=1)

    def run():
        fit(model, strategy, check)
        return check.reports

    return said_of(run)


def right_step_of_a_loop(strategy):
    return said_of(lambda: [checked(strategy, problem.distributed_loss)])


def wrong_step(strategy):
    """A loop whose loss is a mean over the rows of each worker."""
    return said_of(lambda: [checked(strategy, mean_of_means)])


def mean_of_means(model, y, y_pred, weight):
    squares = tf.reduce_mean((y_pred - y) ** 2)
    return squares / tf.distribute.get_strategy().num_replicas_in_sync


def checked(strategy, loss_of):
    with strategy.scope():
        model = problem.network()
        optimizer = problem.wrapped("SGD")()
        optimizer.build(model.trainable_variables)

    def step(x, y, weight):
        with tf.GradientTape() as tape:
            loss = loss_of(model, y, model(x, training=True), weight)
        gradients = tape.gradient(loss, model.trainable_variables)
        optimizer.apply(gradients, model.trainable_variables)

    batch = next(iter(dealt_to(strategy)))
    return distloss.check_step(step, *batch, strategy=strategy)


def drift(strategy):
    """Copies that are alike; then that of worker 1 is changed."""
    model = problem.prepared(strategy, "SGD")
    guard = DriftGuard(every=1)

    def run():
        fit(model, strategy, guard)
        return []

    alike = said_of(run)
    if strategy.cluster_resolver.task_id == 1:
        for copy in parts_of(model.trainable_weights[1]):
            copy.assign_add(0.25 * tf.ones_like(copy))
    return {"alike": alike, "apart": said_of(guard.compare)}
