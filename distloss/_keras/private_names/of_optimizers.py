"""What optimizers of Keras 3 have."""

from __future__ import annotations

from distloss._keras.private_names.groups import OPTIMIZERS
from distloss._keras.private_names.private_name import PrivateName

_UPSTREAM = "test_upstream.py::"
_METHODS = f"{_UPSTREAM}test_keras_has_the_methods_that_we_override_or_call"
_SUMS = (
    f"{_UPSTREAM}"
    "test_bare_optimizers_sum_gradients_where_replicas_have_not_met_since_3_5"
)
_TRACKED = f"{_UPSTREAM}test_keras_tracks_the_variables_of_an_optimizer"
_COPIED = f"{_UPSTREAM}test_keras_optimizers_keep_their_variables_where_we_copy_them"
_MULTI = f"{_UPSTREAM}test_keras_keeps_the_optimizers_of_a_multi_optimizer"

_OPTIMIZER = "keras.optimizers.Optimizer"
_SCALING = "keras.optimizers.LossScaleOptimizer"

ALL_REDUCE = PrivateName(
    OPTIMIZERS,
    _OPTIMIZER,
    "_all_reduce_sum_gradients",
    "sum gradients once",
    _SUMS,
    arguments=("grads_and_vars",),
)
APPLY_GRADIENTS = PrivateName(
    OPTIMIZERS,
    _OPTIMIZER,
    "_backend_apply_gradients",
    "sum gradients before they are clipped",
    _METHODS,
)
UPDATE_STEP = PrivateName(
    OPTIMIZERS, _OPTIMIZER, "_backend_update_step", "sum gradients once", _SUMS
)
OVERWRITE = PrivateName(
    OPTIMIZERS,
    _OPTIMIZER,
    "_overwrite_model_variables_with_average_value",
    "give replicas their averages (use_ema)",
    _METHODS,
)
AVERAGES = PrivateName(
    OPTIMIZERS,
    _OPTIMIZER,
    "_model_variables_moving_average",
    "give replicas their averages (use_ema)",
    is_of_instances=True,
)
CLIP = PrivateName(
    OPTIMIZERS,
    _OPTIMIZER,
    "_clip_gradients",
    "see what clipping does to a step",
    f"{_UPSTREAM}test_clipping_and_batch_statistics_are_where_switches_are",
    arguments=("grads",),
)
TRAINABLE_VARIABLES = PrivateName(
    OPTIMIZERS,
    _OPTIMIZER,
    "_trainable_variables",
    "know which variables an optimizer updates",
    _TRACKED,
    is_of_instances=True,
)
VARIABLE_INDEX = PrivateName(
    OPTIMIZERS,
    _OPTIMIZER,
    "_get_variable_index",
    "accumulate the gradients of each variable",
    _TRACKED,
    arguments=("variable",),
)
CHECK_KNOWN = PrivateName(
    OPTIMIZERS,
    _OPTIMIZER,
    "_check_variables_are_known",
    "refuse variables that an optimizer does not know",
    _TRACKED,
)
FILTER_EMPTY = PrivateName(
    OPTIMIZERS,
    _OPTIMIZER,
    "_filter_empty_gradients",
    "refuse a step without gradients",
    _TRACKED,
)
STRATEGY = PrivateName(
    OPTIMIZERS,
    _OPTIMIZER,
    "_distribution_strategy",
    "know in which strategy an optimizer was made",
    f"{_UPSTREAM}test_keras_keeps_what_a_model_was_compiled_with",
    is_of_instances=True,
)
VARIABLES = PrivateName(
    OPTIMIZERS,
    _OPTIMIZER,
    "_variables",
    "go on with the state of an optimizer",
    _COPIED,
    is_of_instances=True,
)
TRACKER = PrivateName(
    OPTIMIZERS,
    _OPTIMIZER,
    "_tracker",
    "go on with the state of an optimizer",
    _COPIED,
    is_of_instances=True,
)
TRACKER_CLASS = PrivateName(
    OPTIMIZERS,
    "keras.src.utils.tracking",
    "Tracker",
    "go on with the state of an optimizer",
    _COPIED,
)
TRACK_FOR_CHECKPOINTS = PrivateName(
    OPTIMIZERS,
    _OPTIMIZER,
    "_track_trackable",
    "save the state of an optimizer in checkpoints",
    _TRACKED,
)
VARIABLE_CLASS = PrivateName(
    OPTIMIZERS,
    "keras.src.backend",
    "Variable",
    "go on with the state of an optimizer",
    _TRACKED,
)
UNPICKLE = PrivateName(
    OPTIMIZERS, _OPTIMIZER, "_unpickle_model", "read a pickled optimizer"
)
INNER_OPTIMIZERS = PrivateName(
    OPTIMIZERS,
    "keras.optimizers.MultiOptimizer",
    "_inner_optimizers",
    "wrap the optimizers that another one holds",
    _MULTI,
    since=(3, 15),
    is_of_instances=True,
)
OPTIMIZER_MAP = PrivateName(
    OPTIMIZERS,
    "keras.optimizers.MultiOptimizer",
    "_optimizer_map",
    "wrap the optimizers that another one holds",
    _MULTI,
    since=(3, 15),
    is_of_instances=True,
)
OPTIMIZERS_BY_NAME = PrivateName(
    OPTIMIZERS,
    "keras.optimizers.OptimizerMap",
    "_optimizer_map",
    "wrap the optimizers that another one holds",
    _MULTI,
    since=(3, 15),
    is_of_instances=True,
)
TF_APPLY = PrivateName(
    OPTIMIZERS,
    _SCALING,
    "_tf_apply",
    "look for overflow on all replicas",
    _METHODS,
    arguments=("grads", "trainable_variables"),
)
HANDLE_FINITE = PrivateName(
    OPTIMIZERS,
    _SCALING,
    "_stateful_handle_finite_grads",
    "unscale gradients that were summed",
    _METHODS,
    arguments=("grads", "trainable_variables"),
)
