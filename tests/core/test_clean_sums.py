"""Sums that are right raise no alarm, and what is above the border does."""

import pathlib
import sys

import numpy as np
import pytest
import tensorflow as tf
from conftest import strategy_of

from distloss._formula import checksums
from distloss._formula.checksum_rows import drawn
from distloss._formula.checksums import Group, Rounding

sys.path.insert(0, str(pathlib.Path(__file__).parents[2] / "scripts"))
import clean_sums

REPLICAS = 4
DTYPES = ["float16", "bfloat16", "float32", "float64"]


@pytest.fixture
def strategies(monkeypatch):
    monkeypatch.setattr(clean_sums, "COUNTS", (4,))
    return {4: strategy_of("mirrored")}


@pytest.mark.slow
def test_clean_sums_raise_no_alarm(strategies):
    done, alarms = clean_sums.false_alarms(200, 5, strategies)
    assert alarms == []
    assert sorted(done.values()) == [50] * 4


@pytest.mark.slow
def test_alarms_are_raised_where_nothing_is_tolerated(strategies, monkeypatch):
    """The negative control: sums are rounded, and the script would say so."""
    monkeypatch.setattr(checksums, "_DEVIATIONS", 1e-3)
    _, alarms = clean_sums.false_alarms(16, 5, strategies)
    assert len(alarms) >= 8


def parts_of(dtype, size, seed):
    rng = np.random.default_rng(seed)
    return [tf.cast(rng.normal(size=size), dtype) for _ in range(REPLICAS)]


def numbers_of(parts, total, step=3):
    """By how much S is off, and how far it may be."""
    group = Group((0,), total.dtype, 1)
    draw = lambda count: drawn(tf.constant(step, tf.int64), count)  # noqa: E731
    sent = [checksums.of_parts([group], [part], draw)[0] for part in parts]
    got = checksums.of_sums(group, [total], sent[0])
    rounding = Rounding(total.dtype, tf.constant(REPLICAS - 1.0, tf.float64))
    allowed = checksums.tolerance(group, got.values.shape[1], rounding)
    norms = sum(float(one.norms[0]) for one in sent)
    off = float(got.sums[0]) - sum(float(one.sums[0]) for one in sent)
    return off, float(allowed.relative) * norms + float(allowed.absolute)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", ["normal", "constant", "cancelling"])
def test_rounding_is_within_the_tolerance(dtype, kind):
    """Of sums that NumPy and TensorFlow take one after the other."""
    parts = parts_of(dtype, 1000, 1)
    if kind == "constant":
        parts = [tf.fill([1000], part[0]) for part in parts]
    if kind == "cancelling":
        parts = [parts[0], -parts[0], parts[1], -parts[1]]
    total = parts[0]
    for part in parts[1:]:
        total = total + part
    found = [numbers_of(parts, total, step) for step in range(1, 20)]
    assert all(abs(off) <= allowed for off, allowed in found)
    if kind == "normal":  # so that there was rounding
        assert max(abs(off) for off, _ in found) > 0


BORDER = {"float16": 1.0, "bfloat16": 9.0, "float32": 0.002, "float64": 1e-11}


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_border_is_where_it_is_said_to_be(dtype):
    """A change of any one element, for any weights, of 8 times the border is seen."""
    parts = parts_of(dtype, 1000, 2)
    exact = np.sum([np.array(part, "float64") for part in parts], 0)
    _, allowed = numbers_of(parts, tf.cast(exact, dtype))
    weight = 0.6 if dtype == "float32" else 0.75
    assert allowed / weight == pytest.approx(BORDER[dtype], rel=0.8)
    for at in range(0, 1000, 37):
        changed = exact.copy()
        changed[at] += 8 * allowed
        off, allowed = numbers_of(parts, tf.cast(changed, dtype), step=at + 1)
        assert abs(off) > allowed


@pytest.mark.parametrize(
    ("dtype", "unsigned", "seen"),
    [
        ("float64", np.uint64, range(63, 17, -1)),
        ("float32", np.uint32, range(31, 16, -1)),
    ],
)
def test_flipped_bits_down_to_the_border_are_seen(dtype, unsigned, seen):
    """The sign, the exponent, and the highest bits of the fraction, of an element."""
    parts = parts_of(dtype, 1000, 4)
    total = np.array(tf.add_n(parts))
    at = int(np.argmin(np.abs(np.abs(total) - 2.0)))  # ordinary, for four replicas
    for bit in seen:
        flipped = total.copy()
        flipped[at : at + 1].view(unsigned)[:] ^= unsigned(1 << bit)
        off, allowed = numbers_of(parts, tf.constant(flipped))
        assert not abs(off) <= allowed, bit


@pytest.mark.parametrize("dtype", DTYPES)
def test_numbers_survive_as_words(dtype):
    """In any dtype, also halved and doubled again, as averages are."""
    wire = tf.as_dtype(dtype)
    numbers = tf.constant([0.0, -1e-300, np.pi, np.inf, 1e308, 7.0], tf.float64)
    bits = checksums.bits_per_word(wire)
    sent = tf.cast(checksums.words(numbers, bits), wire)
    received = checksums.numbers_of(tf.cast(sent, tf.float32), bits)
    assert received.numpy().tolist() == numbers.numpy().tolist()
    if dtype != "bfloat16":
        averaged = tf.cast(sent / 3, tf.float32) * 3.0
        received = checksums.numbers_of(averaged, bits)
        assert received.numpy().tolist() == numbers.numpy().tolist()
