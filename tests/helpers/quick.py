"""TensorFlow without what takes longer in a test than all that it saves there.

A test makes a few steps of a small model. To improve its graph takes longer than to run
it as it was traced, and so does an iterator with threads and functions for each device.
A step that makes variables is traced twice, and where in Python each operation was made
takes a tenth of the tracing and a third of the memory.
"""

import contextlib
from unittest import mock

import tensorflow as tf
from tensorflow.python.data.ops import iterator_ops, multi_device_iterator_ops
from tensorflow.python.util import tf_stack


@contextlib.contextmanager
def graphs_as_traced():
    """Without Grappler."""
    tf.config.optimizer.set_experimental_options({"disable_meta_optimizer": True})
    try:
        yield
    finally:
        tf.config.optimizer.set_experimental_options({"disable_meta_optimizer": False})


def without_stacks():
    """Operations do not note the lines of Python that made them."""
    here = tf_stack.extract_stack()

    def nowhere_else(stacklevel=1):
        return here

    return mock.patch.object(tf_stack, "extract_stack", nowhere_else)


def with_slots(model, optimizer=None):
    """The model, of which this optimizer, or its own, has made its variables.

    Else the first step makes them, and TensorFlow traces it once more without.
    """
    optimizer = optimizer or model.optimizer
    # tf-keras' legacy optimizers say it by another name
    build = getattr(optimizer, "build", None) or optimizer._create_all_weights
    build(model.trainable_variables)
    return model


def one_iterator():
    """Replicas take their batches in turn from one iterator, which is on the host."""
    return mock.patch.multiple(
        multi_device_iterator_ops,
        OwnedMultiDeviceIterator=InTurn,
        MultiDeviceIteratorSpec=InTurnSpec,
    )


class InTurn(multi_device_iterator_ops.OwnedMultiDeviceIterator):
    """As TensorFlow calls it: of a dataset, or of the parts that its spec names."""

    def __init__(
        self,
        dataset=None,
        devices=None,
        source_device="/cpu:0",
        components=None,
        element_spec=None,
        **buffers,
    ):
        if dataset is not None:
            with tf.device(source_device):
                components, element_spec = [iter(dataset)], dataset.element_spec
        self._devices = devices
        self._source_device = source_device
        self._element_spec = element_spec
        self._device_iterators = [*components] * len(devices)

    def get_next(self, device=None):
        if device is not None:
            return self._device_iterators[0].get_next()
        return [each.get_next() for each in self._device_iterators]

    def get_next_as_optional(self):
        return [each.get_next_as_optional() for each in self._device_iterators]

    @property
    def _type_spec(self):
        return InTurnSpec(self._devices, self._source_device, self._element_spec)


class InTurnSpec(multi_device_iterator_ops.MultiDeviceIteratorSpec):
    @property
    def value_type(self):
        return InTurn

    @property
    def _component_specs(self):
        return [iterator_ops.IteratorSpec(self._element_spec)]

    def _to_components(self, value):
        return value._device_iterators[:1]

    def _from_components(self, components):
        return InTurn(
            devices=self._devices,
            source_device=self._source_device,
            components=components,
            element_spec=self._element_spec,
        )
