"""Two workers that check their sums."""

import pathlib
import sys

import checks_of_steps as of
import keras
import numpy as np
import problem_of_workers as problem
import tensorflow as tf

import distloss

sys.path.append(str(pathlib.Path(__file__).parents[2] / "helpers"))
from faults import KINDS, faulty, outcome

strategy = tf.distribute.MultiWorkerMirroredStrategy()
ME = strategy.cluster_resolver.task_id
FOLDER = pathlib.Path(sys.argv[1])
keras.utils.set_random_seed(1)
SIZE, HURT = 300, 1


class Loop:
    """Steps of SGD on gradients that are given."""

    def __init__(self, check_sums=True):
        with strategy.scope():
            self.replicas, self.fault = faulty(distloss.StrategyReplicas())
            self.weight = keras.Variable(np.ones(SIZE, "float32"), name="w")
            self.optimizer = distloss.DistributedOptimizer(
                keras.optimizers.SGD(0.1), replicas=self.replicas, check_sums=check_sums
            )
            self.optimizer.build([self.weight])

        @tf.function
        def step(gradient):
            def of_one():
                self.optimizer.apply_gradients([(gradient, self.weight)])

            strategy.run(of_one)

        self.step = step

    def __call__(self, gradient):
        with distloss.sum_errors():
            self.step(tf.constant(gradient, tf.float32))

    def values(self):
        return self.weight.value.numpy().tolist()


def gradient_of(step, worker=ME, scale=1.0):
    return scale * np.random.default_rng([step, worker]).normal(size=SIZE)


def hurt():
    """What a healthy step and a hurt one do, for each kind of fault."""
    found = {}
    for kind in KINDS:
        loop = Loop()
        loop(gradient_of(0))
        loop.fault.kind, loop.fault.at = kind, HURT
        found[kind] = outcome(lambda loop=loop: loop(gradient_of(1)), loop.values)
    return found


def not_finite():
    loop = Loop()
    loop(gradient_of(0))
    gradient = gradient_of(1)
    if ME == HURT:
        gradient[7] = np.nan
    return outcome(lambda: loop(gradient), loop.values)


def clean():
    """How far 30 steps, of gradients from 1e-8 to 1e4, are from those of NumPy."""
    loop, wanted = Loop(), np.ones(SIZE)
    for number in range(30):
        scale = 10.0 ** (number % 13 - 8)
        loop(gradient_of(number, scale=scale))
        wanted = wanted - 0.1 * sum(gradient_of(number, i, scale) for i in range(2))
    return {"off": float(np.abs(loop.values() - wanted).max() / np.abs(wanted).max())}


def collectives():
    """How many collectives a step has, without and with the check."""
    found = []
    for check_sums in (False, True):
        loop = Loop(check_sums)
        loop(gradient_of(0))
        [graph] = loop.step._list_all_concrete_functions()
        kinds = [operation.type for operation in graph.graph.get_operations()]
        found.append(sum(kind.startswith("CollectiveReduce") for kind in kinds))
    return {"counts": found}


def fit_prepared():
    """An epoch of a model whose sums are right, and one that is hurt."""
    with strategy.scope():
        replicas, fault = faulty(distloss.StrategyReplicas())
        model = problem.compiled(problem.optimizer_of("SGD"))
        distloss.prepare(model, replicas=replicas, check_sums=True)
    policy = tf.data.experimental.AutoShardPolicy.DATA
    rows = problem.sharded(tf.data.Dataset.range(problem.ROWS), policy)
    data = rows.map(problem.without_ids)
    model.fit(data, verbose=0)
    fault.kind, fault.at = "dropped", HURT
    return outcome(
        lambda: model.fit(data, verbose=0), lambda: problem.flat(model.weights)
    )


def steps():
    """What is said of steps and of copies of weights, by the name of the check."""
    checks = (of.right_steps, of.right_step_of_a_loop, of.wrong_step, of.drift)
    return {check.__name__: check(strategy) for check in checks}


CHECKS = [clean, collectives, not_finite, hurt, fit_prepared, steps]
problem.write(FOLDER, ME, problem.results_of(CHECKS))
