"""`hvd.grouped_allreduce` of a tensor and an `IndexedSlices` behind it raises.

horovod/tensorflow/__init__.py walks over `tensors` where it makes the slices that it
has gathered, not over `indexed_slices_list`, and so asks the tensor for its
dense_shape. The other way round, slices get the dense_shape of another tensor's.
https://github.com/horovod/horovod/blob/v0.28.1/horovod/tensorflow/__init__.py#L321
"""

import sys

import horovod.tensorflow as hvd
import tensorflow as tf

hvd.init()
slices = tf.IndexedSlices(tf.ones([1, 1]), tf.constant([0]), tf.constant([3, 1]))
print("expected [1.] and slices of shape [3, 1], from a process that is alone")
try:
    tensor, reduced = hvd.grouped_allreduce([tf.ones([1]), slices])
except AttributeError as error:
    print(f"got      AttributeError: {error}")
    sys.exit(1)
shape = reduced.dense_shape.numpy().tolist()
print(f"got      {tensor.numpy()} and slices of shape {shape}")
sys.exit(shape != [3, 1])
