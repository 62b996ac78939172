"""What sparse gradients are compared with: plain Keras that is given dense ones."""

import tensorflow as tf


def given_dense(optimizer):
    """`optimizer`, that of plain Keras or tf-keras, to which none come as slices."""
    apply_gradients = optimizer.apply_gradients

    def apply(grads_and_vars, *args, **kwargs):
        pairs = [
            (tf.convert_to_tensor(g) if isinstance(g, tf.IndexedSlices) else g, v)
            for g, v in grads_and_vars
        ]
        return apply_gradients(pairs, *args, **kwargs)

    optimizer.apply_gradients = apply
    return optimizer
