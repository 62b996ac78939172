"""Sums whose results are known before, over all replicas and over pairs."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

from distloss._doctor.engines import Engine
from distloss._doctor.report import Sum

Array = Any  # of NumPy

# What rounds each addition, by the dtype.
DTYPES = {
    "float32": 2.0**-23,
    "float64": 2.0**-52,
    "float16": 2.0**-10,
    "bfloat16": 2.0**-7,
}
# Odd ones, and around the sizes at which collectives cut what they send.
SIZES = (1, 7, 1024, 4097, 262_145, 1_000_003)
SIZES_OF_PAIRS = (7, 4097, 262_145)


def vector(of: str, replica: int, size: int, dtype: str) -> Array:
    """What one replica adds to a sum: the same whoever asks."""
    kind = tf.as_dtype(dtype).as_numpy_dtype
    if of == "ones":
        return np.ones(size, kind)
    random = np.random.default_rng([replica, size, len(of)])
    if of == "whole numbers":  # whose sums are exact in any order, also of 16 bits
        return random.integers(-3, 4, size).astype(kind)
    return random.normal(size=size).astype(kind)


def problem(of: str, got: Array, terms: list[Array]) -> str:
    """What is wrong with a sum; "" if nothing is."""
    wide = np.stack([np.asarray(term, np.float64) for term in terms])
    wanted, found = wide.sum(0), np.asarray(got, np.float64)
    if found.shape != wanted.shape:
        return f"it has {found.size} numbers"
    allowed = np.zeros_like(wanted)
    if of == "random numbers":  # each addition rounds, in an order that is not known
        allowed = len(terms) * DTYPES[got.dtype.name] * np.abs(wide).sum(0)
    wrong = ~(np.abs(found - wanted) <= allowed)  # also where it is not a number
    if not wrong.any():
        return ""
    first = int(np.flatnonzero(wrong)[0])
    return (
        f"{int(wrong.sum())} of {wrong.size} numbers are wrong, first number {first}: "
        f"{found[first]:.9g} for {wanted[first]:.9g}"
    )


def over_all(engine: Engine, say: Callable[[str], None]) -> list[Sum]:
    """Sums over all replicas."""
    everybody = tuple(range(engine.count))

    def summed(arrays: list[Array]) -> list[Array]:
        return engine.sum(engine.placed(arrays))

    return [
        _checked(engine, everybody, of, dtype, SIZES, summed, say)
        for dtype in DTYPES
        for of in ("ones", "whole numbers", "random numbers")
    ]


def over_pairs(engine: Engine, say: Callable[[str], None]) -> list[Sum]:
    """Sums over each pair of replicas; nothing where all replicas are a pair."""
    if engine.count < 3:
        return []
    return [
        _checked(
            engine,
            pair,
            "whole numbers",
            "float32",
            SIZES_OF_PAIRS,
            functools.partial(engine.sum_of_pair, pair),
            say,
        )
        for pair in engine.pairs()
    ]


def agreed(engine: Engine, sums: list[Sum]) -> list[Sum]:
    """The same in each process, which has seen only sums of its own replicas."""
    counts = np.array([len(one.wrong) for one in sums], np.float32)
    mine = [counts if i == 0 else 0 * counts for i in range(len(engine.here))]
    everybody, *_ = engine.sum(engine.placed(mine))
    return [
        one
        if one.wrong or count == 0
        else dataclasses.replace(one, wrong=("another process saw it",))
        for one, count in zip(sums, everybody, strict=True)
    ]


def _checked(  # noqa: PLR0913  # a sum in all its parts
    engine: Engine,
    replicas: tuple[int, ...],
    of: str,
    dtype: str,
    sizes: tuple[int, ...],
    summed: Callable[[list[Array]], list[Array]],
    say: Callable[[str], None],
) -> Sum:
    here = [number for number in replicas if number in engine.here]
    wrong: list[str] = []
    for size in sizes if here else ():
        say(f"{of} of {dtype}, {size} numbers, replicas {replicas}")
        try:
            results = summed([vector(of, number, size, dtype) for number in here])
        except Exception as error:  # such as a dtype that a collective does not have
            said = (str(error).strip() or type(error).__name__).splitlines()[0]
            return Sum(replicas, of, dtype, sizes, tuple(wrong), said[:200])
        terms = [vector(of, number, size, dtype) for number in replicas]
        for number, result in zip(here, results, strict=True):
            found = problem(of, result, terms)
            if found:
                wrong.append(f"{size} numbers, on replica {number}: {found}")
    return Sum(replicas, of, dtype, sizes, tuple(wrong))
