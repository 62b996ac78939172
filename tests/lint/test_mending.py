"""What is mended becomes just this text; what is not certain stays as it is."""

import pathlib
import textwrap

import pytest
from no_keras import clean_keras  # noqa: F401

from distloss._lint.check import check_text
from distloss._lint.files import Target
from distloss._lint.fixes.mending import difference, mended

TARGET = Target(pathlib.Path("train.py"))
LOOP = """\
# A program.
import keras
import tensorflow as tf

strategy = tf.distribute.MirroredStrategy()
with strategy.scope():
    model = keras.Sequential([keras.Input([3]), keras.layers.Dense(1)])
    optimizer = keras.optimizers.SGD(0.1)


def step(x, y):
    with tf.GradientTape() as tape:
        values = keras.losses.mse(y, model(x))
        loss = {loss}
    gradients = tape.gradient(loss, model.trainable_variables)
    optimizer.apply_gradients(zip(gradients, model.trainable_variables))
    return loss


losses = strategy.run(step, args=(tf.ones([1, 3]), tf.ones([1, 1])))
print(strategy.reduce({how}, losses, axis=None))
"""
HOROVOD = """\
import horovod.tensorflow as hvd
import keras
import tensorflow as tf

hvd.init()
model = keras.Sequential([keras.Input([3]), keras.layers.Dense(1)])
optimizer = keras.optimizers.SGD(0.1)


@tf.function
def step(x, y):
    with tf.GradientTape() as tape:
        loss = {loss}
    tape = hvd.DistributedGradientTape(tape{op})
    gradients = tape.gradient(loss, model.trainable_variables)
    optimizer.apply_gradients(zip(gradients, model.trainable_variables))


step(tf.ones([1, 3]), tf.ones([1, 1]))
"""
FIT = """\
import keras
import tensorflow as tf
{imports}

{function}
with tf.distribute.MirroredStrategy().scope():
    model = keras.Sequential([keras.layers.Dense(1)])
    optimizer = keras.optimizers.{optimizer}
    model.compile(optimizer, {loss})  # the usual
    model.fit(data)
"""
MSE = "keras.losses.mse(y, model(x))"


def changes(text, **arguments):
    """Removed and added lines, without what is around them."""
    after = mended(TARGET, text, **arguments)
    assert mended(TARGET, after, **arguments) == after
    lines = difference(text, after, "").splitlines()
    kept = [
        line for line in lines if line[:1] in "+-" and line[:3] not in ("+++", "---")
    ]
    return [line[0] + line[1:].strip() for line in kept]


def loop(loss, how='"SUM"'):
    return LOOP.format(loss=loss, how=how)


@pytest.mark.parametrize(
    ("loss", "instead"),
    [
        ("tf.reduce_mean(values)", "distloss.mean_share(values)"),
        ("tf.reduce_mean(values)  # why", "distloss.mean_share(values)  # why"),
        (
            "tf.reduce_mean(values) * strategy.num_replicas_in_sync",
            "distloss.mean_share(values)",
        ),
        ("2.5 * tf.reduce_mean(values)", "2.5 * distloss.mean_share(values)"),
        ("tf.nn.compute_average_loss(values)", "distloss.mean_share(values)"),
        (
            "tf.reduce_mean(values) / strategy.num_replicas_in_sync",
            "distloss.mean_share(values)",
        ),
    ],
)
def test_a_mean_becomes_a_share(loss, instead):
    expected = ["+import distloss", f"-loss = {loss}", f"+loss = {instead}"]
    assert changes(loop(loss)) == expected


def test_shares_are_summed_where_means_were_averaged():
    text = loop("tf.reduce_mean(values)", "tf.distribute.ReduceOp.MEAN")
    assert changes(text)[-1] == (
        "+print(strategy.reduce(tf.distribute.ReduceOp.SUM, losses, axis=None))"
    )


@pytest.mark.parametrize(
    "loss",
    [
        "tf.reduce_mean(helper(values))",  # which may be a scalar already
        "tf.reduce_mean(values) / 4",  # of what?
        "tf.reduce_sum(values) / 32",  # a full batch, or this one?
        "tf.reduce_sum(values) / 32 / strategy.num_replicas_in_sync",
        "metric(tf.reduce_mean(values))",
    ],
)
def test_what_is_not_certain_stays(loss):
    text = loop(loss).replace(
        "optimizer =", "metric = keras.metrics.Mean()\n    optimizer ="
    )
    assert changes(text) == []


@pytest.mark.parametrize(
    "loss",
    [
        "tf.reduce_mean(values, axis=0)",  # several means, perhaps
        "tf.reduce_mean(axis=None, input_tensor=values)",
        "tf.nn.compute_average_loss(values, sample_weight=x[0])",
    ],
)
def test_what_has_other_arguments_stays(loss):
    assert changes(loop(loss)) == []


def test_other_averages_stay():
    text = loop("tf.reduce_mean(values)") + OTHER
    after = mended(TARGET, text)
    assert "distloss.mean_share(values)" in after
    assert after.endswith(OTHER)
    unknown = text + "print(strategy.reduce('MEAN', what_is_it, axis=None))\n"
    assert changes(unknown) == []


OTHER = """
accuracies = strategy.run(lambda x: tf.reduce_mean(model(x)), args=(tf.ones([1, 3]),))
print(strategy.reduce("MEAN", accuracies, axis=None))
"""


def test_a_loss_object_is_wrapped_where_it_is_made_for_one_place():
    made = "keras.losses.MeanSquaredError()"
    text = loop("mse(y, model(x))").replace(
        "optimizer =", f"mse = {made}\n    optimizer ="
    )
    assert changes(text)[1:] == [
        f"-mse = {made}",
        f"+mse = distloss.DistributedLoss({made})",
    ]
    assert changes(text + "strategy.run(mse, args=(x, y))\n") == []


def test_a_metric_that_shows_the_loss_would_show_a_share():
    text = loop("tf.reduce_mean(values)")
    metric = "    return loss\n"
    shown = f"    keras.metrics.Mean().update_state(loss)\n{metric}"
    assert changes(text.replace(metric, shown)) == []
    assert changes(text.replace(metric, shown), certain=False) != []


def test_weights_are_those_of_all():
    text = loop("tf.math.divide_no_nan(tf.reduce_sum(values * x), tf.reduce_sum(x))")
    assert changes(text)[-1] == (
        "+loss = tf.math.divide_no_nan(tf.reduce_sum(values * x), "
        "distloss.StrategyReplicas().sum(tf.reduce_sum(x)))"
    )


def test_a_penalty_becomes_a_share():
    text = loop("distloss.mean_share(values) + tf.add_n(model.losses)")
    assert changes(
        text.replace("import keras\n", "import distloss\nimport keras\n")
    ) == [
        "-loss = distloss.mean_share(values) + tf.add_n(model.losses)",
        "+loss = distloss.mean_share(values) + "
        "distloss.regularization_share(model.losses)",
    ]


def test_an_optimizer_of_a_loop_is_wrapped():
    text = loop("tf.reduce_sum(values)").replace("SGD(0.1)", "SGD(0.1, clipnorm=1)")
    assert changes(text)[1:] == [
        "-optimizer = keras.optimizers.SGD(0.1, clipnorm=1)",
        "+optimizer = distloss.DistributedOptimizer("
        "keras.optimizers.SGD(0.1, clipnorm=1))",
    ]


def test_under_horovod_the_average_is_made_up_for():
    share = "distloss.mean_share(keras.losses.mse(y, model(x)), replicas="
    share += "distloss.HorovodReplicas({}))"
    averaged = HOROVOD.format(loss=f"tf.reduce_mean({MSE})", op="")
    average = share.format('gradient_op="average"')
    assert changes(averaged)[-1] == f"+loss = {average}"
    summed = HOROVOD.format(loss=f"tf.reduce_mean({MSE})", op=", op=hvd.Sum")
    assert changes(summed)[-1] == f"+loss = {share.format('')}"


def fit(loss='"mse"', function="", optimizer="SGD()", imports=""):
    return FIT.format(
        loss=loss, function=function, optimizer=optimizer, imports=imports
    )


@pytest.mark.parametrize("optimizer", ["SGD()", "Adam(clipnorm=1.0)"])
def test_a_compiled_model_is_prepared(optimizer):
    text = fit(optimizer=optimizer, imports="import distloss")
    assert changes(text) == ["+distloss.prepare(model)"]
    after = mended(TARGET, text)
    assert "# the usual\n    distloss.prepare(model)\n    model.fit" in after


def test_a_scalar_loss_becomes_one_of_elements():
    function = (
        "def loss(a, b):\n    return keras.ops.mean(keras.ops.abs(a - b))  # L1\n"
    )
    assert changes(fit("loss", function, imports="import distloss")) == [
        "-return keras.ops.mean(keras.ops.abs(a - b))  # L1",
        "+return keras.ops.abs(a - b)  # L1",
        "+distloss.prepare(model)",
    ]


def test_a_loss_that_cannot_be_seen_is_not_prepared():
    assert changes(fit("make_loss()", optimizer="Adam(clipnorm=1.0)")) == []


@pytest.mark.parametrize(
    "imports",
    ["import distloss as d", "from distloss import prepare", "import distloss"],
)
def test_the_import_is_there_once(imports):
    after = mended(TARGET, fit(imports=imports))
    assert after.count("import distloss\n") == 1


def test_the_import_comes_after_docstring_and_future():
    head = '"""A program."""\n\nfrom __future__ import annotations\n\n'
    after = mended(TARGET, head + fit())
    assert after.startswith(head)
    compile(after, "train.py", "exec")


def test_ends_of_lines_and_comments_stay():
    text = loop("tf.reduce_mean( values )  # täin").replace("\n", "\r\n")
    after = mended(TARGET, text)
    assert after.replace("\r\n", "").count("\n") == 0
    assert "# täin" in after


def test_what_is_ignored_stays():
    text = loop("tf.reduce_mean(values)  # distloss: ignore[sum-of-means] I know")
    assert changes(text) == []
    assert changes(loop("tf.reduce_mean(values)"), ignore=["sum-of-means"]) == []


def test_a_mended_program_has_no_finding():
    text = textwrap.dedent(loop("tf.reduce_mean(values)", '"MEAN"'))
    assert {one.rule for one in check_text(TARGET, text)[0]} == {
        "sum-of-means",
        "mean-of-means",
    }
    assert check_text(TARGET, mended(TARGET, text)) == ([], [])


def test_a_weighted_mean_is_mended_where_an_audit_decides():
    text = loop("tf.reduce_mean(values * mask) / strategy.num_replicas_in_sync")
    text = text.replace("def step(x, y):", "def step(x, y, mask):")
    text = text.replace("tf.ones([1, 1]))", "tf.ones([1, 1]), tf.ones([1]))")
    assert changes(text) == []
    assert changes(text, certain=False)[-1] == (
        "+loss = distloss.mean_share(values, mask)"
    )


ADDS = """\
import distloss
class Adds(keras.layers.Layer):
    def call(self, x):
        self.add_loss(tf.reduce_sum(x**2))
        return x


strategy"""


@pytest.mark.parametrize(
    ("layer", "is_certain"),
    [
        ("keras.layers.Dense(1)", True),
        ("keras.layers.Dense(1, kernel_regularizer='l2')", False),
        ("make_layer()", False),
    ],
)
def test_a_sum_that_a_layer_adds_is_added_where_nothing_else_is(layer, is_certain):
    loss = "distloss.mean_share(values) + distloss.regularization_share(model.losses)"
    text = loop(loss).replace("keras.layers.Dense(1)", f"Adds(), {layer}")
    text = text.replace("strategy", ADDS, 1)
    mend = ["+loss = distloss.mean_share(values) + tf.add_n(model.losses)"]
    assert changes(text)[1:] == (mend if is_certain else [])
