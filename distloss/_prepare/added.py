"""What layers add to a loss with `add_loss`, as a share of what one device would add.

There are three kinds. A term of weights only is the same on every replica; a mean over
local rows weighs by them; losses of single rows, which Keras adds up, are a sum.
"""

from __future__ import annotations

import keras
import tensorflow as tf

from distloss._errors import ArgumentError
from distloss._formula import reduce
from distloss._formula.normalization import sum_over_replicas
from distloss._formula.step_context import (
    MicrobatchContext,
    StepContext,
    current_step,
)
from distloss._keras import versions
from distloss._keras.compiled_model import layers_of
from distloss._keras.layer_hooks import sum_of_added_as_keras
from distloss._prepare.graphs import comes_from
from distloss._prepare.layer_hooks import was_added
from distloss.replicas import Replicas


def weighed(model: keras.Model, replicas: Replicas, added: tf.Tensor) -> tf.Tensor:
    """An added loss or a regulariser, as this replica's share of it.

    Keras divides it by the number of replicas, which is right as a report, since its
    loss tracker weighs by rows.
    """
    step = current_step()
    is_whole = replicas.count() == 1 and not isinstance(step, MicrobatchContext)
    if step is None or (is_whole and step.terms is None):
        return _as_keras_adds(model, added)
    _refuse_sums_over_rows(model)
    total = tf.reduce_sum(_as_float(added))
    if was_added(step, added):
        total = step.of_rows(total)  # the mean of none is NaN
        if is_of_rows(added, step):
            return _share_of_sum(step, replicas, total)
    if step.terms is not None:
        is_mean = was_added(step, added)
        take = step.terms.add_row_mean if is_mean else step.terms.add_constant
        return take(total)
    return _share_of_mean(step, replicas, total)


def _as_float(added: tf.Tensor) -> tf.Tensor:
    if added.dtype.is_floating:
        return added
    return tf.cast(added, keras.config.floatx())


def _as_keras_adds(model: keras.Model, added: tf.Tensor) -> tf.Tensor:
    if versions.TRACKERS_MULTIPLY:
        return sum_of_added_as_keras(model, added)
    return tf.reduce_sum(_as_float(added))


def _share_of_sum(step: StepContext, replicas: Replicas, total: tf.Tensor) -> tf.Tensor:
    """Of losses of single rows, which are a sum over all rows of the batch."""
    if isinstance(step, MicrobatchContext):
        return total
    if step.terms is not None:
        return step.terms.add_sum(total, replicas)
    return sum_over_replicas(total, replicas, "added_sum")


def _share_of_mean(step: StepContext, replicas: Replicas, mean: tf.Tensor) -> tf.Tensor:
    mean = tf.where(step.rows > 0, mean, tf.zeros_like(mean))
    # Not by Keras, whose 1 / N is a float32 in a float64 model, too
    reported = replicas.loss_to_report(mean) if versions.TRACKERS_MULTIPLY else mean
    if step.is_evaluated:
        return reported
    rows, all_of_them = (
        tf.cast(count, mean.dtype) for count in (step.rows, step.count_rows(replicas))
    )
    own = mean * reduce.share(rows, all_of_them)
    if isinstance(step, MicrobatchContext):
        return own
    return reduce.value_with_gradient_of(replicas.loss_to_differentiate(own), reported)


def is_of_rows(added: tf.Tensor, step: StepContext) -> bool:
    """Whether axis 0 of what a layer added holds rows.

    An open axis can be nothing else. One of known length may also be that of weights,
    which do not come from the data, or of features.

    Raises:
      ArgumentError: it may be either.
    """
    if not added.shape.rank:
        return False
    length = added.shape[0]
    if length is None:
        return True
    rows = max(1, step.static_rows or 0)  # none compute with one
    if step.static_rows is None or not comes_from(added, step.inputs):
        return False
    if length != rows and length % rows == 0:
        raise ArgumentError(
            "Expected add_loss of a scalar, or of losses of shape [rows, ...]. "
            f"Got shape {added.shape} from {rows} rows, which may be losses of tokens "
            "or means of features. Add a scalar, or reshape it to [rows, ...]."
        )
    return length == rows


def _refuse_sums_over_rows(model: keras.Model) -> None:
    if versions.ACTIVITY_IS_MEAN:
        return
    for layer in layers_of(model):
        if getattr(layer, "activity_regularizer", None) is not None:
            raise ArgumentError(
                "Expected layers that add means over rows. Got layer "
                f"{layer.name!r} with an activity_regularizer, which adds a sum in "
                f"keras.__version__={keras.__version__}. Install Keras 3.14 or newer, "
                "or let a layer call self.add_loss with the mean."
            )
