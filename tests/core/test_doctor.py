"""distloss doctor: right sums are right, wrong ones are wrong, and what it says."""

import contextlib
import json
import socket
import subprocess
import sys

import numpy as np
import pytest
from forked import Program

from distloss import cli
from distloss._doctor import sums, text
from distloss._doctor.engines import Engine
from distloss._doctor.known import Machine, known, peak_of
from distloss._doctor.report import Report, Speed, Sum

pytestmark = pytest.mark.timeout(600)


class Broken(Engine):
    """Replicas of NumPy, whose sums are what `spoil` makes of them."""

    def __init__(self, count, spoil):
        self.count, self.here, self._spoil = count, tuple(range(count)), spoil
        self.names = ("CPU:0",) * count

    def placed(self, arrays):
        return arrays

    def sum(self, placed):
        return self._summed(tuple(range(self.count)), placed)

    def sum_of_pair(self, pair, arrays):
        return self._summed(pair, arrays)

    def _summed(self, replicas, arrays):
        total = sum(np.asarray(array, np.float64) for array in arrays)
        total = total.astype(arrays[0].dtype)
        return [self._spoil(replicas, arrays, total.copy()) for _ in arrays]


def said_of(spoil, count=3):
    engine = Broken(count, spoil)
    found = [*sums.over_all(engine, str), *sums.over_pairs(engine, str)]
    return Report("strategy", {}, engine.names, tuple(found), (), ())


def right(_replicas, _arrays, total):
    return total


def one_bit(_replicas, _arrays, total):
    if total.size > 4000:
        total[4000] = total[4000] * 1.25 + 1
    return total


def not_a_number(_replicas, _arrays, total):
    total[-1] = np.nan
    return total


def without_the_last(_replicas, arrays, total):
    return total - arrays[-1]


def a_pair(replicas, _arrays, total):
    return total + 1 if replicas == (0, 2) else total


def test_right_sums_are_right():
    assert said_of(right).is_sound


@pytest.mark.parametrize("spoil", [one_bit, not_a_number, without_the_last])
def test_a_wrong_sum_is_found_in_every_dtype(spoil):
    report = said_of(spoil)
    assert not report.is_sound
    wrong = {(one.dtype, one.of) for one in report.sums if one.wrong}
    kinds = ("ones", "whole numbers", "random numbers")
    wanted = {(dtype, of) for dtype in sums.DTYPES for of in kinds}
    assert wrong == wanted


def test_a_pair_is_named():
    report = said_of(a_pair)
    assert [one.replicas for one in report.sums if one.wrong] == [(0, 2)]
    assert "replicas 0, 2: float32, whole numbers: WRONG" in text.written(report)
    assert "number 0: " in next(one.wrong[0] for one in report.sums if one.wrong)


def test_a_wrong_sum_of_others_is_known_to_all():
    engine = Broken(2, right)
    engine.sum = lambda placed: [np.array([0, 2], np.float32)]  # what the other counts
    unseen = Sum((0, 1), "ones", "float32", (1,)), Sum((1, 2), "ones", "float32", (1,))
    first, second = sums.agreed(engine, list(unseen))
    assert first.wrong == ()
    assert second.wrong == ("another process saw it",)


def test_what_a_machine_does_not_have_is_said():
    def refuses(_replicas, arrays, total):
        if total.dtype.name == "bfloat16":
            raise ValueError("no bfloat16 here")
        return total

    report = said_of(refuses)
    assert report.is_sound
    assert "bfloat16" in text.written(report)
    assert "not summed: no bfloat16 here" in text.written(report)


def test_speeds_and_json():
    speed = Speed(4.0, 12.5, 3.0, 0.25)
    report = Report("horovod", {"keras": "3.5"}, ("GPU:0",), (), (speed,), ("a fact",))
    assert "a sum of 4 MB: 12 us, 3 GB/s on each link, 25% of peak" in (
        text.written(report)
    )
    told = json.loads(report.to_json())
    assert told["sound"] is True
    assert told["speeds"][0]["share_of_peak"] == 0.25
    assert told["known"] == ["a fact"]


@pytest.mark.parametrize(
    ("machine", "words"),
    [
        (Machine({"keras": "3.4.1"}), "before 3.5 do not add up"),
        (Machine({"keras": "3.9.0"}), "before 3.10"),
        (Machine({"keras": "3.15.1"}, workers=2), "fails on several workers"),
        (Machine({"keras": "3.15.1", "horovod": "0.28.1"}), "never sums"),
        (Machine({"tensorflow": "2.16.1"}, gpus=2), "NCCL_P2P_DISABLE=1"),
        (Machine({"tensorflow": "2.22.0"}), "needs TensorBoard"),
        (Machine({}, backend="jax"), "KERAS_BACKEND=tensorflow"),
    ],
)
def test_known_facts(machine, words):
    assert any(words in fact for fact in known(machine))


def test_no_facts_of_other_machines():
    assert known(Machine({"keras": "2.15.0", "tensorflow": "2.15.0"}, gpus=8)) == (
        "Optimizers of Keras before 3.5 do not add up the gradients of replicas, which "
        "then drift apart: https://github.com/keras-team/keras/issues/19891",
    )


def test_peaks():
    assert peak_of(("NVIDIA A100-SXM4-40GB",) * 2) == 300
    assert peak_of(("NVIDIA A100-SXM4-40GB", "NVIDIA H200")) is None
    assert peak_of(("NVIDIA GeForce RTX 4090",)) is None


def started(*arguments, **environment):
    environment["CUDA_VISIBLE_DEVICES"] = "-1"
    return Program("-m", "distloss", "doctor", *arguments, **environment)


@pytest.mark.parametrize("replicas", [1, 2, 4])
def test_virtual_replicas(replicas):
    done = started("--replicas", str(replicas), "--format", "json").ended()
    assert done.returncode == 0, done.stderr[-2000:]
    told = json.loads(done.stdout)
    assert len(told["devices"]) == replicas
    assert told["sound"] is True
    summed = {tuple(one["replicas"]) for one in told["sums"] if not one["skipped"]}
    pairs = {1: 0, 2: 0, 4: 6}[replicas]
    assert len(summed) == 1 + pairs
    assert bool(told["speeds"]) == (replicas > 1)


def free_ports(count):
    with contextlib.ExitStack() as stack:
        found = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in found:
            one.bind(("localhost", 0))
        return [f"localhost:{one.getsockname()[1]}" for one in found]


def test_two_workers():
    addresses = free_ports(2)
    workers = []
    for index in range(2):
        task = {"type": "worker", "index": index}
        config = {"cluster": {"worker": addresses}, "task": task}
        workers.append(started("--format", "json", TF_CONFIG=json.dumps(config)))
    first, other = [worker.ended() for worker in workers]
    assert (first.returncode, other.returncode) == (0, 0), first.stderr[-2000:]
    assert other.stdout == ""  # the first one reports
    assert len(json.loads(first.stdout)["devices"]) == 2


def test_a_machine_without_the_devices_is_not_sound():
    config = {"cluster": {"worker": ["localhost:1"]}, "task": {"index": 0}}
    arguments = ("--replicas", "2")
    done = started(*arguments, TF_CONFIG=json.dumps(config)).ended()
    assert (done.returncode, done.stdout) == (2, "")
    assert "Expected --replicas without TF_CONFIG" in done.stderr


def test_help_loads_no_tensorflow():
    code = (
        "import sys, distloss.cli as c\n"
        "try: c.main(['doctor', '--help'])\n"
        "except SystemExit: print('tensorflow' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert done.stdout.endswith("False\n")
    assert "exit codes: 0 all sums are right" in done.stdout


def test_wrong_arguments(capsys):
    with pytest.raises(SystemExit) as ended_with:
        cli.main(["doctor", "--replicas", "0"])
    assert ended_with.value.code == 2
    assert "expected 1 or more" in capsys.readouterr().err
