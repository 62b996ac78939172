"""What a prepared step of one's own makes of each kind of term: what README says."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from conftest import strategy_of

import distloss

ROWS, BATCH, TOKENS = 21, 8, 7  # 2, 2, 2, 2 rows, and at the end 2, 2, 1, 0
RNG = np.random.default_rng(3)
WORDS = RNG.integers(1, 5, (ROWS, TOKENS))
WORDS[np.arange(TOKENS) >= RNG.integers(2, TOKENS, (ROWS, 1))] = 0  # masked
TAGS = RNG.integers(0, 3, (ROWS, TOKENS))


class AddsItsMean(keras.layers.Layer):
    def call(self, x):
        self.add_loss(0.3 * tf.reduce_mean(tf.square(x)))
        return x

    def compute_mask(self, x, mask=None):
        return mask


class AddsItsRows(AddsItsMean):
    """Keras adds them up."""

    def call(self, x):
        self.add_loss(0.01 * tf.reduce_mean(tf.square(x), axis=[1, 2]))
        return x


class Tagger(keras.Model):
    """Its step differentiates `term(y, logits, model)`."""

    adds = AddsItsMean

    def __init__(self, term):
        super().__init__()
        self.net = keras.Sequential(
            [
                keras.layers.Embedding(5, 4, mask_zero=True),
                keras.layers.Dense(3, kernel_regularizer="l2"),
                self.adds(),
            ]
        )
        self.net.build((None, TOKENS))
        self.term = term
        self.built = True

    def train_step(self, data):
        x, y = data
        with tf.GradientTape() as tape:
            loss = self.term(y, self.net(x), self)
        variables = self.trainable_variables
        self.optimizer.apply(tape.gradient(loss, variables), variables)
        return {"objective": loss}


def raw_sum(y, logits, model):
    return tf.reduce_sum(each(y, logits)) / 10


def by_the_global_batch(y, logits, model):
    return tf.reduce_sum(each(y, logits)) / BATCH


def shares_of_tensorflow(y, logits, model):
    regularizer = tf.nn.scale_regularization_loss(tf.add_n(model.losses))
    return regularizer + tf.nn.compute_average_loss(each(y, logits))


def each(y, logits):
    """The loss of each row, without the mask."""
    values = tf.nn.sparse_softmax_cross_entropy_with_logits(y, logits)
    return tf.reduce_mean(values, axis=1)


def compares_rows(y, logits, model):
    """Spread over the rows of the batch."""
    return tf.reduce_mean(tf.math.reduce_variance(logits, axis=0))


def cross_entropy(**options):
    return keras.losses.SparseCategoricalCrossentropy(from_logits=True, **options)


def masked(y, logits, model):
    return cross_entropy()(y, logits)


def masked_and_summed(y, logits, model):
    return cross_entropy(reduction="sum")(y, logits) / 100


def added(y, logits, model):
    return masked(y, logits, model) + sum(model.losses)


def added_by_keras(y, logits, model):
    return masked(y, logits, model) + model.compute_loss(y=y, y_pred=logits)


class TaggerOfRows(Tagger):
    adds = AddsItsRows


def raw_with_regularisers(y, logits, model):
    return tf.reduce_mean(each(y, logits)) + tf.add_n(model.losses)


def trained(term, strategy, batches, *, prepared, kind=Tagger):
    """What training changes in each weight, in one array; and the reported losses."""
    with strategy_of(strategy).scope():
        keras.utils.set_random_seed(5)
        model = kind(term)
        model.compile(keras.optimizers.SGD(1.0))
    if prepared:
        distloss.prepare(model)
    start = model.get_weights()
    data = tf.data.Dataset.from_tensor_slices((WORDS, TAGS)).batch(BATCH).take(batches)
    history = model.fit(data, shuffle=False, verbose=0).history
    pairs = zip(model.get_weights(), start, strict=True)
    return np.concatenate([np.ravel(a - b) for a, b in pairs]), history["objective"]


@pytest.mark.parametrize(
    "term",
    [masked, masked_and_summed, added, raw_with_regularisers, shares_of_tensorflow],
)
def test_what_is_exact(term):
    got = trained(term, "mirrored", 3, prepared=True)
    wanted = trained(term, "none", 3, prepared=False)
    np.testing.assert_allclose(got[0], wanted[0], atol=1e-5 * np.abs(wanted[0]).max())
    assert got[1] == pytest.approx(wanted[1], rel=1e-5)


@pytest.mark.parametrize("kind", [Tagger, TaggerOfRows])
@pytest.mark.slow
def test_what_layers_add_is_exact_where_keras_adds_it_up(kind):
    got = trained(added_by_keras, "mirrored", 3, prepared=True, kind=kind)
    wanted = trained(added_by_keras, "none", 3, prepared=False, kind=kind)
    np.testing.assert_allclose(got[0], wanted[0], atol=1e-5 * np.abs(wanted[0]).max())
    assert got[1] == pytest.approx(wanted[1], rel=1e-5)


@pytest.mark.parametrize("term", [raw_sum, by_the_global_batch])
def test_sums_are_taken_for_means_and_so_are_a_fourth(term):
    got, _ = trained(term, "mirrored", 1, prepared=True)
    wanted, _ = trained(term, "none", 1, prepared=False)
    np.testing.assert_allclose(got, wanted / 4, atol=1e-5 * np.abs(wanted).max())


def test_losses_that_compare_rows_compare_those_of_a_replica():
    got, _ = trained(compares_rows, "mirrored", 1, prepared=True)
    wanted, _ = trained(compares_rows, "none", 1, prepared=False)
    assert np.abs(got - wanted).max() > 0.1 * np.abs(wanted).max()


class ReadsLate(Tagger):
    """Reports what its layers have added, after the optimizer has updated."""

    def train_step(self, data):
        super().train_step(data)
        return {"objective": tf.add_n(self.losses)}


@pytest.mark.parametrize("prepared", [True, False])
def test_added_losses_after_the_update_are_those_of_the_replica(prepared):
    options = {"batches": 1, "kind": ReadsLate}
    term = raw_with_regularisers
    _, got = trained(term, "mirrored", prepared=prepared, **options)
    _, wanted = trained(term, "none", prepared=False, **options)
    assert (got == pytest.approx(wanted, rel=1e-5)) == prepared
