"""Models that others wrote: `prepare` on 4 replicas gives what one device gives."""

import keras
import keras_hub
import numpy as np
import pytest
from conftest import strategy_of
from dense_gradients import given_dense

import distloss

pytestmark = [pytest.mark.slow, pytest.mark.as_users_run]

ROWS, LENGTH, VOCABULARY = 21, 10, 40
random = np.random.default_rng(1)
TOKENS = random.integers(1, VOCABULARY, [ROWS, LENGTH])
LENGTHS = np.linspace(LENGTH, 2, ROWS).astype(int)  # long texts first, then short ones
PADDING = np.arange(LENGTH) < LENGTHS[:, np.newaxis]
IMAGES = (
    random.normal(size=[16, 32, 32, 3]) * np.linspace(0.5, 2, 16)[:, None, None, None]
)
TRANSFORMER = {
    "vocabulary_size": VOCABULARY,
    "num_layers": 1,
    "num_heads": 2,
    "hidden_dim": 16,
    "intermediate_dim": 32,
    "max_sequence_length": LENGTH,
    "dropout": 0.0,
}


def crossentropy():
    return keras.losses.SparseCategoricalCrossentropy(
        from_logits=True, reduction="mean_with_sample_weight"
    )


def text_classifier():
    backbone = keras_hub.models.BertBackbone(**TRANSFORMER)
    model = keras_hub.models.BertTextClassifier(
        backbone=backbone, num_classes=3, preprocessor=None, dropout=0.0
    )
    x = {"token_ids": TOKENS, "segment_ids": 0 * TOKENS, "padding_mask": PADDING}
    y = TOKENS.sum(-1) % 3
    return model, (x, y, np.where(y == 0, 10.0, 1.0))


def language_model(dtype="mixed_bfloat16"):
    """Predicts the next token; the weights leave out what is padding."""
    backbone = keras_hub.models.GPT2Backbone(**TRANSFORMER, dtype=dtype)
    model = keras_hub.models.GPT2CausalLM(backbone=backbone, preprocessor=None)
    x = {"token_ids": TOKENS, "padding_mask": PADDING}
    return model, (x, np.roll(TOKENS, -1, axis=1), PADDING.astype("float32"))


def trained(make, strategy, optimizer, *, prepared):
    """Weights before and after two epochs, and the losses."""
    with strategy.scope():
        keras.utils.set_random_seed(3)
        model, (x, y, weights) = make()
        model.compile(optimizer(), crossentropy(), jit_compile=False)
        if prepared:
            distloss.prepare(model)
        else:
            given_dense(model.optimizer)  # for plain Keras updates by slices apart
    before = model.get_weights()
    options = {"batch_size": 8, "epochs": 2, "shuffle": False, "verbose": 0}
    fitted = model.fit(x, y, sample_weight=weights, **options)
    return before, model.get_weights(), fitted.history["loss"]


def adamw():
    return keras.optimizers.AdamW(0.01, global_clipnorm=0.5)


def apart(weights, others, before):
    """|weights - others| relative to how far training went."""
    flat, other, start = (
        np.concatenate([np.ravel(w).astype("float64") for w in ws])
        for ws in (weights, others, before)
    )
    return np.linalg.norm(flat - other) / np.linalg.norm(other - start)


def test_a_text_classifier_of_keras_hub():
    one = trained(text_classifier, strategy_of("none"), adamw, prepared=False)
    four = trained(text_classifier, strategy_of("mirrored"), adamw, prepared=True)
    np.testing.assert_allclose(four[2], one[2], rtol=1e-5)
    for weight, wanted in zip(four[1], one[1], strict=True):
        # Attention does not depend on the bias of its keys, whose gradient is
        # rounding: Adam makes steps of it, of a size that the absolute limit allows.
        np.testing.assert_allclose(weight, wanted, rtol=1e-5, atol=2e-6)


def test_a_causal_language_model_of_keras_hub_in_mixed_precision():
    one = trained(language_model, strategy_of("none"), adamw, prepared=False)
    four = trained(language_model, strategy_of("mirrored"), adamw, prepared=True)
    np.testing.assert_allclose(four[2], one[2], rtol=2e-3)  # bfloat16: 3 digits
    exact = trained(
        lambda: language_model("float32"), strategy_of("none"), adamw, prepared=False
    )
    # Both round by themselves, as far from float32 as each other: such errors are
    # independent, and add up by their squares.
    rounding = apart(one[1], exact[1], one[0])
    assert apart(four[1], one[1], one[0]) < 2**0.5 * rounding


def cnn():
    """The first blocks of a MobileNet, its statistics those of the whole batch."""

    def synchronized(layer):
        config = layer.get_config()
        if isinstance(layer, keras.layers.BatchNormalization):
            config["synchronized"] = True
        return type(layer).from_config(config)

    whole = keras.applications.MobileNet((32, 32, 3), alpha=0.25, weights=None)
    features = whole.get_layer("conv_pw_3_relu").output
    outputs = keras.layers.Dense(5)(keras.layers.GlobalAveragePooling2D()(features))
    model = keras.Model(whole.inputs, outputs)
    model = keras.models.clone_model(model, clone_function=synchronized)
    return model, (IMAGES, np.arange(16) % 5, np.linspace(1, 5, 16))


def test_a_cnn_of_keras_applications_with_synchronized_batch_normalization():
    def sgd():
        return keras.optimizers.SGD(0.1, momentum=0.9, global_clipnorm=1.0)

    one = trained(cnn, strategy_of("none"), sgd, prepared=False)
    four = trained(cnn, strategy_of("mirrored"), sgd, prepared=True)
    np.testing.assert_allclose(four[2], one[2], rtol=1e-5)
    assert apart(four[1], one[1], one[0]) < 1e-4
