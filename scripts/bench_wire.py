"""What is waited for on a wire: one of two processes; `bench --only wire` starts them.

    bench_wire.py horovod|strategy WIDTH ROWS PAIRS [FOLDER]

Horovod's first process serves the addresses of both, and writes its port into FOLDER.
Steps alternate, and start together on both processes. Process 0 prints a line of JSON:

    plain         Horovod's tape; a strategy's own sum
    optimizer     DistributedLoss and DistributedOptimizer in the same loop
    together      the same, with all gradients in one message
    prepare       the step of a prepared model
    computed      the plain step without communication
    sum alone     the sum of tensors of the gradients' shapes, with nothing around it
"""

import json
import os
import pathlib
import sys
import time

import keras
import numpy as np
import tensorflow as tf
from _bench.link import ADDRESSES
from _bench.pairs import compared

import distloss

HIDDEN, CLASSES = 6, 10
TIMEOUT_SECONDS = 120
_ALL = 2**40  # bytes


class Horovod:
    """Processes of Horovod."""

    def __init__(self, folder):
        import horovod.tensorflow as hvd

        os.environ["HOROVOD_GLOO_RENDEZVOUS_PORT"] = str(_rendezvous(folder))
        hvd.init()
        self.rank, self.size = hvd.rank(), hvd.size()
        self._hvd, self.replicas = hvd, distloss.HorovodReplicas()
        self.together = distloss.HorovodReplicas(bucket_bytes=_ALL)

    def on_replica(self, function):
        """`function` as this replica runs it."""
        return function

    def model(self, make):
        """A model, made where its variables belong."""
        return make()

    def plain_gradients(self, tape, loss, model):
        """The sums, by the tape."""
        tape = self._hvd.DistributedGradientTape(tape, op=self._hvd.Sum)
        return tape.gradient(loss, [v.value for v in model.trainable_variables])

    def sums(self, tensors):
        """Of dense tensors, in as few messages as possible."""
        return self._hvd.grouped_allreduce(tensors, op=self._hvd.Sum, name="alone")

    def end(self):
        """Waits for the others."""
        self._hvd.shutdown()


class Strategy:
    """Workers of a MultiWorkerMirroredStrategy."""

    def __init__(self, _folder):
        options = tf.distribute.experimental.CommunicationOptions(
            timeout_seconds=TIMEOUT_SECONDS
        )
        self._strategy = tf.distribute.MultiWorkerMirroredStrategy(
            communication_options=options
        )
        self.rank = self._strategy.cluster_resolver.task_id
        self.size = self._strategy.num_replicas_in_sync
        self.replicas = distloss.StrategyReplicas()
        self.together = distloss.StrategyReplicas(bucket_bytes=_ALL)

    def on_replica(self, function):
        """As above."""

        def on_this(*arguments):
            result = self._strategy.run(function, args=arguments)
            return self._strategy.experimental_local_results(result)[0]

        return on_this

    def model(self, make):
        """As above."""
        with self._strategy.scope():
            return make()

    def plain_gradients(self, tape, loss, model):
        """Local ones: the optimizer sums them."""
        return tape.gradient(loss, model.trainable_variables)

    def sums(self, tensors):
        """As above."""
        context = tf.distribute.get_replica_context()
        return context.all_reduce("SUM", [tf.identity(t) for t in tensors])

    def end(self):
        """As above."""


class Alone:
    """No communication."""

    def on_replica(self, function):
        """As above."""
        return function

    def model(self, make):
        """As above."""
        return make()

    def plain_gradients(self, tape, loss, model):
        """As above."""
        return tape.gradient(loss, model.trainable_variables)


ENGINES = {"horovod": Horovod, "strategy": Strategy}


def _rendezvous(folder, patience=60.0):
    """The port at which the first process serves both."""
    path = pathlib.Path(folder) / "port"
    if os.environ["HOROVOD_RANK"] == "0":
        from horovod.runner.common.util import hosts
        from horovod.runner.http.http_server import RendezvousServer

        server = RendezvousServer()
        port = server.start()
        both = ",".join(f"{address}:1" for address in ADDRESSES)
        server.init(hosts.get_host_assignments(hosts.parse_hosts(both), 2))
        path.with_suffix(".new").write_text(str(port))
        path.with_suffix(".new").rename(path)
        return port
    ends = time.monotonic() + patience
    while not path.exists():
        if time.monotonic() > ends:
            raise SystemExit("bench_wire: the first process did not start")
        time.sleep(0.1)
    return int(path.read_text())


def network(width):
    """Layers of width x width, the same on each process."""
    keras.utils.set_random_seed(1)
    hidden = [keras.layers.Dense(width, "relu") for _ in range(HIDDEN)]
    return keras.Sequential(
        [keras.Input((width,)), *hidden, keras.layers.Dense(CLASSES)]
    )


def crossentropy(**options):
    """Of logits."""
    return keras.losses.SparseCategoricalCrossentropy(from_logits=True, **options)


def signature(width):
    """Of batches whose rows may vary, as those of most data sets do."""
    return [tf.TensorSpec([None, width]), tf.TensorSpec([None], tf.int32)]


def loop(engine, width, loss_of, wrap=None):
    """A step of a loop; with `wrap`, an optimizer that sums by itself."""

    def make():
        model, rule = network(width), keras.optimizers.SGD(0.01)
        rule = wrap(rule) if wrap else rule
        rule.build(model.trainable_variables)
        return model, rule, loss_of()

    model, rule, loss_fn = engine.model(make)

    def replica(x, y):
        with tf.GradientTape() as tape:
            loss = loss_fn(y, model(x, training=True))
        if wrap:
            gradients = tape.gradient(loss, model.trainable_variables)
        else:
            gradients = engine.plain_gradients(tape, loss, model)
        rule.apply(gradients, model.trainable_variables)
        return loss

    return tf.function(engine.on_replica(replica), input_signature=signature(width))


def prepared(engine, width, batch):
    """The step of a prepared model."""

    def make():
        model = network(width)
        model.compile(keras.optimizers.SGD(0.01), crossentropy(), jit_compile=False)
        return distloss.prepare(model, replicas=engine.replicas)

    model = engine.model(make)
    one = tf.data.Dataset.from_tensors(batch)
    model.fit(one, verbose=0)  # which builds

    def replica(x, y):
        return tf.reduce_mean(model.train_step((x, y))["loss"])

    return tf.function(engine.on_replica(replica), input_signature=signature(width))


def summed_alone(engine, width):
    """A sum of what has the shapes of the gradients."""
    shapes = [v.shape for v in network(width).trainable_variables]
    tensors = [tf.Variable(tf.ones(shape)) for shape in shapes]

    def replica():
        sums = engine.sums([tf.convert_to_tensor(x) for x in tensors])
        return tf.add_n([tf.reshape(x, [-1])[0] for x in sums])

    return tf.function(engine.on_replica(replica))


def met(engine):
    """A sum of one number, after which both processes start a step."""
    return tf.function(engine.on_replica(lambda: engine.replicas.sum(_one(), "met")))


def _one():
    return tf.ones(()) + 0.0 * tf.random.uniform(())


def main(name, width, rows, pairs, folder="."):
    """Measures, and prints on process 0."""
    tf.config.threading.set_intra_op_parallelism_threads(1)
    # The second starts collectives while the first computes.
    tf.config.threading.set_inter_op_parallelism_threads(2)
    engine = ENGINES[name](folder)
    random = np.random.default_rng(engine.rank)
    x = tf.constant(random.normal(size=(rows, width)), tf.float32)
    y = tf.constant(random.integers(CLASSES, size=rows), tf.int32)
    rows_of_all = rows * engine.size

    def by_hand():
        per_row = crossentropy(reduction="none")
        return lambda y, y_pred: tf.reduce_sum(per_row(y, y_pred)) / rows_of_all

    def ours():
        return distloss.DistributedLoss(crossentropy(), replicas=engine.replicas)

    def distributed(replicas):
        wrap = distloss.DistributedOptimizer
        return lambda rule: wrap(rule, replicas=replicas)

    steps = {
        "plain": loop(engine, width, by_hand),
        "optimizer": loop(engine, width, ours, distributed(engine.replicas)),
        "together": loop(engine, width, ours, distributed(engine.together)),
        "prepare": prepared(engine, width, (x, y)),
        "computed": loop(Alone(), width, by_hand),
    }
    alone, meet = summed_alone(engine, width), met(engine)
    calls = {key: lambda step=step: float(step(x, y)) for key, step in steps.items()}
    calls["sum alone"] = lambda: float(alone())
    plain = calls.pop("plain")
    found = compared(plain, calls, pairs, before=lambda: float(meet()))
    if engine.rank == 0:
        parameters = sum(v.shape.num_elements() for v in network(width).weights)
        print(json.dumps({"parameters": parameters, **found}), flush=True)
    engine.end()


if __name__ == "__main__":
    main(sys.argv[1], *map(int, sys.argv[2:5]), *sys.argv[5:])
    sys.stdout.flush()
    os._exit(0)  # not waiting for threads of servers
