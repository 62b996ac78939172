"""distloss doctor on two Horovod processes: one launch."""

import os
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[2]
pytestmark = pytest.mark.timeout(1200)


def test_two_processes():
    runner = str(pathlib.Path(sys.executable).parent / "horovodrun")
    command = [runner, "-np", "2", "--gloo", sys.executable, "-m", "distloss"]
    ended = subprocess.run(
        [*command, "doctor", "--engine", "horovod"],
        capture_output=True,
        text=True,
        timeout=400,
        check=False,
        env={**os.environ, "CUDA_VISIBLE_DEVICES": "-1", "HOROVOD_CYCLE_TIME": "3"},
    )
    assert ended.returncode == 0, ended.stderr[-3000:]
    assert ended.stdout.count("2 replicas (horovod)") == 1  # the first one reports
    assert "all sums are right" in ended.stdout
    assert "replicas 0, 1: float32, ones, whole numbers, random numbers: right" in (
        ended.stdout
    )
