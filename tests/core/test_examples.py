"""Every example runs, and finds what it claims: each ends by checking itself."""

import importlib
import os
import pathlib
import subprocess
import sys

import pytest

pytestmark = pytest.mark.as_users_run
EXAMPLES = pathlib.Path(__file__).parents[2] / "examples"
NAMES = (
    "audit_example",
    "clipping",
    "custom_loop",
    "horovod_digits",
    "keras_fit",
    "masked_sequences",
    "microbatches",
    "mixed_precision",
    "multi_worker",
    "own_step_adversarial",
    "own_step_autoencoder",
    "own_step_distillation",
    "prepare",
    "row_weighted_loop",
    "three_reductions",
    "tpu_digits",
    "two_towers",
    "vae_add_loss",
    "wrong_scaling",
)


def test_each_example_is_listed():
    found = sorted(path.stem for path in EXAMPLES.glob("[!_]*.py"))
    found.remove("test_one_update")  # a test itself, run below
    assert tuple(found) == NAMES


SEVERAL_PROCESSES = ("horovod_digits", "multi_worker")


@pytest.mark.parametrize("name", [n for n in NAMES if n not in SEVERAL_PROCESSES])
def test_example_finds_what_it_claims(name, monkeypatch, forked):
    monkeypatch.syspath_prepend(EXAMPLES)
    importlib.import_module(name).main()


def test_an_example_runs_from_a_shell():
    """As users start them: it finds its neighbours and configures the devices."""
    finished = subprocess.run(
        [sys.executable, EXAMPLES / "multi_worker.py"],
        timeout=280,
        capture_output=True,
        text=True,
        env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "2"},
    )
    tail = (finished.stdout + finished.stderr)[-3000:]
    assert finished.returncode == 0, tail


def test_the_example_test_passes(monkeypatch, forked):
    monkeypatch.syspath_prepend(EXAMPLES)
    importlib.import_module("test_one_update").test_one_batch_gives_one_update()
