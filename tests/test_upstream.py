"""What we rely on inside Keras and TensorFlow: these fail when upstream moves it."""

import inspect

import keras
import pytest
import tensorflow as tf
from keras.src.backend.common.symbolic_scope import in_symbolic_scope
from keras.src.trainers.compile_utils import get_loss

from distloss import DistlossError


def test_keras_builds_losses_in_symbolic_scope():
    """replicas.StrategyReplicas takes no sum there."""
    seen = []

    def loss(y_true, y_pred):
        seen.append(in_symbolic_scope())
        return y_pred

    spec = keras.KerasTensor((2, 1))
    keras.src.backend.compute_output_spec(loss, spec, spec)
    assert seen == [True]
    assert not in_symbolic_scope()


def test_keras_scales_reported_losses_by_the_number_of_replicas():
    """replicas.StrategyReplicas.reported divides by it."""
    from keras.src.backend.tensorflow import trainer

    source = inspect.getsource(trainer.TensorFlowTrainer.train_step)
    assert "unscale_loss_for_distribution(loss)" in source


def test_crossentropy_is_chosen_by_shape():
    """losses._crossentropy asks Keras."""
    sparse = get_loss("crossentropy", tf.zeros((2,)), tf.zeros((2, 3)))
    assert sparse.fn is keras.losses.sparse_categorical_crossentropy


def test_keras_loss_classes_name_their_function():
    """losses.DistributedLoss tells CTC and Circle by it."""
    assert keras.losses.CTC().fn is keras.losses.ctc
    assert keras.losses.CategoricalHinge().fn is keras.losses.categorical_hinge
    assert keras.losses.Circle().fn is keras.losses.circle
    assert keras.losses.Dice(axis=(0, 1))._fn_kwargs["axis"] == (0, 1)


def test_keras_marks_masks_on_tensors():
    layer = keras.layers.Embedding(3, 2, mask_zero=True)
    assert layer(tf.constant([[1, 0]]))._keras_mask.numpy().tolist() == [[True, False]]


def test_autograph_raises_our_errors_as_they_are():
    """By way of DistlossError.__init__."""

    @tf.function
    def fails():
        raise DistlossError("said")

    with pytest.raises(DistlossError, match="said"):
        fails()


def test_keras_keeps_added_losses_in_a_list_per_layer():
    """replicas._added_losses_kept puts them back after a collective."""

    class Adds(keras.layers.Layer):
        def call(self, x):
            self.add_loss(tf.reduce_sum(x))
            return x

    layer = Adds()
    model = keras.Sequential([keras.Input((1,)), layer])
    model(tf.ones((2, 1)))
    assert [float(loss) for loss in layer._losses] == [2.0]
    assert layer in model._flatten_layers()
