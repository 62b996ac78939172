"""What layers, variables, metrics and losses of Keras 3 have."""

from __future__ import annotations

from distloss._keras.private_names.groups import LAYERS, LOSSES
from distloss._keras.private_names.private_name import PrivateName

_UPSTREAM = "test_upstream.py::"
_ADDED = f"{_UPSTREAM}test_keras_keeps_added_losses_in_a_list_per_layer"
_CHANGED = f"{_UPSTREAM}test_keras_changes_these_lists_in_two_methods"
_METHODS = f"{_UPSTREAM}test_keras_has_the_methods_that_we_override_or_call"
_METRICS = f"{_UPSTREAM}test_metrics_are_kept_in_a_list_of_each_layer"
_COMPILED = f"{_UPSTREAM}test_keras_keeps_what_a_model_was_compiled_with"
_REDUCED = (
    f"{_UPSTREAM}test_all_losses_of_keras_are_reduced_and_scaled_in_three_functions"
)

FLATTEN_LAYERS = PrivateName(
    LAYERS, "keras.Layer", "_flatten_layers", "find the layers in a model", _ADDED
)
LOSSES_ADDED = PrivateName(
    LAYERS,
    "keras.Layer",
    "_losses",
    "keep what a layer adds apart for each replica",
    _ADDED,
    is_of_instances=True,
)
GET_OWN_LOSSES = PrivateName(
    LAYERS,
    "keras.Layer",
    "_get_own_losses",
    "give each replica what its layers added",
    _METHODS,
    arguments=(),
)
CLEAR_LOSSES = PrivateName(
    LAYERS,
    "keras.Layer",
    "_clear_losses",
    "keep what a layer adds apart for each replica",
    _CHANGED,
)
METRICS = PrivateName(
    LAYERS,
    "keras.Layer",
    "_metrics",
    "find the metrics that a step updates",
    _METRICS,
    is_of_instances=True,
)
DIRECT_ASSIGN = PrivateName(
    LAYERS,
    "keras.Variable",
    "_direct_assign",
    "keep averages as they are on a replica without rows",
    _METHODS,
    arguments=("value",),
)
VARIABLE_VALUE = PrivateName(
    LAYERS,
    "keras.Variable",
    "_value",
    "add up the metrics of replicas",
    until=(3, 9),
    is_of_instances=True,
)
MOMENTS = PrivateName(
    LAYERS,
    "keras.layers.BatchNormalization",
    "_moments",
    "leave a replica without rows out of batch statistics",
    _METHODS,
    arguments=("inputs", "mask"),
)
METRIC_FUNCTION = PrivateName(
    LAYERS,
    "keras.metrics.MeanMetricWrapper",
    "_fn",
    "weigh a metric that is a number by rows",
    _METHODS,
    is_of_instances=True,
)
METRIC_ARGUMENTS = PrivateName(
    LAYERS,
    "keras.metrics.MeanMetricWrapper",
    "_fn_kwargs",
    "weigh a metric that is a number by rows",
    _METHODS,
    is_of_instances=True,
)

_COMPILE_UTILS = "keras.src.trainers.compile_utils"
COMPILE_LOSS_CLASS = PrivateName(
    LOSSES, _COMPILE_UTILS, "CompileLoss", "wrap the losses of a model", _COMPILED
)
USER_LOSS = PrivateName(
    LOSSES,
    f"{_COMPILE_UTILS}.CompileLoss",
    "_user_loss",
    "wrap the losses of a model",
    _COMPILED,
    is_of_instances=True,
)
USER_LOSS_WEIGHTS = PrivateName(
    LOSSES,
    f"{_COMPILE_UTILS}.CompileLoss",
    "_user_loss_weights",
    "keep the weights of losses that it wraps",
    _COMPILED,
    is_of_instances=True,
)
FLAT_LOSSES = PrivateName(
    LOSSES,
    f"{_COMPILE_UTILS}.CompileLoss",
    "flat_losses",
    "report single losses",
    until=(3, 6),
    is_of_instances=True,
)
FLAT_LOSS_WEIGHTS = PrivateName(
    LOSSES,
    f"{_COMPILE_UTILS}.CompileLoss",
    "flat_loss_weights",
    "report single losses",
    until=(3, 6),
    is_of_instances=True,
)
GET_LOSS = PrivateName(
    LOSSES,
    _COMPILE_UTILS,
    "get_loss",
    'know which crossentropy "crossentropy" means',
    f"{_UPSTREAM}test_crossentropy_is_chosen_by_shape",
    arguments=("identifier", "y_true", "y_pred"),
)
LOSS_OF_FUNCTION = PrivateName(
    LOSSES,
    "keras.src.losses.losses",
    "LossFunctionWrapper",
    "see which axes a loss reduces",
)
LOSS_ARGUMENTS = PrivateName(
    LOSSES,
    "keras.src.losses.losses.LossFunctionWrapper",
    "_fn_kwargs",
    "see which axes a loss reduces",
    f"{_UPSTREAM}test_keras_loss_classes_name_their_function",
    is_of_instances=True,
)
_LOSS = "keras.src.losses.loss"
REDUCE_WEIGHTED_VALUES = PrivateName(
    LOSSES,
    _LOSS,
    "reduce_weighted_values",
    "take means over all rows in steps that it did not write",
    _REDUCED,
    arguments=("values", "sample_weight", "mask", "reduction", "dtype"),
)
SCALE_LOSS = PrivateName(
    LOSSES,
    _LOSS,
    "scale_loss_for_distribution",
    "weigh losses by rows, and not by 1 / replicas",
    _REDUCED,
    since=(3, 8),
    arguments=("value",),
)
UNSCALE_LOSS = PrivateName(
    LOSSES,
    _LOSS,
    "unscale_loss_for_distribution",
    "report the loss of the whole batch",
    _REDUCED,
    since=(3, 8),
    arguments=("value",),
)
IN_SYMBOLIC_SCOPE = PrivateName(
    LOSSES,
    "keras.src.backend",
    "in_symbolic_scope",
    "sum nothing while Keras builds a model",
    f"{_UPSTREAM}test_keras_builds_losses_in_symbolic_scope",
    since=(3, 5),
    arguments=(),
)
_MASKING = "keras.src.backend.common.masking"
GET_MASK = PrivateName(
    LOSSES,
    _MASKING,
    "get_keras_mask",
    "leave out what layers have masked",
    f"{_UPSTREAM}test_keras_marks_masks_on_tensors",
    since=(3, 6),
    arguments=("x",),
)
SET_MASK = PrivateName(
    LOSSES,
    _MASKING,
    "set_keras_mask",
    "keep the masks of rows that it cuts",
    since=(3, 6),
    arguments=("x", "mask"),
)
LOGITS = PrivateName(
    LOSSES,
    "tensorflow.Tensor",
    "_keras_logits",
    "compute crossentropies from logits, which rounds less",
    is_of_instances=True,
    is_optional=True,
)
