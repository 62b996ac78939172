"""What StepCheck and check_step say of the steps of two processes."""

import contextlib
import io
import warnings

import horovod.tensorflow as hvd
import keras
import problem
import tensorflow as tf

import distloss
from distloss.callbacks import StepCheck

REPLICAS = distloss.HorovodReplicas()
AVERAGED = distloss.HorovodReplicas(gradient_op="average")
UNEVEN = slice(0, 5), slice(5, 8)
EMPTY = slice(0, 8), slice(8, 8)
EVEN = slice(0, 4), slice(4, 8)


def mine(spans, *more):
    """Batches: of the rows that this process has of each step."""
    every = [pair[hvd.rank()] for pair in (spans, *more)]
    return problem.batches(every, (problem.X, problem.Y))


def said_of(run):
    """What `run` raised, warned of and printed, and the report that it returned."""
    found = {"raised": "", "warned": "", "report": None}
    said = io.StringIO()
    with contextlib.redirect_stdout(said), warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always", UserWarning)
        try:
            report = run()
        except distloss.DistlossError as error:
            found["raised"] = f"{type(error).__name__}: {error}"
        else:
            found["report"] = vars(report)
    found["warned"] = "\n".join(str(one.message) for one in seen)
    return {**found, "printed": said.getvalue()}


def prepared():
    model = problem.dense(problem.OPTIMIZERS["Adam"](), "mse")
    return distloss.prepare(model, replicas=REPLICAS)


def fit(model, data, **options):
    def run():
        check = StepCheck(**options)
        model.fit(data, verbose=0, shuffle=False, callbacks=[check])
        return check.reports[-1]

    return said_of(run)


def right():
    return {
        "uneven": fit(prepared(), mine(UNEVEN)),
        "empty": fit(prepared(), mine(EMPTY)),
        "three rows at a time": fit(prepared(), mine(UNEVEN), rows=3),
        "summing tape": loop(hvd.Sum, share=shared(REPLICAS)),
        "averaging tape": loop(hvd.Average, share=shared(AVERAGED)),
        "asks for the size": loop(hvd.Sum, spans=EVEN, share=mean_of_all),
    }


def leaves_no_trace():
    """Weights of a training with a check of each step, and of one without."""
    data = mine(EVEN, UNEVEN, EMPTY)
    found = []
    for callbacks in ([], [StepCheck(every=1)]):
        keras.utils.set_random_seed(1)
        model = prepared()
        with contextlib.redirect_stdout(io.StringIO()):
            model.fit(data, verbose=0, shuffle=False, callbacks=callbacks)
        state = [*model.weights, *model.optimizer.variables]
        found.append(problem.flat(state))
    return found


def loop(op, spans=UNEVEN, share=tf.reduce_mean, **options):
    """check_step of a loop with Horovod's own tape."""
    model = problem.dense("sgd", "mse")
    optimizer = problem.OPTIMIZERS["Adam"]()
    optimizer.build(model.trainable_variables)

    def step(x, y):
        with tf.GradientTape() as tape:
            loss = share(tf.square(model(x) - y)[:, 0])
        tape = hvd.DistributedGradientTape(tape, op=op)
        variables = model.trainable_variables
        values = [v.value for v in variables]
        gradients = tape.gradient(loss, values)
        optimizer.apply_gradients(zip(gradients, variables, strict=True))

    batch = [array[spans[hvd.rank()]] for array in (problem.X, problem.Y)]
    before = problem.flat(model.weights)
    found = said_of(lambda: distloss.check_step(step, *batch, **options))
    return {**found, "moved": problem.flat(model.weights) != before}


def shared(replicas):
    return lambda rows: distloss.mean_share(rows, replicas=replicas)


def mean_of_all(rows):
    return tf.reduce_mean(rows) / hvd.size()


def refuses_other_sizes(rows):
    """A mean of rows, of the sizes that a batch and its parts have, and no other."""
    is_known = tf.reduce_any(tf.shape(rows)[0] == [3, 5, 8])
    with tf.control_dependencies([tf.debugging.Assert(is_known, [rows])]):
        return tf.reduce_mean(rows)


class NoMoreThanFive(keras.layers.Layer):
    """Cannot take the rows of both processes."""

    def call(self, x):
        with tf.control_dependencies([tf.debugging.assert_less(tf.shape(x)[0], 6)]):
            return tf.identity(x)


def of_five():
    layers = [keras.Input((3,)), NoMoreThanFive(), keras.layers.Dense(1)]
    model = keras.Sequential(layers)
    model.compile("sgd", "mse")
    return distloss.prepare(model, replicas=REPLICAS)


def wrong():
    own = problem.dense(hvd.DistributedOptimizer(problem.OPTIMIZERS["SGD"]()), "mse")
    return {
        "not reduced": fit(own, mine(EVEN)),
        "mean of means": loop(hvd.Average),
        "sum of means": loop(hvd.Sum, spans=EVEN, on_failure="warn"),
        "sum of means of some sizes": loop(hvd.Sum, share=refuses_other_sizes),
        "too large for one": fit(of_five(), mine(UNEVEN)),
    }


def everything():
    return {
        "right": right(),
        "trace": leaves_no_trace(),
        "wrong": wrong(),
    }
