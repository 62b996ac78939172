"""What models of Keras 3 have, and what they train on."""

from __future__ import annotations

from distloss._keras.private_names.groups import DATA, MODELS
from distloss._keras.private_names.private_name import PrivateName

_MODEL = "keras.Model"
_UPSTREAM = "test_upstream.py::"
_COMPILED = f"{_UPSTREAM}test_keras_keeps_what_a_model_was_compiled_with"
_STEPS = f"{_UPSTREAM}test_keras_steps_call_the_methods_that_prepare_overrides"
_METHODS = f"{_UPSTREAM}test_keras_has_the_methods_that_we_override_or_call"
_WORKERS = (
    f"{_UPSTREAM}test_keras_averages_over_workers_along_an_axis_that_numbers_lack"
)

COMPILE_LOSS = PrivateName(
    MODELS,
    _MODEL,
    "_compile_loss",
    "wrap the losses of a compiled model",
    _COMPILED,
    is_of_instances=True,
)
COMPILE_METRICS = PrivateName(
    MODELS,
    _MODEL,
    "_compile_metrics",
    "weigh the metrics of a compiled model",
    is_of_instances=True,
)
COMPILE_CONFIG = PrivateName(
    MODELS,
    _MODEL,
    "_compile_config",
    "save a model as it was compiled",
    _COMPILED,
    is_of_instances=True,
)
LOSS_TRACKER = PrivateName(
    MODELS,
    _MODEL,
    "_loss_tracker",
    "report the loss of the whole batch",
    _STEPS,
    is_of_instances=True,
)
DISTRIBUTE_STRATEGY = PrivateName(
    MODELS,
    _MODEL,
    "_distribute_strategy",
    "know in which strategy a model was made",
    _COMPILED,
    is_of_instances=True,
)
CALL_HAS_TRAINING_ARG = PrivateName(
    MODELS,
    _MODEL,
    "_call_has_training_arg",
    "call a model in training",
    _COMPILED,
    is_of_instances=True,
)
SYMBOLIC_BUILD = PrivateName(
    MODELS, _MODEL, "_symbolic_build", "make variables before a step is cut", _METHODS
)
MAYBE_SYMBOLIC_BUILD = PrivateName(
    MODELS,
    _MODEL,
    "_maybe_symbolic_build",
    "let fit begin with a batch that splits unevenly",
    _STEPS,
    since=(3, 5),
    arguments=("iterator", "data_batch"),
)
COMPUTE_LOSS = PrivateName(
    MODELS,
    _MODEL,
    "_compute_loss",
    "compute the loss of a step",
    _STEPS,
    since=(3, 4),
    arguments=("x", "y", "y_pred", "sample_weight", "training"),
)
AGGREGATE_ADDITIONAL_LOSS = PrivateName(
    MODELS,
    _MODEL,
    "_aggregate_additional_loss",
    "weigh what layers add by rows",
    _STEPS,
    since=(3, 8),
    arguments=("loss",),
)
METRICS_RESULT_OR_LOGS = PrivateName(
    MODELS,
    _MODEL,
    "_get_metrics_result_or_logs",
    "report metrics of all processes",
    arguments=("logs",),
)
REDUCES_OVER_WORKERS = PrivateName(
    MODELS,
    "keras.src.backend.tensorflow.trainer",
    "_collective_all_reduce_multi_worker",
    "know what fit does with what several workers report",
    _WORKERS,
    arguments=("strategy",),
)

_ADAPTERS = "keras.src.trainers.data_adapters"
GENERATOR_ADAPTER = PrivateName(
    DATA,
    f"{_ADAPTERS}.generator_data_adapter",
    "GeneratorDataAdapter",
    "know whether a first batch that is looked at is gone",
)
GENERATOR = PrivateName(
    DATA,
    f"{_ADAPTERS}.generator_data_adapter.GeneratorDataAdapter",
    "generator",
    "train on copies of the arrays that a generator gives",
    is_of_instances=True,
)
PY_DATASET_ADAPTER = PrivateName(
    DATA,
    f"{_ADAPTERS}.py_dataset_adapter",
    "PyDatasetAdapter",
    "know whether a first batch that is looked at is gone",
)
STANDARDIZE_BATCH = PrivateName(
    DATA,
    f"{_ADAPTERS}.py_dataset_adapter.PyDatasetAdapter",
    "_standardize_batch",
    "train on copies of the arrays that a PyDataset gives",
    arguments=("batch",),
)
DATA_ADAPTER = PrivateName(
    DATA,
    "keras.src.backend.tensorflow.trainer.TFEpochIterator",
    "data_adapter",
    "know what fit was given",
    is_of_instances=True,
)
DISTRIBUTED_DATASET = PrivateName(
    DATA,
    "keras.src.backend.tensorflow.trainer.TFEpochIterator",
    "_distributed_dataset",
    "know what batches are like, and not take one",
    is_of_instances=True,
)
