"""What the audit is given in test_audit_any_batch: batches and models of any shape."""

import keras
import numpy as np
import tensorflow as tf

import distloss

ROWS = 22


def images(count=ROWS):
    random = np.random.default_rng(4)
    x = random.normal(size=[count, 9, 9, 1]).astype("float32")
    return x, random.integers(0, 5, count)


def convolution():
    """Without rows a oneDNN convolution returns the channels of its input."""
    layers = [
        keras.layers.Conv2D(4, 3, activation="relu"),
        keras.layers.Flatten(),
        keras.layers.Dense(5),
    ]
    model = keras.Sequential([keras.Input([9, 9, 1]), *layers])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile("sgd", loss)
    return model, images()


def prepared_convolution():
    """An empty replica computes with a row of zeros."""
    model, batch = convolution()
    return distloss.prepare(model), batch


def rows(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=[ROWS, *shape]).astype("float32")


X, Y, WEIGHT = rows(3), rows(1, seed=1), np.linspace(0.2, 2, ROWS).astype("float32")


def functional(outputs=1, inputs=("x",), loss="mse", **arguments):
    """Inputs of 3 features, by name; outputs "a", "b" of one."""
    given = {name: keras.Input([3], name=name) for name in inputs}
    hidden = sum(keras.layers.Dense(4, "tanh")(x) for x in given.values())
    made = {n: keras.layers.Dense(1, name=n)(hidden) for n in "ab"[:outputs]}
    x = given if len(given) > 1 else given["x"]
    model = keras.Model(x, made if outputs > 1 else made["a"])
    model.compile("sgd", loss, **arguments)
    return distloss.prepare(model)


def x_alone():
    """A model whose loss is what a layer adds: `fit(x)`."""

    class Distance(keras.layers.Layer):
        def call(self, x):
            self.add_loss(keras.ops.mean(x**2))
            return x

    layers = [keras.layers.Dense(4, "tanh"), keras.layers.Dense(2), Distance()]
    model = keras.Sequential([keras.Input([3]), *layers])
    model.compile("sgd")
    return distloss.prepare(model), X


def x_in_a_tuple():
    return x_alone()[0], (X,)


def x_and_none():
    return x_alone()[0], (X, None)


def weight_of_none():
    return functional(), (X, Y, None)


def a_list():
    return functional(), [X, Y]


def x_in_a_dictionary():
    model = functional(inputs=("x", "z"))
    return model, ({"x": X, "z": X[::-1].copy()}, Y)


def y_in_a_dictionary():
    model = functional(outputs=2, loss={"a": "mse", "b": "mae"})
    return model, (X, {"a": Y, "b": Y + 1})


def a_weight_for_each_output():
    model = functional(outputs=2, loss={"a": "mse", "b": "mae"})
    y = {"a": Y, "b": Y + 1}
    return model, (X, y, {"a": WEIGHT, "b": WEIGHT[::-1].copy()})


def one_weight_for_all_outputs():
    model = functional(outputs=2, loss={"a": "mse", "b": "mae"})
    return model, (X, {"a": Y, "b": Y + 1}, WEIGHT)


def an_output_without_a_target():
    model = functional(outputs=2, loss={"a": "mse", "b": None})
    return model, (X, {"a": Y, "b": None})


class OwnStep(keras.Model):
    """Gets what `fit` hands it: a dictionary."""

    def __init__(self):
        super().__init__()
        self.dense = keras.layers.Dense(1)

    def call(self, x):
        return self.dense(x)

    def train_step(self, data):
        with tf.GradientTape() as tape:
            losses = tf.reduce_sum((self(data["x"]) - data["y"]) ** 2, -1)
            loss = distloss.mean_share(losses)
        gradients = tape.gradient(loss, self.trainable_variables)
        self.optimizer.apply(gradients, self.trainable_variables)
        context = tf.distribute.get_replica_context()
        return {"loss": loss * context.num_replicas_in_sync}  # Keras takes their mean


def a_dictionary():
    model = OwnStep()
    model(X)
    model.compile("sgd")
    return model, {"x": X, "y": Y}


def data_set(*parts):
    return tf.data.Dataset.from_tensor_slices(parts).batch(ROWS - 3)


def a_data_set():
    return functional(), data_set(X, Y)


def a_data_set_of_dictionaries():
    return a_dictionary()[0], data_set({"x": X, "y": Y}).map(lambda part: part)


def a_py_data_set():
    class Batches(keras.utils.PyDataset):
        def __len__(self):
            return 2

        def __getitem__(self, index):
            return X[index:], Y[index:]

    return functional(), Batches()


def a_generator():
    return functional(), ((X, Y) for _ in range(3))


def half_precision():
    return functional(), (X.astype("float16"), Y.astype("float64"))


def one_row_for_each():
    return functional(), (X[:2], Y[:2])


class Loop:
    """A custom loop, whose optimizer meets its variables in the first step."""

    def __init__(self, optimizer=None):
        layers = [keras.layers.Dense(4, "tanh"), keras.layers.Dense(1)]
        self.model = keras.Sequential([keras.Input([3]), *layers])
        self.trainable_variables = self.model.trainable_variables
        self.optimizer = optimizer or keras.optimizers.Adam()

    def loss(self, x, y):
        return distloss.mean_share(tf.reduce_sum((self.model(x) - y) ** 2, -1))

    def train_step(self, batch):
        return self.step(*batch)

    def step(self, x, y):
        with tf.GradientTape() as tape:
            loss = self.loss(x, y)
        gradients = tape.gradient(loss, self.trainable_variables)
        self.optimizer.apply_gradients(
            zip(gradients, self.trainable_variables, strict=True)
        )
        return loss


def optimizer_not_built():
    return Loop(), (X, Y)


def optimizer_not_built_with_averages():
    return Loop(keras.optimizers.Adam(use_ema=True)), (X, Y)


def optimizer_not_built_in_an_eager_step():
    class Eager(Loop):
        def step(self, x, y):
            float(tf.reduce_sum(x).numpy())
            return super().step(x, y)

    return Eager(), (X, Y)


def two_optimizers_not_built():
    class Two(Loop):
        second = keras.optimizers.SGD(momentum=0.9)

        def step(self, x, y):
            with tf.GradientTape() as tape:
                loss = self.loss(x, y)
            half = len(self.trainable_variables) // 2
            gradients = tape.gradient(loss, self.trainable_variables)
            pairs = list(zip(gradients, self.trainable_variables, strict=True))
            self.optimizer.apply_gradients(pairs[:half])
            self.second.apply_gradients(pairs[half:])
            return loss

    return Two(), (X, Y)


def four_parts():
    class Four(Loop):
        def train_step(self, batch):
            x, nothing, y, others = batch
            assert nothing is None
            return self.step(x, y + 0 * others["z"])

    return Four(), (X, None, Y, {"z": Y})


def a_loop_in_float64():
    class Double(Loop):
        def __init__(self):
            self.weight = tf.Variable(np.ones([3, 1]))
            self.trainable_variables = [self.weight]
            self.optimizer = keras.optimizers.SGD()

        def loss(self, x, y):
            return distloss.mean_share(tf.reduce_sum((x @ self.weight - y) ** 2, -1))

    return Double(), (X.astype("float64"), Y.astype("float64"))


def creates_a_variable():
    class Late(Loop):
        factor = None

        def step(self, x, y):
            if self.factor is None:
                self.factor = tf.Variable(1.0, trainable=False, name="factor")
            return super().step(x, y)

    return Late(), (X, Y)


def lengths():
    return np.arange(ROWS) % 4 + 1


def ragged():
    return tf.RaggedTensor.from_row_lengths(np.arange(lengths().sum()) % 7, lengths())


def a_ragged_input():
    class Ragged(Loop):
        def __init__(self):
            super().__init__(keras.optimizers.SGD())  # linear in slices
            self.table = tf.Variable(np.eye(7, 3).astype("float32"))
            self.trainable_variables = [self.table, *self.trainable_variables]

        def loss(self, x, y):
            rows = tf.reduce_mean(tf.gather(self.table, x), axis=1)
            return super().loss(rows, y)

    return Ragged(), (ragged(), Y)


def a_sparse_input():
    class Sparse(Loop):
        def loss(self, x, y):
            return super().loss(tf.sparse.to_dense(x), y)

    return Sparse(), (tf.sparse.from_dense(X * (X > 0)), Y)


TEXTS = np.array([["red green", "blue red red", "green"][i % 3] for i in range(ROWS)])


def texts():
    class Texts(Loop):
        def __init__(self):
            super().__init__(keras.optimizers.SGD())
            self.words = keras.layers.TextVectorization(output_sequence_length=4)
            self.words.adapt(TEXTS)
            self.table = tf.Variable(np.eye(8, 3).astype("float32"))
            self.trainable_variables = [self.table, *self.trainable_variables]

        def loss(self, x, y):
            rows = tf.reduce_mean(tf.gather(self.table, self.words(x)), axis=1)
            return super().loss(rows, y)

    return Texts(), (TEXTS, Y)


def texts_in_a_compiled_model():
    words = keras.layers.StringLookup()
    words.adapt(TEXTS)
    x = keras.Input([1], dtype="string")
    layers = [keras.layers.Embedding(8, 3), keras.layers.Flatten()]
    y = words(x)
    for layer in [*layers, keras.layers.Dense(1)]:
        y = layer(y)
    model = keras.Model(x, y)
    model.compile("sgd", "mse")
    return distloss.prepare(model), (TEXTS[:, np.newaxis], Y)


def integers():
    layers = [keras.layers.Embedding(9, 3), keras.layers.Flatten()]
    layers += [keras.layers.Dense(4)]
    model = keras.Sequential([keras.Input([5], dtype="int32"), *layers])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile("sgd", loss)
    x = (np.arange(ROWS * 5) * 7 % 9).reshape([ROWS, 5])
    return distloss.prepare(model), (x, np.arange(ROWS) % 4)


def subclassed():
    class Subclassed(keras.Model):
        def __init__(self):
            super().__init__()
            self.first, self.second = keras.layers.Dense(1), keras.layers.Dense(1)

        def call(self, inputs):
            return {"a": self.first(inputs["x"]), "b": self.second(inputs["z"])}

    model = Subclassed()
    model.compile("sgd", {"a": "mse", "b": "mae"}, metrics={"a": ["mae"]})
    distloss.prepare(model)
    return model, ({"x": X, "z": X}, {"a": Y, "b": Y})


# -- what cannot be told


def nothing_trainable():
    model = keras.Sequential([keras.Input([3]), keras.layers.Dense(1)])
    model.trainable = False
    model.compile("sgd", "mse")
    return model, (X, Y)


def one_row():
    return functional(), (X[:1], Y[:1])


def no_batches():
    return functional(), data_set(X, Y).take(0)


def not_batched():
    return functional(), tf.data.Dataset.from_tensor_slices((X, Y))


def unequal_rows():
    return functional(), (X, Y[1:])


def nothing():
    return functional(), (None, None)


def words_for_numbers():
    return functional(), (TEXTS, Y)


def objects():
    return functional(), (X, [object()] * ROWS)
