"""What tf-keras, TensorFlow and Horovod have."""

from __future__ import annotations

from distloss._keras.private_names.groups import (
    OF_HOROVOD,
    OF_HOROVOD_ALONE,
    OF_TENSORFLOW,
    OF_TF_KERAS,
)
from distloss._keras.private_names.private_name import PrivateName

_MODEL = "tf_keras.Model"
_UPSTREAM = "test_upstream.py::"
_METHODS = f"{_UPSTREAM}test_keras_has_the_methods_that_we_override_or_call"
_LEGACY = (
    f"{_UPSTREAM}"
    "test_tf_keras_keeps_losses_and_makes_the_variables_of_legacy_optimizers"
)

COMPILED_LOSS = PrivateName(
    OF_TF_KERAS,
    _MODEL,
    "compiled_loss",
    "wrap the losses of a compiled model",
    _METHODS,
    is_of_instances=True,
)
COMPILED_METRICS = PrivateName(
    OF_TF_KERAS,
    _MODEL,
    "compiled_metrics",
    "weigh the metrics of a compiled model",
    is_of_instances=True,
)
IS_COMPILED = PrivateName(
    OF_TF_KERAS,
    _MODEL,
    "_is_compiled",
    "know whether a model is compiled",
    _METHODS,
    is_of_instances=True,
)
MODEL_STRATEGY = PrivateName(
    OF_TF_KERAS,
    _MODEL,
    "_distribution_strategy",
    "know in which strategy a model was made",
    _METHODS,
    is_of_instances=True,
)
LAYERS_IN = PrivateName(
    OF_TF_KERAS, _MODEL, "_flatten_layers", "find the layers in a model", _METHODS
)
COMPILE_CACHE = PrivateName(
    OF_TF_KERAS,
    _MODEL,
    "_reset_compile_cache",
    "let fit make its steps anew",
    _METHODS,
)
COMPILE_ARGUMENTS = PrivateName(
    OF_TF_KERAS,
    _MODEL,
    "_get_compile_args",
    "save a model as it was compiled",
    _METHODS,
    arguments=("user_metrics",),
)
METRICS_RESULT = PrivateName(
    OF_TF_KERAS,
    _MODEL,
    "_validate_and_get_metrics_result",
    "report metrics of all processes",
    arguments=("logs",),
)
METRICS_OF_LAYER = PrivateName(
    OF_TF_KERAS,
    "tf_keras.layers.Layer",
    "_metrics",
    "find the metrics that a step updates",
    is_of_instances=True,
)
STATISTICS = PrivateName(
    OF_TF_KERAS,
    "tf_keras.layers.Layer",
    "_non_trainable_weights",
    "keep averages as they are on a replica without rows",
    is_of_instances=True,
)
SYNC_MOMENTS = PrivateName(
    OF_TF_KERAS,
    "tf_keras.layers.experimental.SyncBatchNormalization",
    "_sync_calculate_mean_and_var",
    "leave a replica without rows out of batch statistics",
    _METHODS,
    arguments=("x", "reduction_axes", "keep_dims", "mask"),
)
UNCONDITIONAL = PrivateName(
    OF_TF_KERAS,
    "tensorflow.Tensor",
    "_unconditional_loss",
    "tell regularisers from what layers compute of rows",
    is_of_instances=True,
    is_optional=True,
)
MASK = PrivateName(
    OF_TF_KERAS,
    "tensorflow.Tensor",
    "_keras_mask",
    "leave out what layers have masked",
    is_of_instances=True,
)
METRIC_FUNCTION_OF_TF_KERAS = PrivateName(
    OF_TF_KERAS,
    "tf_keras.metrics.MeanMetricWrapper",
    "_fn",
    "weigh a metric that is a number by rows",
    _METHODS,
    is_of_instances=True,
)
_CONTAINER = "tf_keras.src.engine.compile_utils.LossesContainer"
USER_LOSSES = PrivateName(
    OF_TF_KERAS,
    _CONTAINER,
    "_user_losses",
    "wrap the losses of a compiled model",
    _LEGACY,
    is_of_instances=True,
)
USER_LOSS_WEIGHTS_OF_TF_KERAS = PrivateName(
    OF_TF_KERAS,
    _CONTAINER,
    "_user_loss_weights",
    "keep the weights of losses that it wraps",
    is_of_instances=True,
)
BUILT_LOSSES = PrivateName(
    OF_TF_KERAS,
    _CONTAINER,
    "_losses",
    "report the losses of a model with a step of its own",
    is_of_instances=True,
)
_UTILS = "tf_keras.src.utils.losses_utils"
VALID_MASK = PrivateName(
    OF_TF_KERAS,
    _UTILS,
    "apply_valid_mask",
    "take means over all rows in steps that it did not write",
    arguments=("losses", "sw", "mask", "reduction"),
)
WEIGHTED_LOSS = PrivateName(
    OF_TF_KERAS,
    _UTILS,
    "compute_weighted_loss",
    "take means over all rows in steps that it did not write",
    arguments=("losses", "sample_weight", "reduction", "name"),
)
SCALE_LOSS_OF_TF_KERAS = PrivateName(
    OF_TF_KERAS,
    _UTILS,
    "scale_loss_for_distribution",
    "weigh losses by rows, and not by 1 / replicas",
    arguments=("loss_value",),
)
GET_REDUCTION = PrivateName(
    OF_TF_KERAS,
    "tf_keras.losses.Loss",
    "_get_reduction",
    "let losses take means in steps that it did not write",
    arguments=(),
)
_SCALING = "tf_keras.src.mixed_precision.loss_scale_optimizer"
SCALING = PrivateName(
    OF_TF_KERAS, _SCALING, "LossScaleOptimizer", "see each update of a step"
)
SCALING_V3 = PrivateName(
    OF_TF_KERAS, _SCALING, "LossScaleOptimizerV3", "see each update of a step"
)
INNER = PrivateName(
    OF_TF_KERAS,
    f"{_SCALING}.LossScaleOptimizerV3",
    "_optimizer",
    "sum gradients before the check for overflow",
    is_of_instances=True,
)
CREATE_ALL_WEIGHTS = PrivateName(
    OF_TF_KERAS,
    "tf_keras.optimizers.legacy.Optimizer",
    "_create_all_weights",
    "broadcast the state of an optimizer",
    _LEGACY,
    arguments=("var_list",),
)
OPTIMIZER_STRATEGY = PrivateName(
    OF_TF_KERAS,
    "tf_keras.optimizers.Optimizer",
    "_distribution_strategy",
    "know in which strategy an optimizer was made",
    is_of_instances=True,
)

SPEC_CLASS = PrivateName(
    OF_TENSORFLOW,
    "tensorflow.python.distribute.values",
    "PerReplicaSpec",
    "know what each replica gets of a batch",
)
VALUE_SPECS = PrivateName(
    OF_TENSORFLOW,
    "tensorflow.python.distribute.values.PerReplicaSpec",
    "_value_specs",
    "know what each replica gets of a batch",
    f"{_UPSTREAM}test_batches_of_replicas_say_what_each_of_them_gets",
    is_of_instances=True,
)
CONTAINER = PrivateName(
    OF_TENSORFLOW,
    "tensorflow.Variable",
    "_distributed_container",
    "find the copies of a variable on all replicas",
    f"{_UPSTREAM}test_update_rules_are_called_with_the_variable_of_each_replica",
    is_of_instances=True,
    is_optional=True,
)
ADD_CONTROL_INPUTS = PrivateName(
    OF_TENSORFLOW,
    "tensorflow.Operation",
    "_add_control_inputs",
    "send gradients while others are computed",
    "test_backward_order.py::test_gradients_are_computed_in_the_order_given",
)

_OPERATIONS = "horovod.tensorflow.mpi_ops"
_SETS = "test_private_names.py::test_horovod_has_its_private_names"
BASICS = PrivateName(OF_HOROVOD, _OPERATIONS, "_basics", "find process sets", _SETS)
PROCESS_SETS = PrivateName(
    OF_HOROVOD,
    "horovod.common.basics.HorovodBasics",
    "_get_process_set_ids_and_ranks",
    "find process sets",
    _SETS,
    arguments=(),
)
PROCESS_SET = PrivateName(
    OF_HOROVOD,
    _OPERATIONS,
    "_temp_process_set_object",
    "name the processes of a collective",
    _SETS,
    arguments=("process_set_id",),
)
ALLREDUCE_GRADS = PrivateName(
    OF_HOROVOD,
    "horovod.tensorflow.keras",
    "_allreduce_grads",
    "refuse optimizers that Horovod has wrapped",
    _SETS,
    is_of_instances=True,
    is_optional=True,
)

_ALONE = "compute a step on one process alone"
LIBRARY = PrivateName(OF_HOROVOD_ALONE, _OPERATIONS, "MPI_LIB", _ALONE, _SETS)
LIBRARY_OF_NUMBERS = PrivateName(
    OF_HOROVOD_ALONE,
    "horovod.common.basics.HorovodBasics",
    "MPI_LIB_CTYPES",
    _ALONE,
    _SETS,
    is_of_instances=True,
)
BASICS_OF_SETS = PrivateName(
    OF_HOROVOD_ALONE, "horovod.common.process_sets", "_basics", _ALONE, _SETS
)
