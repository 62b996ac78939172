"""The packages whose private names are used, and what those names are for."""

from __future__ import annotations

from distloss._keras.private_names.private_name import Group, Package

# The first and the last release with which all tests pass: `scripts/test_versions`.
KERAS = Package("keras", "Keras", "keras", (3, 3), (3, 15))
TF_KERAS = Package("tf_keras", "tf-keras", "tf-keras", (2, 16), (2, 21))
TENSORFLOW = Package("tensorflow", "TensorFlow", "tensorflow", (2, 16), (2, 21))
HOROVOD = Package("horovod", "Horovod", "horovod", (0, 28), (0, 28))

_LOOP = (
    "write the loop yourself, with distloss.DistributedLoss and "
    "distloss.DistributedOptimizer"
)
_BY_HAND = "sum the gradients of distloss.mean_share yourself, by an all-reduce"

_WHILE_IT_TRAINS = "let distloss.callbacks.StepCheck look at steps while they train"

MODELS = Group("models", KERAS, _LOOP)
LAYERS = Group("layers", KERAS, _LOOP)
DATA = Group("batches of fit", KERAS, _LOOP)
LOSSES = Group("losses", KERAS, "compute the loss with distloss.mean_share")
OPTIMIZERS = Group("optimizers", KERAS, _BY_HAND)
OF_TF_KERAS = Group("models and optimizers", TF_KERAS, _BY_HAND)
OF_TENSORFLOW = Group(
    "values of replicas", TENSORFLOW, "leave out distloss.callbacks.StepCheck"
)
OF_HOROVOD = Group(
    "process sets", HOROVOD, "let all processes share a batch: process_set=None"
)
OF_HOROVOD_ALONE = Group(
    "a step alone", HOROVOD, "leave out distloss.callbacks.StepCheck"
)
AUDIT = Group("audit", KERAS, _WHILE_IT_TRAINS)
AUDIT_OF_TF_KERAS = Group("audit", TF_KERAS, _WHILE_IT_TRAINS)
