"""A table: steps that people write, on 4 replicas, plain and prepared.

    .venv/bin/python scripts/own_steps.py

How far the weights are from those that one device trains, relative to the largest,
after two epochs of 29 rows in batches of 8: the last leaves a replica without rows. The
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
    """The largest relative difference of a weight, or how it failed."""
    try:
        got = own.on_four(kind, own_models.sgd, prepared=prepared)
    except (RuntimeError, AttributeError) as error:
        return f"raises {type(error).__name__}"
    with np.errstate(invalid="ignore"):
        weights, _ = own.off_by(got, own.on_one_device(kind, own_models.sgd))
    return f"{weights:.0e}" if np.isfinite(weights) else "NaN"


def main():
    """Prints it in Markdown."""
    print("| step | what it does | plain | prepared |\n|---|---|---|---|")
    for kind in own_models.KINDS:
        words = (kind.__doc__ or "").splitlines()[0].rstrip(".")
        plain, ours = (off(kind, prepared=each) for each in (False, True))
        print(f"| {kind.__name__} | {words} | {plain} | {ours} |", flush=True)


if __name__ == "__main__":
    main()
