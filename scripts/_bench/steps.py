"""Training steps to compare: by hand, with distloss, and those of Keras' `fit`."""

import contextlib

import keras
import tensorflow as tf

import distloss
from _bench.models import MODELS, crossentropy, with_own_step
from _bench.pairs import operations

# Steps of `fit` are kept until the program ends, and it ends without destroying them:
# an iterator over many replicas that lived for seconds takes up to a minute to be
# destroyed, because it waits for the thread of tf.data that tunes it.
_KEPT = []


def distributed(strategy, arrays):
    """The rows of each replica, held on the devices: no input pipeline is measured."""
    count = strategy.num_replicas_in_sync

    def part(array):
        size = len(array) // count
        parts = [tf.constant(array[i * size : (i + 1) * size]) for i in range(count)]
        if count == 1:
            return parts[0]
        return strategy.experimental_distribute_values_from_function(
            lambda context: parts[context.replica_id_in_sync_group]
        )

    return tuple(part(array) for array in arrays)


@contextlib.contextmanager
def layers_of(policy):
    """New layers have this dtype policy."""
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(policy)
    try:
        yield
    finally:
        keras.config.set_dtype_policy(before)


class LoopStep:
    """One step of a custom loop, traced."""

    def __init__(self, strategy, name, loss_of, optimizer=None, rows=64):
        with strategy.scope():
            model, x, y = MODELS[name](rows)
            update = (optimizer or plain_sgd)()
            update.build(model.trainable_variables)
        self._batch = distributed(strategy, (x, y))

        def replica(x, y):
            with tf.GradientTape() as tape:
                loss = loss_of(y, model(x, training=True))
                scaled = update.scale_loss(loss)
            gradients = tape.gradient(scaled, model.trainable_variables)
            update.apply(gradients, model.trainable_variables)
            return loss

        def step(batch):
            return strategy.reduce("SUM", strategy.run(replica, args=batch), axis=None)

        self._python_step = step
        self._step = tf.function(step)
        self._step.get_concrete_function(self._batch)

    def __call__(self):
        float(self._step(self._batch))

    def trace(self):
        """Traces anew; the step that is called stays as it was."""
        tf.function(self._python_step).get_concrete_function(self._batch)

    @property
    def operations(self):
        """How many the graph has, with those of its functions."""
        return len(operations(self._step.get_concrete_function(self._batch).graph))


class FitStep:
    """What `fit` runs for each batch of a compiled model."""

    make = staticmethod(lambda name: MODELS[name])

    def __init__(self, strategy, name, optimizer=None, rows=64, **prepared):
        """`prepared`: arguments of `distloss.prepare`; none for plain Keras."""
        with strategy.scope():
            model, x, y = self.make(name)(rows)
            model.compile((optimizer or plain_sgd)(), crossentropy(), jit_compile=False)
            if prepared:
                distloss.prepare(model, **prepared)
        self.model, self._strategy = model, strategy
        model.fit(x, y, rows, shuffle=False, verbose=0)  # which builds
        data = tf.data.Dataset.from_tensors((x, y)).repeat()
        self._batches = iter(strategy.experimental_distribute_dataset(data))
        self.trace()
        _KEPT.append(self)

    def __call__(self):
        self.model.train_function(self._batches)
        self.model._loss_tracker.count.numpy()  # waits until the step is done

    def trace(self):
        """Makes the train function anew, which its first step traces."""
        self.model.make_train_function(force=True)
        self()

    @property
    def operations(self):
        """How many the graph of a step has, with those of its functions."""

        @tf.function
        def step(batches):
            return self._strategy.run(self.model.train_step, args=(next(batches),))

        return len(operations(step.get_concrete_function(self._batches).graph))


class OwnFitStep(FitStep):
    """The same for a model with a train_step of its own."""

    make = staticmethod(lambda name: with_own_step(MODELS[name]))


def plain_sgd(**options):
    """The update rule that costs least, so that everything else shows most."""
    return keras.optimizers.SGD(0.01, **options)


# -- losses of a loop


def by_hand_static(rows):
    """`tf.nn.compute_average_loss` with the rows of the whole batch."""
    per_element = crossentropy(reduction="none")

    def loss_of(y, y_pred):
        values = per_element(y, y_pred)
        axes = list(range(1, values.shape.rank))
        values = tf.reduce_mean(values, axes) if axes else values
        return tf.nn.compute_average_loss(values, global_batch_size=rows)

    return loss_of


def by_hand_counted(_rows):
    """What a careful user writes: the sum of losses over the number of all elements."""
    per_element = crossentropy(reduction="none")

    def loss_of(y, y_pred):
        values = per_element(y, y_pred)
        mask = getattr(y_pred, "_keras_mask", None)
        weights = tf.ones_like(values) if mask is None else tf.cast(mask, values.dtype)
        count = tf.stop_gradient(tf.reduce_sum(weights))
        context = tf.distribute.get_replica_context()
        if tf.distribute.get_strategy().num_replicas_in_sync > 1:
            count = context.all_reduce("SUM", tf.identity(count))
        return tf.reduce_sum(values * weights) / count

    return loss_of


def counted(_rows):
    """DistributedLoss that counts."""
    return distloss.DistributedLoss(crossentropy())


def static(rows):
    """DistributedLoss with a fixed number of rows."""
    return distloss.DistributedLoss(crossentropy(), global_batch_size=rows)
