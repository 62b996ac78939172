"""Random models, each made of one integer, and what must be true of them.

A prepared model on replicas and in parts does what the same model does in plain Keras
on one device with whole batches: its weights after each step, what it logs after each
step, its history and what `evaluate` says.

Plain Keras is the definition but for one thing: it squares and clips the slices of a
sparse gradient one by one, so its update of an embedding depends on how these are cut.
The reference looks rows up by a product with one-hot rows, whose gradient is dense.
"""

import contextlib
import dataclasses
import functools
import itertools
import traceback

import keras
import numpy as np
import tensorflow as tf
from cases import fresh
from conftest import strategy_of
from keras import layers, ops

import distloss

FEATURES, TOKENS, IDS, UNITS, CLASSES = 3, 4, 6, 4, 3
SIDE, CHANNELS = 5, 2  # of an image


@dataclasses.dataclass(frozen=True)
class Head:
    """One output and its loss.

    Attributes:
      shape: "one" `[rows, 1]`, "three" `[rows, 3]`, "grid" `[rows, 3, 2]` or "tokens"
        `[rows, TOKENS, 3]`.
      loss: a key of `LOSSES`, or "nothing".
      reduction: of Keras; None passes the loss by its name or as a function.
      weights: "none", "rows" `[rows]`, "column" `[rows, 1]` or "elements".
    """

    shape: str = "one"
    loss: str = "mse"
    reduction: str | None = None
    weights: str = "none"


@dataclasses.dataclass(frozen=True)
class Case:
    """One model, its batches, and how they are split. The defaults are the simplest.

    Attributes:
      seed: of the numbers in weights and batches.
      rows: rows of each replica, for each step.
      dealt: "arrays", which TensorFlow deals (of `rows` only the sums count); "exact",
        as `rows` says; "static", exact and with the rows in the shapes.
      body: "dense", "tokens" (of ids), "series" or "image".
      form: of losses and outputs: "list", "dict", "names" (a dict of losses for a list
        of outputs) or "shared", one loss for all.
      no_weight, masked: "none", "some", "shard", "batch", "all".
      added: kinds of `add_loss`.
      steps_per_update: above 1, gradients are accumulated across batches.
    """

    seed: int
    rows: tuple[tuple[int, ...], ...] = ((6,), (6,))
    dealt: str = "exact"
    parts: int = 1
    body: str = "dense"
    heads: tuple[Head, ...] = (Head(),)
    form: str = "list"
    loss_weights: bool = False
    no_weight: str = "none"
    masked: str = "none"
    positions: bool = False
    added: tuple[str, ...] = ()
    l2: bool = False
    batch_norm: bool = False
    optimizer: str = "sgd"
    clip: str = "none"
    dtype: str = "float32"
    huge: bool = False
    overflow: bool = False
    jit: bool = False
    eager: bool = False
    metrics: str = "none"
    evaluate: bool = False
    steps_per_update: int = 1

    @property
    def replicas(self):
        return len(self.rows[0])

    @property
    def totals(self):
        return [sum(rows) for rows in self.rows]

    @property
    def floatx(self):
        return "float64" if self.dtype == "float64" else "float32"

    def __str__(self):
        """What is not the simplest."""
        simple = Case(self.seed)
        names = [field.name for field in dataclasses.fields(self)]
        changed = [n for n in names if getattr(self, n) != getattr(simple, n)]
        return ", ".join(
            [str(self.seed), *(f"{n}={getattr(self, n)}" for n in changed)]
        )


ADDED = ("mean", "per row", "activity", "constant")

# --- what is drawn -------------------------------------------------------------------


class Draw:
    """Random choices of one seed."""

    def __init__(self, seed):
        self.random = np.random.default_rng(seed)

    def chance(self, probability):
        return bool(self.random.random() < probability)

    def of(self, *options):
        return options[self.random.integers(len(options))]


def drawn(seed, replicas=None):
    """The case of `seed`, on one of these numbers of replicas."""
    draw = Draw(seed)
    count = draw.of(*(replicas or (1, 2, 2, 3, 4, 4)))
    given = {
        "seed": seed,
        "body": draw.of("dense", "dense", "tokens", "series", "image"),
    }
    given["dtype"] = draw.of(
        *("float32",) * 6, "float64", "float64", "mixed_float16", "mixed_bfloat16"
    )
    if draw.chance(0.1):
        given["dtype"] = "float16_layers"
    _draw_how(draw, given, count)
    _draw_splits(draw, given, count)
    _draw_layers(draw, given)
    _draw_optimizer(draw, given)
    _draw_heads(draw, given)
    _draw_weights(draw, given)
    return _draw_rare(draw, given)


def _draw_how(draw, given, count):
    given["jit"] = count == 1 and draw.chance(0.35)  # refused by XLA on several
    given["eager"] = not given["jit"] and draw.chance(0.1)
    given["parts"] = draw.of(1, 1, 1, 2, 3)
    given["metrics"] = draw.of("none", "none", "means")
    given["evaluate"] = draw.chance(0.4)


def _draw_splits(draw, given, count):
    steps = draw.of(2, 2, 3)
    given["dealt"] = draw.of("arrays", "arrays", "exact", "exact", "exact", "static")
    if given["dealt"] == "static":
        given["rows"] = ((int(draw.random.integers(2, 7)),) * count,) * steps
    elif given["dealt"] == "arrays":
        batch = int(draw.random.integers(5, 15))
        last = int(draw.random.integers(2, batch + 1))
        one_each = (0,) * (count - 1)
        given["rows"] = ((batch, *one_each),) * (steps - 1) + ((last, *one_each),)
    else:
        given["rows"] = tuple(_uneven(draw, count) for _ in range(steps))


def _uneven(draw, count):
    rows = [int(draw.random.integers(0, 7)) for _ in range(count)]
    if draw.chance(0.5):  # else empty shards are rare where there are two
        rows[draw.random.integers(count)] = 0
    if sum(rows) < 2:
        rows[draw.random.integers(count)] += 3
    return tuple(rows)


def _draw_layers(draw, given):
    body = given["body"]
    given["positions"] = body in ("tokens", "series") and draw.chance(0.3)
    if body in ("tokens", "series") and draw.chance(0.4):
        given["masked"] = draw.of("some", "some", "shard", "batch", "all")
    chosen = [kind for kind in ADDED if draw.chance(0.12)]
    if "16" in given["dtype"]:  # of which plain Keras makes no sum with float32
        chosen = [kind for kind in chosen if kind != "activity"]
    given["added"] = tuple(chosen)
    given["l2"] = draw.chance(0.25)
    # rows of a part are what it normalises, and a sum of squares needs float32
    given["batch_norm"] = (
        given["parts"] == 1 and "16" not in given["dtype"] and draw.chance(0.15)
    )


def _draw_optimizer(draw, given):
    names = ("sgd", "momentum", "adam", "adamw", "rmsprop")
    given["optimizer"] = draw.of(*names)
    clips = ("none", "clipnorm", "global_clipnorm", "clipvalue")
    given["clip"] = draw.of("none", *clips)


def _draw_heads(draw, given):
    count = draw.of(1, 1, 1, 2, 2, 3)
    is_sequence = given["body"] in ("tokens", "series")
    shapes = ("one", "three", "grid", *("tokens",) * (3 if is_sequence else 0))
    given["form"] = draw.of("list", "dict", "names", "shared", "shared")
    losses = ("mse", "huber", "function")
    if "16" not in given["dtype"]:  # a sign hangs on how an error near 0 is rounded
        losses += ("mae",)
    reductions = (None, "sum_over_batch_size", "mean_with_sample_weight", "sum")
    shared = Head("one", draw.of(*losses), draw.of(*reductions))
    given["heads"] = tuple(
        _head(draw, draw.of(*shapes), losses, reductions)
        if given["form"] != "shared"
        else dataclasses.replace(shared, shape=draw.of(*shapes))
        for _ in range(count)
    )
    if count > 1 and given["form"] == "list" and draw.chance(0.2):
        last = dataclasses.replace(given["heads"][-1], loss="nothing")
        given["heads"] = (*given["heads"][:-1], last)
    given["loss_weights"] = (
        count > 1
        and given["form"] != "shared"
        and last_loss(given)
        and draw.chance(0.5)
    )


def last_loss(given):
    return given["heads"][-1].loss != "nothing"


def _head(draw, shape, losses, reductions):
    if shape in ("three", "tokens") and draw.chance(0.4):
        return Head(shape, "classes", draw.of(*reductions[1:]))
    return Head(shape, draw.of(*losses), draw.of(*reductions))


def _draw_weights(draw, given):
    if draw.chance(0.5):
        return
    given["heads"] = tuple(
        dataclasses.replace(head, weights=draw.of("none", *weights_of(head)))
        for head in given["heads"]
    )
    if any(head.weights != "none" for head in given["heads"]):
        given["no_weight"] = draw.of("none", "some", "some", "shard", "batch", "all")


def weights_of(head):
    """The shapes of weights that mean one thing, however many rows there are."""
    per_row = head.shape in ("one", "three")
    return ("rows", "column") if per_row else ("column", "elements")


def _draw_rare(draw, given):
    dtype = given["dtype"]
    if dtype == "float16_layers" and draw.chance(0.5):
        given |= {"huge": True, "heads": (Head(),), "form": "list", "clip": "none"}
        given |= {"optimizer": "sgd", "no_weight": "none", "loss_weights": False}
        given |= {"added": (), "l2": False}
    if dtype == "mixed_float16":
        # Not where all is masked: plain Keras takes 0 times Inf for NaN, and we for
        # the loss of no weight, which is 0.
        given["overflow"] = draw.chance(0.3) and given.get("masked") != "all"
    of_numbers = [head.loss != "classes" for head in given["heads"]]
    # Plain Keras takes no number where predictions have a mask.
    is_masked = "masked" in given and given["heads"][0].shape == "tokens"
    is_possible = given["dealt"] == "static" and of_numbers == [True] and not is_masked
    if is_possible and draw.chance(0.4):
        given["metrics"] = "scalar"
    case = Case(**given)
    return _accumulated(draw, case) if draw.chance(0.08) else case


def _accumulated(draw, case):
    """Batches of one loss, of which two or three make an update."""
    head = dataclasses.replace(case.heads[0], reduction="sum_over_batch_size")
    if case.heads[0].reduction == "mean_with_sample_weight":
        head = dataclasses.replace(head, reduction="mean_with_sample_weight")
    plain = {"form": "list", "loss_weights": False, "added": (), "parts": 1}
    plain |= {"batch_norm": False, "metrics": "none", "evaluate": False}
    plain |= {"overflow": False, "huge": False, "heads": (head,)}
    steps = draw.of(2, 3)
    rows = tuple(itertools.islice(itertools.cycle(case.rows), 2 * steps))
    if case.dealt == "arrays":
        rows = (case.rows[0],) * (2 * steps - 1) + (case.rows[-1],)
    return dataclasses.replace(case, **plain, rows=rows, steps_per_update=steps)


# --- models --------------------------------------------------------------------------


class DenseEmbedding(layers.Embedding):
    """An embedding whose gradient is dense."""

    def call(self, inputs):
        dtype = self.compute_dtype
        rows = ops.one_hot(ops.cast(inputs, "int32"), self.input_dim, dtype=dtype)
        return ops.matmul(rows, ops.cast(self.embeddings, dtype))


class Positions(layers.Layer):
    """Adds an embedding of each position, the same for all rows."""

    def __init__(self, table):
        super().__init__()
        self.table = table
        self.supports_masking = True

    def build(self, shape):
        self.table.build(None)

    def call(self, x):
        return x + self.table(ops.arange(TOKENS))


class Pool(layers.Layer):
    """The mean over tokens, masked or not; no mask remains."""

    def __init__(self):
        super().__init__()
        self.supports_masking = True

    def compute_mask(self, inputs, previous_mask=None):
        return None

    def call(self, x):
        return ops.mean(x, 1)


class Adds(layers.Layer):
    """Adds a loss and hands on what comes."""

    def __init__(self, kind):
        super().__init__()
        self.kind = kind
        self.supports_masking = True

    def build(self, shape):
        self.factor = self.add_weight(shape=(), name="factor")

    def call(self, x):
        squares = ops.square(ops.cast(x, self.variable_dtype))
        factor = ops.cast(self.factor, self.variable_dtype)
        if self.kind == "mean":
            self.add_loss(factor * ops.mean(squares))
        elif self.kind == "per row":
            self.add_loss(factor * ops.mean(squares, -1))  # of each row and token
        else:
            self.add_loss(0.1 * ops.square(factor))
        return x


def function_loss(y_true, y_pred):
    return ops.mean(ops.log1p(ops.square(y_pred - y_true)), -1)


def scalar_metric(y_true, y_pred):
    return ops.mean(ops.abs(ops.cast(y_pred, y_true.dtype) - y_true))


LOSSES = {
    "mse": ("mse", keras.losses.MeanSquaredError),
    "mae": ("mean_absolute_error", keras.losses.MeanAbsoluteError),
    "huber": ("huber", keras.losses.Huber),
    "function": (function_loss, None),
    "classes": (
        None,
        functools.partial(keras.losses.SparseCategoricalCrossentropy, from_logits=True),
    ),
    "nothing": (None, None),
}


class _OfFunction(keras.losses.Loss):
    def call(self, y_true, y_pred):
        return function_loss(y_true, y_pred)


def _loss(head):
    by_name, loss_class = LOSSES[head.loss]
    if head.loss == "nothing" or head.reduction is None:
        return by_name
    return (loss_class or _OfFunction)(reduction=head.reduction)


def _body(case, embedding):
    """The input, and what the heads see."""
    dtype = "mixed_float16" if case.dtype == "float16_layers" else None
    activity = keras.regularizers.L2(0.1) if "activity" in case.added else None
    l2 = keras.regularizers.L2(0.05) if case.l2 else None
    options = {"kernel_regularizer": l2, "activity_regularizer": activity}
    dense = layers.Dense(UNITS, "tanh", dtype=dtype, **options)
    if case.body == "image":
        inputs = keras.Input([SIDE, SIDE, CHANNELS])
        y = layers.Conv2D(3, 3, activation="relu", dtype=dtype)(inputs)
        return inputs, dense(layers.Flatten()(y))
    if case.body == "dense":
        inputs = keras.Input([FEATURES])
        return inputs, dense(inputs)
    if case.body == "tokens":
        inputs = keras.Input([TOKENS], dtype="int32")
        y = embedding(IDS, FEATURES, mask_zero=case.masked != "none")(inputs)
    else:
        inputs = y = keras.Input([TOKENS, FEATURES])
        if case.masked != "none":
            y = layers.Masking()(y)
        else:
            y = layers.Conv1D(FEATURES, 2, padding="same", dtype=dtype)(y)
    if case.positions:
        y = Positions(embedding(TOKENS, FEATURES))(y)
    return inputs, dense(y)


def _output(head, name, y, *, is_sequence):
    if is_sequence and head.shape != "tokens":
        y = Pool()(y)
    if head.shape == "grid":
        return layers.Reshape([3, 2], name=name)(layers.Dense(6, dtype=None)(y))
    return layers.Dense(1 if head.shape == "one" else CLASSES, name=name)(y)


NAMES = ("a", "b", "c")


def _made(case, *, is_reference):
    inputs, y = _body(case, DenseEmbedding if is_reference else layers.Embedding)
    for kind in case.added:
        if kind != "activity":
            y = Adds(kind)(y)
    if case.batch_norm:
        sync = case.replicas > 1 and not is_reference
        y = layers.BatchNormalization(epsilon=0.1, synchronized=sync)(y)
    is_sequence = case.body in ("tokens", "series")
    outputs = [
        _output(head, name, y, is_sequence=is_sequence)
        for head, name in zip(case.heads, NAMES, strict=False)
    ]
    model = keras.Model(inputs, _nest(case, outputs, names_are_lists=True))
    assert {v.dtype for v in model.trainable_variables} == {case.floatx}
    return model


def _nest(case, values, *, names_are_lists):
    """One of each output, as the model has them."""
    if case.form == "dict" or (case.form == "names" and not names_are_lists):
        return dict(zip(NAMES, values, strict=False))
    return values[0] if len(values) == 1 else list(values)


RATES = {"sgd": 0.2, "momentum": 0.1, "adam": 0.05, "adamw": 0.05, "rmsprop": 0.02}


def _optimizer(case):
    # As its numerator, the epsilon of Adam and RMSprop is that of a gradient worth
    # telling from 0; with the usual one, rounding of a gradient near 0 is a whole step.
    epsilon = 0.1 if "16" in case.dtype else 0.01
    rate = RATES[case.optimizer] * _rate_factor(case)
    clip = {} if case.clip == "none" else {case.clip: CLIPS[case.clip]}
    classes = {
        "sgd": keras.optimizers.SGD,
        "momentum": functools.partial(keras.optimizers.SGD, momentum=0.9),
        "adam": functools.partial(keras.optimizers.Adam, epsilon=epsilon),
        "adamw": functools.partial(keras.optimizers.AdamW, epsilon=epsilon),
        "rmsprop": functools.partial(keras.optimizers.RMSprop, epsilon=epsilon),
    }
    return classes[case.optimizer](rate, **clip)


CLIPS = {"clipnorm": 0.1, "global_clipnorm": 0.15, "clipvalue": 0.05}


def _rate_factor(case):
    """So that no step goes far: gradients of sums over rows are large."""
    if case.huge:
        return 1e-7
    is_sum = any(head.reduction == "sum" for head in case.heads)
    is_linear = case.optimizer in ("sgd", "momentum") and case.clip == "none"
    return 0.03 if is_linear and (is_sum or "per row" in case.added) else 1.0


def _compile(case, model, loss_of=lambda loss: loss, optimizer_of=lambda x: x):
    losses = [loss_of(_loss(head)) for head in case.heads]
    if case.form == "shared":
        loss = losses[0]
    else:
        loss = _nest(case, losses, names_are_lists=False)
    factors = [0.3, 2.0, 0.7][: len(losses)]
    weights = _nest(case, factors, names_are_lists=False) if case.loss_weights else None
    model.compile(
        optimizer_of(_optimizer(case)),
        loss,
        loss_weights=weights,
        jit_compile=case.jit,
        run_eagerly=case.eager,
        **_metrics(case),
    )
    if case.dtype == "mixed_float16":
        assert isinstance(model.optimizer, keras.optimizers.LossScaleOptimizer)
        # far from overflow, so that one device and replicas both are
        model.optimizer.initial_scale = 64.0


def _metrics(case):
    if case.metrics == "none":
        return {}
    if case.metrics == "scalar":
        return {"metrics": [scalar_metric]}

    def of_each():
        return _nest(case, list(map(_metrics_of, case.heads)), names_are_lists=True)

    return {"metrics": of_each(), "weighted_metrics": of_each()}


def _metrics_of(head):
    if head.loss == "classes":
        return [keras.metrics.SparseCategoricalCrossentropy(from_logits=True)]
    return ["mae"]


# --- batches -------------------------------------------------------------------------


def _mask(random, case, kind, shape):
    """1 where there is something, 0 where `kind` of case says not."""
    ones = np.ones(shape, bool)
    if kind == "some":
        ones &= random.random(shape) < 0.6
    elif kind == "shard":
        ends = np.cumsum([n for rows in case.rows for n in rows])
        last = ends.reshape(len(case.rows), -1)[:, -2:] if case.replicas > 1 else []
        for start, stop in last:
            ones[start:stop] = False
    elif kind == "batch":
        ones[: case.totals[0]] = False
    elif kind == "all":
        ones[:] = False
    return ones


def _arrays(case):
    """x, y and weights of all rows of all steps."""
    random = np.random.default_rng([case.seed, 1])
    rows = sum(case.totals)
    x = _inputs(random, case, rows)
    y = [_targets(random, case, head, rows) for head in case.heads]
    if case.overflow:
        y[0][case.totals[0]] = np.inf if y[0].dtype.kind == "f" else 0
    nest = functools.partial(_nest, case, names_are_lists=True)
    if all(head.weights == "none" for head in case.heads):
        return x, nest(y)
    weights = [_weights(random, case, head, rows) for head in case.heads]
    return x, nest(y), nest(weights)


def _inputs(random, case, rows):
    kept = _mask(random, case, case.masked, [rows, TOKENS])
    if case.body == "tokens":
        ids = random.integers(1 if case.masked != "none" else 0, IDS, [rows, TOKENS])
        return (ids * kept).astype("int32")
    shapes = {
        "dense": [FEATURES],
        "series": [TOKENS, FEATURES],
        "image": [SIDE, SIDE, CHANNELS],
    }
    x = random.normal(size=[rows, *shapes[case.body]])
    if case.body == "series":
        x *= kept[..., np.newaxis]
    return x.astype(case.floatx)


_SHAPES = {"one": [1], "three": [CLASSES], "grid": [3, 2], "tokens": [TOKENS, CLASSES]}


def _targets(random, case, head, rows):
    shape = [rows, *_SHAPES[head.shape]]
    if head.loss == "classes":
        return random.integers(0, CLASSES, shape[:-1]).astype("int32")
    return (random.normal(size=shape) + 2e4 * case.huge).astype(case.floatx)


def _weights(random, case, head, rows):
    if head.weights == "none":  # beside weights of other outputs
        return np.ones([rows, 1], case.floatx)
    shape = [rows]
    if head.weights == "column":
        shape = [rows, 1]
    elif head.weights == "elements":
        shape = [rows, *_SHAPES[head.shape][:-1]]
    weights = random.uniform(0.2, 4.0, shape)
    return (weights * _mask(random, case, case.no_weight, shape)).astype(case.floatx)


def _cut(nest, sizes):
    """`nest` in consecutive pieces of these rows."""
    ends = np.cumsum([0, *sizes])
    pairs = list(itertools.pairwise(ends))
    return [tf.nest.map_structure(lambda a, i=i, j=j: a[i:j], nest) for i, j in pairs]


def _dataset(pieces, *, is_static):
    def spec(array):
        rows = array.shape[0] if is_static else None
        return tf.TensorSpec([rows, *array.shape[1:]], array.dtype)

    # a list would be a tensor
    pieces = [_tuples(piece) for piece in pieces]
    specs = tf.nest.map_structure(spec, pieces[0])
    return tf.data.Dataset.from_generator(
        lambda: map(fresh, pieces), output_signature=specs
    )


def _tuples(nest):
    if isinstance(nest, dict):
        return {key: _tuples(value) for key, value in nest.items()}
    if isinstance(nest, list | tuple):
        return tuple(map(_tuples, nest))
    return nest


def _fit_arguments(case, strategy, *, is_reference):
    """What `fit` and `evaluate` are called with: the batches, in their order."""
    arrays = _arrays(case)
    totals, is_static = case.totals, case.dealt == "static"
    if is_reference and case.steps_per_update > 1:
        every = range(0, len(totals), case.steps_per_update)
        totals = [sum(totals[i : i + case.steps_per_update]) for i in every]
        return {"x": _dataset(_cut(arrays, totals), is_static=False)}
    if case.dealt == "arrays":
        keys = ("x", "y", "sample_weight")
        return dict(zip(keys, arrays, strict=False), batch_size=totals[0])
    if is_reference or case.replicas == 1:
        return {"x": _dataset(_cut(arrays, totals), is_static=is_static)}
    pieces = _cut(arrays, [n for rows in case.rows for n in rows])
    dataset = _dataset(pieces, is_static=is_static)
    distributed = strategy.distribute_datasets_from_function(lambda context: dataset)
    return {"x": distributed}


# --- judging -------------------------------------------------------------------------

# Of what the weights moved, how much may differ: sums in another order. Half precision
# rounds each activation and gradient, 30 rows of which are added up.
TOLERANCES = {
    "float64": 1e-12,
    "float32": 1e-5,
    "mixed_float16": 16 * 2.0**-11,
    "float16_layers": 16 * 2.0**-11,
    "mixed_bfloat16": 16 * 2.0**-8,
}


class Recorder(keras.callbacks.Callback):
    """Weights and logs after each step."""

    def __init__(self):
        super().__init__()
        self.steps = []

    def on_train_batch_end(self, batch, logs=None):
        self.steps.append((_values(self.model), dict(logs)))


def _values(model):
    return [keras.ops.convert_to_numpy(v) for v in model.weights]


@dataclasses.dataclass
class Run:
    """What one model did.

    Attributes:
      names: of the weights.
      start: weights before.
      steps: weights and logs after each step.
      reports: what `fit` and `evaluate` returned.
    """

    names: list
    start: list
    steps: list
    reports: dict


def _in_dtypes_of(case, function):
    """`function(case)`, with the dtypes of `case` for those that Keras takes."""
    keras.utils.clear_session()  # which forgets the policy of dtypes, too
    keras.utils.set_random_seed(case.seed)
    keras.config.set_floatx(case.floatx)
    policy = case.dtype if case.dtype != "float16_layers" else "float32"
    keras.config.set_dtype_policy(policy)
    try:
        return function(case)
    finally:
        keras.config.set_floatx("float32")
        keras.utils.clear_session()


def _start(case, model):
    """The same weights for both: by their order, for names have numbers."""
    random = np.random.default_rng([case.seed, 2])
    for variable in model.trainable_variables:
        scale = 1.0 / max(1, np.prod(variable.shape[:-1])) ** 0.5
        variable.assign(random.normal(size=variable.shape) * scale)


def _run(case, model, strategy, *, is_reference):
    _start(case, model)
    start, recorder = _values(model), Recorder()
    arguments = functools.partial(
        _fit_arguments, case, strategy, is_reference=is_reference
    )
    options = {"shuffle": False, "verbose": 0, "callbacks": [recorder]}
    # Where Keras does not know how many there are, it takes one step too many, of which
    # what depends on no data remains: in counts of metrics, for one.
    count = len(case.totals) // (case.steps_per_update if is_reference else 1)
    history = model.fit(**arguments(), **options, steps_per_epoch=count).history
    reports = {f"history {key}": value[-1] for key, value in history.items()}
    if case.evaluate:
        report = model.evaluate(**arguments(), verbose=0, steps=count, return_dict=True)
        reports |= {f"evaluate {key}": value for key, value in report.items()}
    names = [variable.path for variable in model.weights]
    return Run(names, start, recorder.steps, reports)


def _reference(case):
    model = _made(case, is_reference=True)
    _compile(case, model)
    model.run_eagerly = case.eager
    if case.jit:
        model.jit_compile = False
    return _run(case, model, None, is_reference=True)


def _prepared(case, prepare):
    strategy = strategy_of("mirrored", case.replicas) if case.replicas > 1 else None
    with contextlib.nullcontext() if strategy is None else strategy.scope():
        model = _made(case, is_reference=False)
        if case.steps_per_update > 1:
            _compile_accumulating(case, model)
        else:
            _compile(case, model)
    prepare(model, microbatches=case.parts)
    return _run(case, model, strategy, is_reference=False)


def _compile_accumulating(case, model):
    made = []

    def loss_of(loss):
        made.append(distloss.DistributedLoss(loss))
        return made[0]

    def optimizer_of(optimizer):
        steps = case.steps_per_update
        return distloss.DistributedOptimizer(
            optimizer, accumulation_steps=steps, loss=made[0]
        )

    _compile(case, model, loss_of, optimizer_of)


def violations(case, prepare=distloss.prepare):
    """What is not as on one device: a sentence each.

    Args:
      case: a `Case`.
      prepare: what makes a compiled model ready for replicas and `microbatches=` parts.
    """
    try:
        wanted = _in_dtypes_of(case, _reference)
    except Exception as error:
        return [f"plain Keras on one device {_failure(error)}"]
    try:
        got = _in_dtypes_of(case, functools.partial(_prepared, prepare=prepare))
    except Exception as error:
        return [_failure(error)]
    return list(_differences(case, got, wanted))


def _failure(error):
    frames = traceback.extract_tb(error.__traceback__)
    ours = [frame for frame in frames if "/distloss/" in frame.filename]
    where = f" at {ours[-1].name}" if ours else ""
    lines = str(error).strip().splitlines() or [""]
    telling = [line for line in lines if "Error" in line or "Expected" in line]
    text = (telling or lines)[-1].strip()[:200]
    return f"raised{where} {type(error).__name__}: {text}"


def _differences(case, got, wanted):
    tolerance = TOLERANCES[case.dtype]
    steps = got.steps[case.steps_per_update - 1 :: case.steps_per_update]
    if len(steps) != len(wanted.steps):
        yield f"{len(steps)} steps for {len(wanted.steps)}"
        return
    pairs = zip(steps, wanted.steps, strict=True)
    for index, ((weights, logs), (wanted_weights, wanted_logs)) in enumerate(pairs, 1):
        if case.huge and not all(np.isfinite(w).all() for w in wanted_weights):
            return  # float16 has no room for the rows of one device: nothing is known
        yield from _weight_differences(
            index, tolerance, weights, wanted_weights, wanted
        )
        if case.steps_per_update == 1:
            yield from _report_differences(
                f"step {index} log ", tolerance, logs, wanted_logs
            )
    if case.steps_per_update == 1:
        yield from _report_differences("", tolerance, got.reports, wanted.reports)


def _weight_differences(index, tolerance, weights, wanted_weights, wanted):
    """Relative to the movement; a stored weight is rounded once per step."""
    for name, now, then, start in zip(
        wanted.names, weights, wanted_weights, wanted.start, strict=True
    ):
        moved, stored = np.linalg.norm(then - start), np.linalg.norm(then)
        rounding = index * np.finfo(np.asarray(then).dtype).eps * stored
        error = np.linalg.norm(np.subtract(now, then))
        if not error <= tolerance * moved + rounding:
            yield (
                f"step {index} {name}: {error:.2g} off, of a movement of {moved:.2g}"
            )


def _report_differences(prefix, tolerance, got, wanted):
    if got.keys() != wanted.keys():
        yield f"{prefix}{sorted(got)} for {sorted(wanted)}"
    for key in wanted.keys() & got.keys():
        error = abs(got[key] - wanted[key])
        same = np.isclose(got[key], wanted[key], rtol=0, atol=0, equal_nan=True)
        if not same and not error <= tolerance * max(abs(wanted[key]), 0.01):
            yield f"{prefix}{key}: {got[key]:.12g} for {wanted[key]:.12g}"


# --- the smallest case that fails ----------------------------------------------------


KINDS = ("raised", "off", "history", "evaluate", "log", "steps", " for ")


def kind_of(found):
    """The worst of these violations, in a word."""
    return next(iter(first_of_each_kind(found)), "none")


def first_of_each_kind(found):
    """The first violation of each kind, the worst kind first."""
    kinds = [next(kind for kind in KINDS if kind in line) for line in found]
    return {kind: found[kinds.index(kind)] for kind in KINDS if kind in kinds}


def smallest(case, kind):
    """A case like `case`, of which each field is the simplest with which it fails so.

    Args:
      case: a case that fails.
      kind: what `kind_of` says of its violations.
    """
    simple = Case(case.seed)
    while True:
        trials = _simpler(case, simple)
        found = (t for t in trials if kind_of(violations(t)) == kind)
        simpler = next(found, None)
        if simpler is None:
            return case
        case = simpler


def _simpler(case, simple):
    """Cases with one thing simpler, those that say most first."""
    names = [field.name for field in dataclasses.fields(Case)]
    for name in names:
        given = name in ("seed", "dealt", "rows", "heads")
        if not given and getattr(case, name) != getattr(simple, name):
            yield dataclasses.replace(case, **{name: getattr(simple, name)})
    every = case.steps_per_update
    for rows in _without_each(case.rows, every):
        yield dataclasses.replace(case, rows=rows)
    for added in _without_each(case.added, 1, least=0):
        yield dataclasses.replace(case, added=added)
    for heads in [*_without_each(case.heads, 1), *_simpler_heads(case.heads)]:
        yield dataclasses.replace(case, heads=heads)


def _without_each(values, every, least=1):
    """`values` without a run of `every` of them, where at least so many remain."""
    if len(values) >= every + least:
        for i in range(0, len(values), every):
            yield values[:i] + values[i + every :]


def _simpler_heads(heads):
    simple = Head()
    for i, head in enumerate(heads):
        for name in ("loss", "shape", "reduction", "weights"):
            simpler = dataclasses.replace(head, **{name: getattr(simple, name)})
            if simpler != head and (simpler.shape, simpler.loss) != ("one", "classes"):
                yield (*heads[:i], simpler, *heads[i + 1 :])
