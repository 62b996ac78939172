"""Rounding to 16 bits on the way is no mistake; a mistake beside it is found."""

import pathlib

import builds_compressed
import pytest

from distloss import cli

BUILDS = pathlib.Path(builds_compressed.__file__)

pytestmark = pytest.mark.slow


def run(capfd, name):
    code = cli.main(["audit", f"{BUILDS}:{name}", "--replicas", "1,2"])
    return code, capfd.readouterr().out


@pytest.mark.parametrize("name", ["fp16", "bf16", "tf_keras_bf16"])
def test_a_step_that_is_right_agrees(capfd, forked, name):
    code, out = run(capfd, name)
    assert code == 0, out
    assert "Gradients agree" in out


@pytest.mark.parametrize("name", ["wrong_fp16", "wrong_bf16"])
def test_a_step_that_is_wrong_is_told_why(capfd, forked, name):
    code, out = run(capfd, name)
    assert code == 1, out
    assert "Gradients differ: sum-of-means." in out
