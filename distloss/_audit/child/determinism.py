"""Takes chance out of a training step, in a child of the audit."""

from __future__ import annotations

import contextlib
import importlib
import inspect
import random
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from numpy.random import bit_generator

from distloss._audit.child.ablation import Ablation
from distloss._audit.child.clipping import plain
from distloss._keras.private_names.of_audit import RANDOM

SEED = 17
Given = dict[str, Any]  # the arguments of an operation, by name

# The operations in which every random function of TensorFlow ends, those of
# `tf.random.Generator`, Keras and tf-keras too. Module -> operation -> what stands in.
OPERATIONS: dict[str, dict[str, str]] = {
    "random_ops": {
        "random_standard_normal": "normal",
        "random_uniform": "uniform",
        "truncated_normal": "truncated_normal",
        "random_uniform_int": "whole_numbers",
        "random_shuffle": "same_order",
        "random_gamma": "mean_per_sample",
        "random_poisson_v2": "mean_per_sample",
        "multinomial": "classes",
    },
    "stateless_random_ops_v2": {
        "stateless_random_normal_v2": "normal",
        "stateless_random_uniform_v2": "uniform",
        "stateless_truncated_normal_v2": "truncated_normal",
        "stateless_random_uniform_int_v2": "whole_numbers",
        "stateless_random_uniform_full_int_v2": "bits",
        "stateless_random_gamma_v3": "mean",
        "stateless_shuffle": "same_order",
    },
    "stateless_random_ops": {
        "stateless_random_poisson": "mean",
        "stateless_random_binomial": "mean",
        "stateless_multinomial": "classes",
        "stateless_parameterized_truncated_normal": "mean",
    },
    "stateful_random_ops": {
        "stateful_random_binomial": "mean",
        "non_deterministic_ints": "bits",
    },
}


def seed() -> None:
    """Makes what is drawn outside of a step the same in each child."""
    keras.utils.set_random_seed(20)


def seed_process(rank: int) -> None:
    """The same for each audit, and other for each process: of its own, as when trained.

    A script that seeds nothing shuffles otherwise on each process.
    """
    keras.utils.set_random_seed(20 + rank)
    if rank:
        _numpy_draws_from(random.Random(SEED + rank))


def _numpy_draws_from(entropy: random.Random) -> None:
    """The entropy of whatever NumPy makes without a seed."""
    bit_generator.randbits = entropy.getrandbits  # type: ignore[attr-defined]


class Determinism:
    """Takes chance out of a step: dropout is off, and each row gets the same draw."""

    def __init__(self, ablation: Ablation) -> None:
        self._ablation = ablation
        self._thread = threading.local()

    def restart(self) -> None:
        """At the beginning of a step on one replica."""
        self._thread.draws = 0
        # What Python and NumPy draw while a step is traced is a constant of its graph.
        random.seed(SEED)
        np.random.seed(SEED)

    def patch(self) -> None:
        """Puts a stand-in in the place of whatever draws."""
        backend = RANDOM.found()
        for module in {backend, sys.modules[backend.dropout.__module__]}:
            module.dropout = self.without_dropout(module.dropout)
        tf.nn.dropout = self.without_dropout(tf.nn.dropout)
        for name, operations in OPERATIONS.items():
            generated = importlib.import_module(f"tensorflow.python.ops.gen_{name}")
            for operation, stand_in in operations.items():
                drawn = self._without_chance(getattr(generated, operation), stand_in)
                setattr(generated, operation, drawn)
        for layer in (keras.layers.GaussianNoise, keras.layers.GaussianDropout):
            self.switch_off(layer)
        self.switch_off(keras.layers.AlphaDropout)
        _numpy_draws_from(random.Random(SEED))

    def _note(self) -> None:
        self._ablation.found.add("randomness")

    def without_dropout(self, original: Any) -> Any:
        """`original`, which drops nothing while a step runs."""

        def dropout(inputs: Any = None, *args: Any, **kwargs: Any) -> Any:
            inputs = kwargs.pop("x", inputs)
            if not self._ablation.active:
                return original(inputs, *args, **kwargs)
            self._note()
            return inputs

        return plain(dropout)

    def switch_off(self, layer: Any) -> None:
        """Lets layers of class `layer` do nothing while a step runs."""
        call = layer.call

        def same(this: Any, inputs: Any, training: Any = False) -> Any:
            if not self._ablation.active:
                return call(this, inputs, training=training)
            self._note()
            return inputs

        layer.call = plain(same)

    def _without_chance(self, original: Callable[..., Any], stand_in: str) -> Any:
        """The operation `original`; while a step runs, what stands in for it."""
        signature = inspect.signature(original)

        def draw(*args: Any, **kwargs: Any) -> Any:
            inside = getattr(self._thread, "inside", False)
            if inside or not self._ablation.active or _initializes():
                return original(*args, **kwargs)
            self._note()
            given = signature.bind(*args, **kwargs)
            given.apply_defaults()
            with self._inside():
                return getattr(self, f"_{stand_in}")(given.arguments)

        return plain(draw)

    @contextlib.contextmanager
    def _inside(self) -> Iterator[None]:
        """Draws of our own are no draws of the step."""
        self._thread.inside = True
        self._thread.draws = getattr(self._thread, "draws", 0) + 1
        try:
            yield
        finally:
            self._thread.inside = False

    # -- what stands in for an operation: of its shape, the same for each row

    def _normal(self, given: Given) -> Any:
        draw = tf.random.stateless_normal
        return self._same_for_rows(draw, given, dtype=given["dtype"])

    def _uniform(self, given: Given) -> Any:
        draw = tf.random.stateless_uniform
        return self._same_for_rows(draw, given, dtype=given["dtype"])

    def _truncated_normal(self, given: Given) -> Any:
        draw = tf.random.stateless_truncated_normal
        return self._same_for_rows(draw, given, dtype=given["dtype"])

    def _whole_numbers(self, given: Given) -> Any:
        low = tf.convert_to_tensor(given["minval"])
        ends = {"minval": low, "maxval": given["maxval"], "dtype": low.dtype}
        return self._same_for_rows(tf.random.stateless_uniform, given, **ends)

    def _bits(self, given: Given) -> Any:
        ends = {"minval": None, "maxval": None, "dtype": given["dtype"]}
        return self._same_for_rows(tf.random.stateless_uniform, given, **ends)

    def _same_for_rows(self, draw: Any, given: Given, **about: Any) -> Any:
        whole = tf.cast(tf.convert_to_tensor(given["shape"], tf.int32), tf.int32)
        one = whole if whole.shape == [0] else tf.concat([[1], whole[1:]], 0)
        row = draw(one, [SEED, self._thread.draws], **about)
        drawn = tf.broadcast_to(row, whole)
        known = tf.get_static_value(whole, partial=True)
        return drawn if known is None else tf.ensure_shape(drawn, known)

    def _mean(self, given: Given) -> Any:
        """The mean of a distribution whose parameters each row may have for itself."""
        mean = _mean_of(given)
        return tf.broadcast_to(mean, tf.cast(given["shape"], tf.int32))

    def _mean_per_sample(self, given: Given) -> Any:
        """The same, where `shape` is that of the samples for each parameter."""
        mean = _mean_of(given)
        samples = tf.cast(tf.convert_to_tensor(given["shape"], tf.int32), tf.int32)
        return tf.broadcast_to(mean, tf.concat([samples, tf.shape(mean)], 0))

    def _classes(self, given: Given) -> Any:
        """A class for each row, by the same share of all its probabilities."""
        odds = tf.nn.softmax(tf.cast(given["logits"], tf.float64))
        shape = [1, given["num_samples"]]
        seed = [SEED, self._thread.draws]
        share = tf.random.stateless_uniform(shape, seed, dtype=tf.float64)
        below = tf.cumsum(odds, -1)[:, tf.newaxis, :-1] < share[..., tf.newaxis]
        return tf.reduce_sum(tf.cast(below, given["output_dtype"]), -1)

    def _same_order(self, given: Given) -> Any:
        return tf.identity(given["value"])


def _mean_of(given: Given) -> Any:
    if "alpha" in given:
        return tf.convert_to_tensor(given["alpha"])
    if "means" in given:
        return tf.clip_by_value(given["means"], given["minvals"], given["maxvals"])
    if "probs" in given:
        mean = tf.cast(given["counts"], tf.float64) * tf.cast(
            given["probs"], tf.float64
        )
    else:
        rate = given["rate"] if "rate" in given else given["lam"]
        mean = tf.cast(tf.convert_to_tensor(rate), tf.float64)
    return tf.cast(tf.floor(mean + 0.5), given["dtype"])


def _initializes() -> bool:
    """Whether it is an initializer that draws: weights are handed on anyway."""
    frame: Any = sys._getframe(2)
    for _ in range(16):
        if frame is None:
            return False
        if "initializers" in frame.f_code.co_filename:
            return True
        frame = frame.f_back
    return False
