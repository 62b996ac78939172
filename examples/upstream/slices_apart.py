"""A sparse gradient is used slice by slice, not as the sum of a row's slices.

`update_step` of Adam and others gets `tf.IndexedSlices` in which a row of an embedding
may come several times. Its gradient is their sum; Adam squares, and clipping measures,
each. So one gradient moves a variable differently, sparse or dense. tf-keras adds
slices up in `_deduplicate_sparse_grad` of its optimizer (argument tf_keras).
https://github.com/keras-team/keras/blob/v3.15.1/keras/src/optimizers/base_optimizer.py
"""

import importlib
import sys

import tensorflow as tf

keras = importlib.import_module((*sys.argv, "keras")[1])
IDS = tf.constant([0, 1, 1, 1, 2])  # five ids, of which one comes three times


def moved(as_given):
    table = keras.layers.Embedding(3, 1, embeddings_initializer="ones")
    table.build([None])
    optimizer = keras.optimizers.Adam(0.1)
    for _ in range(3):
        with tf.GradientTape() as tape:
            factors = [[1.0], [1.0], [-2.0], [3.0], [1.0]]
            loss = tf.reduce_sum(table(IDS) ** 2 * factors)
        (gradient,) = tape.gradient(loss, table.trainable_variables)
        gradient = as_given(gradient)
        optimizer.apply_gradients([(gradient, table.trainable_variables[0])])
    return float(1 - table.get_weights()[0][1, 0])


expected, got = moved(tf.convert_to_tensor), moved(tf.identity)
print(f"expected a move of {expected:.4f} in 3 steps of Adam, by dense gradients")
print(f"got      a move of {got:.4f} by the same gradients as tf.IndexedSlices")
sys.exit(abs(got - expected) > 1e-5)
