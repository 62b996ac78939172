"""A release that lacks a private name, or came after the tests, is told of."""

import dataclasses
import pickle
import re
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf
import tf_keras
from conftest import strategy_of
from tensorflow.python.autograph.core import ag_ctx
from test_private_names import HERE, NEEDED, each

import distloss
from distloss._audit.child import instruments
from distloss._audit.child.compiled import Compiled, CompiledTfKeras
from distloss._errors import BackendError, UntestedVersionWarning
from distloss._keras import (
    compiled_model,
    layer_hooks,
    optimizer_state,
    switches,
    tensors,
    tf_keras_own_steps,
    train_functions,
)
from distloss._keras import tf_keras as of_tf_keras
from distloss._keras.private_names import (
    of_audit,
    of_layers_and_losses,
    of_models,
    of_optimizers,
    of_others,
    private_name,
)
from distloss._keras.private_names.examples import example_of
from distloss._keras.private_names.groups import KERAS
from distloss._keras.private_names.private_name import PrivateName
from distloss.replicas import horovod_alone, horovod_calls
from distloss.replicas.backward_order import one_after_the_other

X, Y = np.ones((4, 2), "float32"), np.ones((4, 1), "float32")
of_losses = of_layers_and_losses


def model(module=keras, optimizer="sgd", **compiled):
    made = module.Sequential([module.layers.Dense(1)])
    made.compile(optimizer, "mse", **compiled)
    return made


def prepared():
    distloss.prepare(model())


def fitted_by_generator():
    with strategy_of("mirrored", 2).scope():
        made = distloss.prepare(model())
    batches = ((X, Y) for _ in range(2))
    made.fit(batches, verbose=0, steps_per_epoch=2, shuffle=False)


class Batches(keras.utils.PyDataset):
    def __len__(self):
        return 1

    def __getitem__(self, index):
        return X, Y


def fitted_by_dataset():
    with strategy_of("mirrored", 2).scope():
        made = distloss.prepare(model())
    made.fit(Batches(), verbose=0)


def loss_of(loss, *arguments):
    distloss.DistributedLoss(loss)(tf.constant(Y), tf.constant(Y), *arguments)


def loss_while_built():
    spec = keras.KerasTensor((2, 1))
    with strategy_of("mirrored", 2).scope():
        loss = distloss.DistributedLoss("mse")
        keras.src.backend.compute_output_spec(loss, spec, spec)


def distributed(optimizer):
    return distloss.DistributedOptimizer(optimizer)


def distributed_several():
    optimizers = keras.optimizers
    held = optimizers.OptimizerMap(optimizers.SGD(), {"bias": optimizers.Adam()})
    distributed(optimizers.MultiOptimizer(held))


def distributed_scaling():
    distributed(keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD()))


def averaged():
    strategy = strategy_of("mirrored", 2)
    with strategy.scope():
        weight = keras.Variable([1.0])
        optimizer = distributed(keras.optimizers.SGD(use_ema=True))
        optimizer.build([weight])

    def step():
        optimizer._overwrite_model_variables_with_average_value([weight])

    strategy.run(step)


def clipped():
    with switches.clipping(set(), is_on=False):
        pass


def pickled():
    pickle.loads(pickle.dumps(distributed(keras.optimizers.SGD())))


def in_order():
    with tf.Graph().as_default():
        x = tf.constant(X)
        one_after_the_other([tf.exp(x), tf.sin(x)])


def specs_of_replicas():
    train_functions.per_replica_specs(
        example_of("tensorflow.python.distribute.values.PerReplicaSpec")
    )


def prepared_tf_keras():
    compiled_model._check_masks_of_tf_keras.cache_clear()
    distloss.prepare(model(tf_keras))


def scaled_by_tf_keras():
    scaling = tf_keras.mixed_precision.LossScaleOptimizer
    distributed(scaling(tf_keras.optimizers.SGD()))


def legacy():
    optimizer = tf_keras.optimizers.legacy.SGD(momentum=0.9)
    of_tf_keras.make_variables(optimizer, [tf.Variable([1.0])])


def built_losses():
    owner = "tf_keras.src.engine.compile_utils.LossesContainer"
    tf_keras_own_steps.holds_losses(example_of(owner))


def outputs_of_keras():
    made = model()
    compiled_model.loss_container(made).build(Y, Y)
    Compiled(made).outputs()


def outputs_of_tf_keras():
    made = model(tf_keras)
    made.compiled_loss(tf.constant(Y), tf.constant(Y))
    CompiledTfKeras(made).outputs()


def process_set():
    horovod_calls.process_set_of((0,))


def alone():
    with horovod_alone.horovod_of_one(lambda: False):
        pass


def collective():
    horovod_calls._among(0)


# What needs a name, where that is not `prepare` or wrapping an optimizer.
USES = {
    of_models.REDUCES_OVER_WORKERS: fitted_by_dataset,
    of_models.GENERATOR_ADAPTER: fitted_by_generator,
    of_models.GENERATOR: fitted_by_generator,
    of_models.DATA_ADAPTER: fitted_by_generator,
    of_models.DISTRIBUTED_DATASET: fitted_by_generator,
    of_models.PY_DATASET_ADAPTER: fitted_by_dataset,
    of_models.STANDARDIZE_BATCH: fitted_by_dataset,
    of_losses.METRIC_FUNCTION: lambda: layer_hooks.values_of(
        keras.metrics.MeanSquaredError(), Y, Y
    ),
    of_losses.METRIC_ARGUMENTS: lambda: layer_hooks.values_of(
        keras.metrics.MeanSquaredError(), Y, Y
    ),
    of_losses.GET_LOSS: lambda: loss_of("crossentropy"),
    of_losses.LOSS_OF_FUNCTION: lambda: loss_of("mse"),
    of_losses.LOSS_ARGUMENTS: lambda: loss_of(keras.losses.MeanSquaredError()),
    of_losses.GET_MASK: lambda: loss_of("mse"),
    of_losses.SET_MASK: lambda: tensors.note_on(tf.constant(X), {"_keras_mask": True}),
    of_losses.IN_SYMBOLIC_SCOPE: loss_while_built,
    of_optimizers.AVERAGES: averaged,
    of_optimizers.CLIP: clipped,
    of_optimizers.UNPICKLE: pickled,
    of_optimizers.INNER_OPTIMIZERS: distributed_several,
    of_optimizers.OPTIMIZER_MAP: distributed_several,
    of_optimizers.OPTIMIZERS_BY_NAME: distributed_several,
    of_optimizers.TF_APPLY: distributed_scaling,
    of_optimizers.HANDLE_FINITE: distributed_scaling,
    of_others.METRIC_FUNCTION_OF_TF_KERAS: lambda: of_tf_keras.function_of(
        tf_keras.metrics.MeanSquaredError()
    ),
    of_others.BUILT_LOSSES: built_losses,
    of_others.INNER: scaled_by_tf_keras,
    of_others.CREATE_ALL_WEIGHTS: legacy,
    of_others.OPTIMIZER_STRATEGY: lambda: of_tf_keras.strategy_of(
        tf_keras.optimizers.SGD()
    ),
    of_audit.FLAT_LOSSES_OF_OUTPUTS: outputs_of_keras,
    of_audit.OUTPUT_NAMES: outputs_of_tf_keras,
    of_others.SPEC_CLASS: specs_of_replicas,
    of_others.VALUE_SPECS: specs_of_replicas,
    of_others.ADD_CONTROL_INPUTS: in_order,
    of_others.BASICS: process_set,
    of_others.PROCESS_SETS: process_set,
    of_others.PROCESS_SET: collective,
    of_others.LIBRARY: alone,
    of_others.LIBRARY_OF_NUMBERS: alone,
    of_others.BASICS_OF_SETS: alone,
}


def use_of(name):
    if name in USES:
        return USES[name]
    if name.group.title == "audit":
        of_keras = name.group.package is KERAS
        return of_audit.check_names if of_keras else of_audit.check_names_of_tf_keras
    if name.group.title == "optimizers":
        return lambda: distributed("sgd")
    return prepared if name.group.package is KERAS else prepared_tf_keras


def pretend_horovod(monkeypatch):
    """Horovod of two processes, which is not started."""
    for module in (horovod_alone, horovod_calls):
        monkeypatch.setattr(module, "horovod", lambda: None)
    monkeypatch.setattr(horovod_alone, "processes", lambda: 2)


def hide(monkeypatch, hidden):
    """A release that has `hidden` elsewhere: it works, and we do not find it."""
    of = PrivateName.of

    def of_what_is_left(self, holder):
        return of(self, object() if self == hidden else holder)

    monkeypatch.setattr(PrivateName, "of", of_what_is_left)


@each(NEEDED)
def test_a_release_without_a_name_is_told_where_it_is_used(monkeypatch, name):
    pretend_horovod(monkeypatch)
    hide(monkeypatch, name)
    with pytest.raises(BackendError) as raised:
        use_of(name)()
    package = name.group.package
    assert str(raised.value).startswith(
        f"Expected {package.said} with {name.address}, which distloss needs to "
        f"{name.purpose}. Got {package.install}=={package.version()}, which does not "
        f"have it. Use {package.said} "
    )
    assert str(raised.value).endswith(f", or {name.group.instead}.")


@pytest.mark.parametrize(
    "use", {use: None for use in map(use_of, NEEDED) if use not in (process_set,)}
)
def test_a_use_is_right_as_long_as_nothing_is_hidden(monkeypatch, use):
    pytest.importorskip("horovod.tensorflow")
    pretend_horovod(monkeypatch)
    use()


def take_out(monkeypatch, name):
    """Deletes it from the module, or from the class and all that it inherits from."""
    owner = name.owners()
    for one in getattr(owner, "__mro__", [owner]):
        if name.name in vars(one):
            monkeypatch.delattr(one, name.name)


CHECKED = [
    name
    for name in (*compiled_model._OF_STEPS, *optimizer_state._OF_ALL)
    if name.is_due and not name.is_of_instances
]


@each(CHECKED)
def test_a_name_that_is_taken_out_of_keras_is_told(monkeypatch, name):
    made = model()
    take_out(monkeypatch, name)
    with pytest.raises(BackendError, match=re.escape(name.address)):
        distloss.prepare(made)
    assert not isinstance(made.loss, distloss.DistributedLoss)
    assert not isinstance(made.optimizer, distloss.DistributedOptimizer)


@each([name for name in CHECKED if name.arguments])
def test_a_name_that_takes_other_arguments_is_told(monkeypatch, name):
    made = model()
    monkeypatch.setattr(name.owners(), name.name, lambda self, other: None)
    words = re.escape(f"{name.address}, which") + ".*has it with other arguments"
    with pytest.raises(BackendError, match=words):
        distloss.prepare(made)


def test_a_module_that_moved_is_told(monkeypatch):
    """As when Keras moves its backends into packages of their own."""
    address = "keras.src.backend.tensorflow.trainer"
    monkeypatch.setitem(sys.modules, address, None)
    with pytest.raises(BackendError, match=re.escape(f"Expected Keras with {address}")):
        of_models.REDUCES_OVER_WORKERS.found()


def test_the_audit_looks_before_it_puts_anything_in_the_place_of_keras(monkeypatch):
    original = tf.GradientTape.gradient
    hide(monkeypatch, of_audit.DROPOUT)
    with pytest.raises(BackendError, match="run a step without chance"):
        instruments.installed()
    assert tf.GradientTape.gradient is original


WITHOUT = """
import pkgutil, importlib, keras, tf_keras
from distloss._keras.private_names.table import TABLE
taken = [
    (one, name.name)
    for name in TABLE
    if name.is_due and not name.is_of_instances and "horovod" not in name.owner
    for one in getattr(name.owners(), "__mro__", [name.owners()])
    if name.name in vars(one)
]
optimizer = keras.optimizers.SGD()
for one, name in set(taken):
    delattr(one, name)
import distloss
for one in pkgutil.walk_packages(distloss.__path__, "distloss."):
    if one.name != "distloss.__main__":
        importlib.import_module(one.name)
try:
    distloss.DistributedOptimizer(optimizer)
except distloss.DistlossError as error:
    print("told:", error)
"""


def test_without_any_of_them_distloss_can_be_imported():
    done = subprocess.run(
        [sys.executable, "-W", "error::ImportWarning", "-c", WITHOUT],
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert done.stdout.startswith("told: Expected Keras with"), done.stderr[-2000:]


def test_autograph_does_not_look_into_the_table(monkeypatch):
    seen = []

    def note(_package):
        seen.append(ag_ctx.control_status_ctx().status)

    monkeypatch.setattr(private_name, "warn_if_untested", note)

    @tf.function
    def traced():
        note(None)
        of_losses.GET_MASK.found()
        of_losses.GET_MASK.put(of_losses.GET_MASK.owners(), of_losses.GET_MASK.found())
        private_name.check(of_losses.GET_MASK)

    traced()
    assert seen[0] is ag_ctx.Status.ENABLED
    assert {*seen[1:]} == {ag_ctx.Status.DISABLED}


# -- releases that came after the tests


@pytest.fixture
def nothing_said():
    private_name.warn_if_untested.cache_clear()
    yield
    private_name.warn_if_untested.cache_clear()


def test_a_release_after_the_tests_is_warned_of_once(monkeypatch, nothing_said):
    monkeypatch.setattr(keras, "__version__", "3.16.0.dev2026102704")
    with pytest.warns(UntestedVersionWarning) as said:
        prepared()
    (only,) = said
    prepared()  # where a second warning would be an error
    assert str(only.message).startswith(
        "distloss was tested with Keras 3.3 to 3.15. Got keras==3.16.0.dev2026102704"
    )
    assert 'pip install "keras<3.16"' in str(only.message)


def test_the_installed_releases_are_tested(nothing_said):
    """After a new release: run all tests, and then raise `newest` of its package."""
    packages = {name.group.package for name in HERE}
    released = [p for p in packages if re.fullmatch(r"[\d.]+", p.version())]
    assert [p.said for p in released if not p.is_tested] == []
    prepared()


# -- names without which numbers are right all the same


def test_without_logits_a_crossentropy_is_the_same_but_for_rounding():
    softmax = keras.ops.softmax(tf.constant([[1.0, 2.0], [0.5, -1.0]]))
    assert tensors.notes_on(softmax).keys() >= {"_keras_logits"}
    loss = distloss.DistributedLoss("sparse_categorical_crossentropy")
    with_logits = loss(tf.constant([0, 1]), softmax)
    without = loss(tf.constant([0, 1]), tf.identity(softmax))
    np.testing.assert_allclose(with_logits, without, rtol=1e-6)


def test_an_optimizer_of_horovod_is_known_by_its_module_too(monkeypatch):
    of_horovod = type("SGD", (), {"__module__": "horovod._keras"})()
    assert horovod_calls.has_wrapped(of_horovod)
    assert not horovod_calls.has_wrapped(keras.optimizers.SGD())


def regularized():
    layer = tf_keras.layers.Dense(1, kernel_regularizer="l2", kernel_initializer="ones")
    made = tf_keras.Sequential([tf_keras.Input((2,)), layer])
    made.compile(tf_keras.optimizers.SGD(0.1), "mse")
    return made


def test_a_regulariser_of_tf_keras_that_is_not_marked_counts_once(monkeypatch):
    """Then it is taken for a mean over rows, whose parts add up to one of it."""
    elsewhere = dataclasses.replace(of_others.UNCONDITIONAL, name="_elsewhere")
    monkeypatch.setattr(tensors, "UNCONDITIONAL", elsewhere)
    x = np.arange(6, dtype="float32").reshape(3, 2)
    with strategy_of("mirrored", 2).scope():
        on_two = distloss.prepare(regularized())
    alone = regularized()
    for one in (on_two, alone):
        one.fit(x, x[:, :1], batch_size=3, verbose=0, shuffle=False)
    for got, wanted in zip(on_two.get_weights(), alone.get_weights(), strict=True):
        np.testing.assert_allclose(got, wanted, rtol=0, atol=1e-6)
