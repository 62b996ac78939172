"""What the audit asks of Keras and tf-keras, in the processes that run a step."""

from __future__ import annotations

from distloss._keras.private_names.groups import AUDIT, AUDIT_OF_TF_KERAS
from distloss._keras.private_names.private_name import PrivateName, check

BASE_OPTIMIZER = PrivateName(
    AUDIT,
    "keras.src.optimizers.base_optimizer",
    "BaseOptimizer",
    "see what optimizers update with",
)
CLIP_OF_BASE = PrivateName(
    AUDIT,
    "keras.src.optimizers.base_optimizer.BaseOptimizer",
    "_clip_gradients",
    "run a step without clipping",
    arguments=("grads",),
)
REGULARIZATION_LOSSES = PrivateName(
    AUDIT,
    "keras.Layer",
    "_get_regularization_losses",
    "run a step without regularisers",
    arguments=(),
)
RANDOM = PrivateName(AUDIT, "keras.src.backend", "random", "run a step without chance")
DROPOUT = PrivateName(
    AUDIT,
    "keras.src.backend.tensorflow.random",
    "dropout",
    "run a step without chance",
    arguments=("inputs", "rate"),
)
GET_POLICY = PrivateName(
    AUDIT,
    "keras.src.dtype_policies",
    "get",
    "run a step in float64",
    arguments=("identifier",),
)
_ADAPTERS = "keras.src.trainers.data_adapters"
GET_DATA_ADAPTER = PrivateName(
    AUDIT,
    _ADAPTERS,
    "get_data_adapter",
    "take the batch that fit would take",
    arguments=("x", "y", "sample_weight", "batch_size"),
)
CAN_CONVERT_ARRAYS = PrivateName(
    AUDIT,
    f"{_ADAPTERS}.array_data_adapter",
    "can_convert_arrays",
    "take the batch that fit would take",
    arguments=("arrays",),
)
VALIDATION_SPLIT = PrivateName(
    AUDIT,
    f"{_ADAPTERS}.array_slicing",
    "train_validation_split",
    "take the batch that fit would take",
    arguments=("arrays", "validation_split"),
)
REDUCE_PER_REPLICA = PrivateName(
    AUDIT,
    "keras.src.backend.tensorflow.trainer",
    "reduce_per_replica",
    "report what fit would report",
    arguments=("values", "strategy", "reduction"),
)
FLAT_LOSSES_OF_OUTPUTS = PrivateName(
    AUDIT,
    "keras.src.trainers.compile_utils.CompileLoss",
    "_flat_losses",
    "run a step without the loss of one output",
    since=(3, 7),
    is_of_instances=True,
)

RANDOM_GENERATOR = PrivateName(
    AUDIT_OF_TF_KERAS,
    "tf_keras.src.backend",
    "RandomGenerator",
    "run a step without chance",
)
CLIP_OF_TF_KERAS = PrivateName(
    AUDIT_OF_TF_KERAS,
    "tf_keras.optimizers.Optimizer",
    "_clip_gradients",
    "run a step without clipping",
    arguments=("grads",),
)
REDUCE_OF_TF_KERAS = PrivateName(
    AUDIT_OF_TF_KERAS,
    "tf_keras.src.engine.training",
    "reduce_per_replica",
    "report what fit would report",
    arguments=("values", "strategy", "reduction"),
)
OUTPUT_NAMES = PrivateName(
    AUDIT_OF_TF_KERAS,
    "tf_keras.src.engine.compile_utils.LossesContainer",
    "_output_names",
    "run a step without the loss of one output",
    is_of_instances=True,
)

_BEFORE_A_STEP = (
    BASE_OPTIMIZER,
    CLIP_OF_BASE,
    REGULARIZATION_LOSSES,
    RANDOM,
    DROPOUT,
    GET_POLICY,
    GET_DATA_ADAPTER,
    CAN_CONVERT_ARRAYS,
    VALIDATION_SPLIT,
    REDUCE_PER_REPLICA,
)
_OF_TF_KERAS = (RANDOM_GENERATOR, CLIP_OF_TF_KERAS, REDUCE_OF_TF_KERAS)


def check_names() -> None:
    """Looks for those of Keras before anything is put in their place.

    Raises:
      BackendError: one is missing.
    """
    check(*_BEFORE_A_STEP)


def check_names_of_tf_keras() -> None:
    """The same for tf-keras, where the user has loaded it."""
    check(*_OF_TF_KERAS)
