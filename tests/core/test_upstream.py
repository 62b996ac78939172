"""What we rely on inside Keras and TensorFlow: these fail when upstream moves it."""

import inspect
import re
import runpy

import keras
import pytest
import tensorflow as tf
import tf_keras as tf_keras_itself
from cases import KERAS, since_keras
from conftest import strategy_of

from distloss import DistlossError
from distloss._keras import (
    inner_optimizers,
    optimizer_state,
    own_steps,
    tf_keras,
    train_functions,
    update_rules,
    versions,
)
from distloss._keras.compiled_model import (
    averages_over_workers,
    loss_for_shapes,
    losses_given_to,
    strategy_given_to,
    with_losses,
)
from distloss._keras.layer_hooks import takes_training
from distloss._keras.versions import in_symbolic_scope
from distloss.replicas.alone import alone

pytestmark = pytest.mark.as_users_run


@since_keras(3, 5)
def test_keras_builds_losses_in_symbolic_scope():
    """replicas.StrategyReplicas takes no sum there."""
    seen = []

    def loss(y_true, y_pred):
        seen.append(in_symbolic_scope())
        return y_pred

    spec = keras.KerasTensor((2, 1))
    keras.src.backend.compute_output_spec(loss, spec, spec)
    assert seen == [True]
    assert not in_symbolic_scope()


def test_keras_scales_reported_losses_by_the_number_of_replicas():
    """replicas.StrategyReplicas.reported divides by it."""
    source = inspect.getsource(keras.Model.train_step)
    scales = "unscale_loss_for_distribution(loss)" in source
    assert scales == versions.TRACKERS_MULTIPLY == (KERAS >= (3, 8))


def test_crossentropy_is_chosen_by_shape():
    """losses._crossentropy asks Keras."""
    sparse = loss_for_shapes("crossentropy", tf.zeros((2,)), tf.zeros((2, 3)))
    assert sparse.fn is keras.losses.sparse_categorical_crossentropy


def test_keras_loss_classes_name_their_function():
    """losses.DistributedLoss tells CTC and Circle by it."""
    circle = "Circle" in vars(keras.losses)
    assert circle == (KERAS >= (3, 7))
    assert keras.losses.CTC().fn is keras.losses.ctc
    assert keras.losses.CategoricalHinge().fn is keras.losses.categorical_hinge
    if circle:
        assert keras.losses.Circle().fn is keras.losses.circle
        assert keras.losses.Dice(axis=(0, 1))._fn_kwargs["axis"] == (0, 1)


def test_keras_marks_masks_on_tensors():
    layer = keras.layers.Embedding(3, 2, mask_zero=True)
    assert layer(tf.constant([[1, 0]]))._keras_mask.numpy().tolist() == [[True, False]]


def test_autograph_raises_our_errors_as_they_are():
    """By way of DistlossError.__init__."""

    @tf.function
    def fails():
        raise DistlossError("said")

    with pytest.raises(DistlossError, match="said"):
        fails()


def test_keras_keeps_added_losses_in_a_list_per_layer():
    """_keras.added_losses puts them back after a collective."""

    class Adds(keras.layers.Layer):
        def call(self, x):
            self.add_loss(tf.reduce_sum(x))
            return x

    layer = Adds()
    model = keras.Sequential([keras.Input((1,)), layer])
    model(tf.ones((2, 1)))
    assert [float(loss) for loss in layer._losses] == [2.0]
    assert layer in model._flatten_layers()


def test_keras_changes_these_lists_in_two_methods():
    """_keras.added_losses takes their places while a replica waits."""
    layer = keras.Layer
    source = inspect.getsource(inspect.getmodule(layer))
    changes = re.findall(r"\._losses(\.\w+\(| =)", source)
    assert sorted(changes) == [" =", ".clear(", ".extend("]
    assert "self._losses.extend(" in inspect.getsource(layer.add_loss)
    assert "self._losses.clear(" in inspect.getsource(layer._clear_losses)
    assert "layer._clear_losses()" in inspect.getsource(layer._clear_losses)


@pytest.mark.parametrize(
    ("owner", "names"),
    [
        (
            keras.optimizers.Optimizer,
            "_all_reduce_sum_gradients _check_variables_are_known _get_variable_index "
            "_backend_update_step _overwrite_model_variables_with_average_value "
            "_backend_apply_gradients _filter_empty_gradients",
        ),
        (
            keras.optimizers.LossScaleOptimizer,
            "_tf_apply _stateful_handle_finite_grads",
        ),
        (
            keras.Model,
            "train_step test_step compute_loss _symbolic_build get_compile_config "
            + "_compute_loss _maybe_symbolic_build " * (KERAS >= (3, 5))
            + "_aggregate_additional_loss" * (KERAS >= (3, 8)),
        ),
        (keras.Layer, "_get_own_losses _clear_losses _flatten_layers"),
        (keras.Variable, "_direct_assign"),
        (keras.layers.BatchNormalization, "_moments"),
        (keras.metrics.MeanSquaredError(), "_fn _fn_kwargs"),
        (
            tf_keras_itself.Sequential(),
            "_reset_compile_cache _get_compile_args _flatten_layers "
            "_distribution_strategy _is_compiled compiled_loss",
        ),
        (
            tf_keras_itself.layers.experimental.SyncBatchNormalization,
            "_sync_calculate_mean_and_var",
        ),
        (tf_keras_itself.metrics.MeanSquaredError(), "_fn"),
    ],
)
def test_keras_has_the_methods_that_we_override_or_call(owner, names):
    """optimizers and _prepare; that Keras calls them is shown by their own tests."""
    assert [name for name in names.split() if not hasattr(owner, name)] == []


def test_keras_steps_call_the_methods_that_prepare_overrides():
    step = inspect.getsource(keras.Model.train_step)
    assert ("self._compute_loss(" in step) == (KERAS >= (3, 4))
    assert "self._loss_tracker.update_state(" in step
    loss = inspect.getsource(keras.Model.compute_loss)
    assert ("self._aggregate_additional_loss(loss)" in loss) == (KERAS >= (3, 8))
    fit = inspect.getsource(keras.Model.fit)
    assert ("self._maybe_symbolic_build(iterator=" in fit) == (KERAS >= (3, 5))


def test_bare_optimizers_sum_gradients_where_replicas_have_not_met_since_3_5():
    """replicas that each update alone drift apart: see test_optimizers."""
    source = inspect.getsource(keras.optimizers.Optimizer._backend_update_step)
    sums = "self._all_reduce_sum_gradients(" in source
    assert sums == versions.OPTIMIZERS_SUM == (KERAS >= (3, 5))


def test_metrics_add_up_their_replicas_since_3_10(four):
    """versions.sum_on_read does it before."""
    with four.scope():
        total = keras.metrics.Mean().total.value
    on_read = total.synchronization == tf.VariableSynchronization.ON_READ
    assert on_read == versions.METRICS_SUM_ON_READ == (KERAS >= (3, 10))


def test_keras_averages_over_workers_along_an_axis_that_numbers_lack():
    """_prepare gives them one; it also asks Keras whether there are several workers."""
    from keras.src.backend.tensorflow import trainer

    source = inspect.getsource(trainer.reduce_per_replica)
    assert 'strategy.reduce("MEAN", v, axis=0)' in source
    assert not averages_over_workers(tf.distribute.get_strategy())


def test_keras_adds_to_a_variable_by_assigning_it():
    """metrics._add does not."""
    assert "assign(self + value)" in inspect.getsource(keras.Variable.assign_add)


def test_keras_optimizers_keep_their_variables_where_we_copy_them():
    """optimizers.keras3._state_of gives the wrapped one containers of its own."""
    optimizer = keras.optimizers.Adam()
    assert list(optimizer._tracker.config) == ["variables"]
    assert optimizer._tracker.config["variables"][1] is optimizer._variables
    assert set(optimizer._tracker.stored_ids) == {"variables"}


def test_keras_keeps_what_a_model_was_compiled_with():
    """_prepare wraps it again."""
    model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])
    model.compile("sgd", ["mse"], loss_weights=[2.0])
    loss = model._compile_loss
    assert (losses_given_to(model), loss._user_loss_weights) == (["mse"], [2.0])
    other = with_losses(model, {"mse": "mae"}.get)
    assert (other._user_loss, other._user_loss_weights) == (["mae"], [2.0])
    assert other.output_names == loss.output_names
    assert type(other) is type(loss)
    # older Keras notes it as it was given
    assert model._compile_config.config["optimizer"] in (model.optimizer, "sgd")
    assert strategy_given_to(model) is None
    assert takes_training(model)
    assert model.optimizer._distribution_strategy is tf.distribute.get_strategy()


def test_keras_tracks_the_variables_of_an_optimizer():
    """A copy of optimizer_state has the same, and makes others in a list of its own."""
    one, variable = keras.optimizers.SGD(0.5, momentum=0.9), keras.Variable([1.0])
    copied = object.__new__(keras.optimizers.SGD)
    optimizer_state.give(copied, optimizer_state.copy_of(one))
    assert copied.variables == one.variables
    copied.build([variable])
    assert copied.variables[: len(one.variables)] == one.variables
    assert len(copied.variables) == len(one.variables) + 1
    assert "_variables" in dict(copied._trackable_children())
    assert optimizer_state.variables_of(copied) == [variable]
    assert optimizer_state.indices_of(copied, [variable]) == [0]
    with pytest.raises(ValueError, match="Unknown variable"):
        optimizer_state.check_was_built_for(copied, [keras.Variable([1.0])])
    with pytest.raises(ValueError, match="No gradients"):
        optimizer_state.check_has_any(copied, [None], [variable])


def test_a_loss_scale_optimizer_builds_the_one_inside_in_its_own_build():
    """optimizer_state.builder_of finds it there, for optimizers to take it over."""
    seen = []

    class Inner(keras.optimizers.SGD):
        def build(self, variables):
            seen.append(optimizer_state.builder_of(self))
            super().build(variables)

    outer = keras.optimizers.LossScaleOptimizer(Inner())
    for optimizer in (outer, Inner()):
        optimizer.build([keras.Variable([1.0])])
    assert seen[0] is outer
    assert seen[1:] == [None]


@since_keras(3, 15)
def test_keras_keeps_the_optimizers_of_a_multi_optimizer():
    """inner_optimizers exchanges them."""
    inner = [keras.optimizers.SGD(), keras.optimizers.Adam()]
    by_name = keras.optimizers.OptimizerMap(inner[0], {"bias": inner[1]})
    multi = keras.optimizers.MultiOptimizer(by_name)
    others = {id(one): keras.optimizers.RMSprop() for one in inner}
    made = inner_optimizers.exchanged(multi, lambda one: others[id(one)])
    assert made.keys() <= vars(multi).keys()
    assert made["_inner_optimizers"] == [others[id(one)] for one in multi.optimizers]
    assert made["_optimizer_map"].default_optimizer is others[id(inner[0])]
    assert made["_optimizer_map"]["bias"] is others[id(inner[1])]


def test_tf_keras_keeps_losses_and_makes_the_variables_of_legacy_optimizers():
    module = tf_keras_itself
    model = module.Sequential([module.layers.Dense(1, input_shape=[1])])
    optimizer = module.optimizers.legacy.SGD(0.5, momentum=0.9)
    model.compile(optimizer, ["mse"])
    assert losses_given_to(model) == ["mse"]
    assert len(optimizer.variables()) == 0
    for _ in range(2):
        tf_keras.make_variables(optimizer, model.trainable_variables)
        assert len(optimizer.variables()) == 3  # iterations, and momenta of two


@since_keras(3, 5)
def test_keras_averages_a_first_batch_over_replicas(four):
    """Which fails where it splits unevenly; prepare mends it until it does not."""
    with four.scope():
        model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])
        model.compile("sgd", "mse")
    batch = tf.data.Dataset.from_tensor_slices((tf.ones((5, 1)),) * 2).batch(5)
    with pytest.raises(tf.errors.InvalidArgumentError, match="AddN"):
        model.fit(batch, shuffle=False, verbose=0)


def test_a_keras_that_is_too_old_is_refused(monkeypatch):
    monkeypatch.setattr(keras, "__version__", "3.2.1")
    with pytest.raises(DistlossError, match=r"Keras 3\.3 or newer\. Got .*3\.2\.1"):
        runpy.run_path(versions.__file__)


@since_keras(3, 8)
def test_all_losses_of_keras_are_reduced_and_scaled_in_three_functions():
    """_keras.own_steps replaces them by name in this module."""
    from keras.src.losses import loss as module

    arguments = ["values", "sample_weight", "mask", "reduction", "dtype"]
    functions = [
        getattr(getattr(module, name), "args", [getattr(module, name)])[0]
        for name in ("reduce_weighted_values", "scale_loss_for_distribution")
    ]
    assert list(inspect.signature(functions[0]).parameters) == arguments
    assert "return reduce_weighted_values(" in inspect.getsource(module.Loss.__call__)
    assert "scale_loss_for_distribution(loss)" in inspect.getsource(
        module.reduce_values
    )
    source = inspect.getsource(inspect.getmodule(keras.Model.train_step))
    assert "loss_module.unscale_loss_for_distribution(loss)" in source
    assert "loss_module.scale_loss_for_distribution(loss)" in source


def test_every_update_of_keras_comes_by_apply():
    """_keras.own_steps.watch_updates looks at each there."""
    seen = []

    class Seen(keras.optimizers.SGD):
        def apply(self, *args, **kwargs):
            seen.append(self.name)
            return super().apply(*args, **kwargs)

    weight = keras.Variable([1.0])
    optimizer = Seen(0.1, name="seen")
    optimizer.apply_gradients([(tf.ones([1]), weight)])
    scaled = keras.optimizers.LossScaleOptimizer(Seen(0.1, name="inner"))
    scaled.build([weight])
    scaled.apply([tf.ones([1])], [weight])
    assert seen == ["seen", "inner"]
    assert "apply" in vars(keras.optimizers.Optimizer) or not hasattr(
        keras.optimizers.Optimizer.apply, "is_watched"
    )


def test_metrics_are_kept_in_a_list_of_each_layer():
    """_keras.own_steps.metrics_in reads it; compiled ones are in `metrics`."""
    model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])
    model.held = keras.metrics.Mean("held")
    model.compile("sgd", "mse", metrics=["mae"])
    assert model.held in model._metrics
    names = [metric.name for metric in own_steps.metrics_in([model])]
    mae = ["mean_absolute_error"] if KERAS >= (3, 6) else []
    assert {"loss", "compile_metrics", "held", *mae} <= {*names, *mae}
    assert own_steps.takes_means(model.held)
    assert not own_steps.takes_means(keras.metrics.MeanSquaredError())


def test_tensorflow_has_two_functions_that_make_shares():
    """_prepare.average_loss replaces them in `tf.nn`."""
    average = tf.nn.compute_average_loss
    average = getattr(average, "args", [average])[0]
    arguments = ["per_example_loss", "sample_weight", "global_batch_size"]
    assert list(inspect.signature(average).parameters) == arguments
    assert float(average(tf.constant([1.0, 3.0]), global_batch_size=4)) == 1.0
    assert float(tf.nn.scale_regularization_loss(tf.constant(3.0))) == 3.0


def test_fit_asks_for_its_function_before_each_batch():
    """callbacks.StepCheck puts another one in its place in on_train_batch_begin."""
    fit = inspect.getsource(keras.Model.fit)
    begin = fit.index("callbacks.on_train_batch_begin(")
    assert begin < fit.index("self.train_function(iterator)")
    assert fit.index("self.make_train_function()") < begin
    fit = inspect.getsource(tf_keras_itself.Model.fit)
    begin = fit.index("callbacks.on_train_batch_begin(")
    assert begin < fit.index("self.train_function(iterator)")


def test_update_rules_are_called_with_the_variable_of_each_replica():
    """_keras.update_rules sees what comes to them."""
    strategy = strategy_of("mirrored", 2)
    with strategy.scope():
        weight = keras.Variable([3.0], name="weight")
        optimizer = keras.optimizers.SGD(0.5)
        optimizer.build([weight])
    seen = []

    def watcher(found, gradient, variable):
        assert found is optimizer
        seen.append((update_rules.path_of(optimizer, variable), variable.device[-5:]))
        assert update_rules.whole_of(variable) is weight.value

    def step():
        optimizer.apply([tf.constant([1.0])], [weight])

    with update_rules.watched(watcher):
        strategy.run(step)
    assert seen == [("weight", "CPU:0"), ("weight", "CPU:1")]
    assert len(update_rules.parts_of(weight)) == 2
    strategy.run(step)  # which nobody watches
    assert len(seen) == 2
    summed = 2 if versions.OPTIMIZERS_SUM else 1
    assert weight.numpy().tolist() == [3.0 - 2 * 0.5 * summed]


def test_one_replica_of_a_strategy_can_be_alone():
    """replicas.alone: what asks for others finds none, on this thread only."""
    strategy = strategy_of("mirrored", 2)
    with strategy.scope():
        mean = tf.Variable(1.0, aggregation=tf.VariableAggregation.MEAN)

    def step():
        context = tf.distribute.get_replica_context()
        everyone = context.all_reduce("sum", tf.ones([]))

        def merged(found, value):
            return found.extended.call_for_each_replica(lambda: value + 1)

        again = context.merge_call(merged, args=(everyone,))
        mean.assign(tf.fill([], 4.0))  # which is aggregated, and so asks for others
        return context.num_replicas_in_sync, everyone, again

    with alone(strategy):
        count, everyone, again = step()
        assert (count, float(everyone), float(again)) == (1, 1.0, 2.0)
        assert strategy.num_replicas_in_sync == 1
    assert float(mean.values[0]) == 4.0
    assert strategy.num_replicas_in_sync == 2
    for name in ("_replica_ctx_all_reduce", "reduce_to", "batch_reduce_to"):
        assert callable(getattr(strategy.extended, name))
    totals = strategy.run(
        lambda: tf.distribute.get_replica_context().all_reduce("sum", tf.ones([]))
    )
    assert [float(x) for x in strategy.experimental_local_results(totals)] == [2, 2]


def test_batches_of_replicas_say_what_each_of_them_gets():
    """_keras.train_functions makes an iterator over one of them."""
    strategy = strategy_of("mirrored", 2)
    rows = tf.data.Dataset.range(3).batch(3)
    iterator = iter(strategy.experimental_distribute_dataset(rows))
    first, second = train_functions.per_replica_specs(iterator.element_spec)
    assert first == second == tf.TensorSpec([None], tf.int64)
    batch = next(iterator)
    again = train_functions.iterator_over(batch, iterator, strategy)
    assert again.element_spec == iterator.element_spec
    parts = strategy.experimental_local_results(next(again))
    assert [part.numpy().tolist() for part in parts] == [[0, 1], [2]]


def test_clipping_and_batch_statistics_are_where_switches_are():
    """_keras.switches turns them off."""
    base = keras.optimizers.Optimizer
    assert list(inspect.signature(base._clip_gradients).parameters) == ["self", "grads"]
    call = inspect.signature(keras.layers.BatchNormalization.call)
    assert list(call.parameters) == ["self", "inputs", "training", "mask"]
