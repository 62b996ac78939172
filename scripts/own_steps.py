"""A table: steps that people write, on 4 replicas, plain and prepared.

    .venv/bin/python scripts/own_steps.py

How far the weights and the reported numbers are from those of one device, after two
epochs of 29 rows in batches of 8: the last leaves a replica without rows. Weights are
relative to the largest of their variable, numbers to the largest of their name. The
kinds are in tests/helpers/own_models.py; tests/core/test_own_steps.py holds it.
"""

import pathlib
import sys

ROOT = pathlib.Path(__file__).parent.parent
sys.path[:0] = [str(ROOT / "tests" / name) for name in (".", "helpers", "core")]

import conftest  # noqa: E402
import numpy as np  # noqa: E402
import own_models  # noqa: E402

conftest.pytest_configure()

import test_own_steps as own  # noqa: E402


def off(kind, *, prepared):
    """By how much weights and reported numbers differ, or how training failed."""
    try:
        got = own.on_four(kind, own_models.sgd, prepared=prepared)
    except (RuntimeError, AttributeError) as error:
        return f"raises {type(error).__name__}", ""
    with np.errstate(invalid="ignore"):
        differences = own.off_by(got, own.on_one_device(kind, own_models.sgd))
    return [f"{one:.0e}" if np.isfinite(one) else "NaN" for one in differences]


def main():
    """Prints it in Markdown."""
    print("| step | what it does | plain: weights | reported | prepared | reported |")
    print("|---|---|---|---|---|---|")
    for kind in own_models.KINDS:
        words = (kind.__doc__ or "").splitlines()[0].rstrip(".")
        cells = [*off(kind, prepared=False), *off(kind, prepared=True)]
        print(f"| {kind.__name__} | {words} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
