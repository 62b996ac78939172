"""The audit end to end: verdicts, and builds that cannot be checked."""

import json
import pathlib
import subprocess
import sys

import builds
import numpy as np
import pytest
import tensorflow as tf
from conftest import strategy_of

import distloss
from distloss import cli
from distloss._audit import conversation
from distloss._audit.checks import compare
from distloss._audit.child import child, contract, lint
from distloss._audit.child.devices import Devices, StrategyReplicas
from distloss._errors import ArgumentError, ArgumentTypeError, AuditError

BUILDS = pathlib.Path(builds.__file__)


def address(name):
    return f"{BUILDS}:{name}"


def run(capfd, name, *arguments):
    code = cli.main(["audit", address(name), "--replicas", "1,2", *arguments])
    return code, *capfd.readouterr()


def children():
    processes = subprocess.run(
        ["ps", "-eo", "args"], capture_output=True, text=True, check=True
    ).stdout
    return [line for line in processes.splitlines() if str(BUILDS) in line]


def test_a_scalar_loss_is_named_with_its_factor(capfd, tmp_path, forked):
    output = tmp_path / "report.json"
    code, out, _ = run(
        capfd, "scalar_loss", "--format", "json", "--output", str(output)
    )
    assert (code, out) == (1, "")
    found = json.loads(output.read_text())
    assert found["schema"] == 1
    assert not found["agrees"]
    first = found["findings"][0]
    assert first["cause"] == "sum-of-means"
    assert first["replicas"] == 2
    assert first["scale"] == pytest.approx(2, rel=1e-4)
    assert first["residual"] == pytest.approx(0, abs=1e-4)
    assert len(first["variables"]) == 4
    assert [p.name for p in tmp_path.iterdir()] == ["report.json"]


def test_a_prepared_model_agrees_and_rubbish_on_stdout_does_no_harm(capfd):
    code, out, _ = run(capfd, "prints_rubbish", "--format", "json")
    assert code == 0
    report = json.loads(out)
    assert report["agrees"]
    assert {m["probe"] for m in report["measured"]} == {
        "even split",
        "uneven split",
        "empty shard",
    }


def test_two_bugs_are_two_findings(forked):
    report = distloss.audit(builds.scalar_loss_and_clipping, replicas=(1, 2))
    assert {f.cause for f in report.findings} == {"sum-of-means", "clip-before-sum"}


def test_a_function_without_a_name_reaches_the_child_and_weights_stand_in(forked):
    loop = builds.without_optimizer
    report = distloss.audit(lambda: loop(), replicas=[2])
    assert report.agrees
    assert any("no Keras optimizer" in s.why for s in report.skipped)
    with pytest.raises(AttributeError):
        report.findings = ()


def test_chance_in_a_step_is_named(forked):
    report = distloss.audit(builds.random_step, replicas=(1, 2))
    assert report.findings[0].cause == "nondeterministic"


def test_float64_finds_what_half_precision_hides(forked):
    report = distloss.audit(builds.small_bug_in_bfloat16, replicas=(1, 2))
    found = {f.cause: f for f in report.findings}["sum-of-means"]
    assert found.scale == pytest.approx(2, abs=1e-12)
    assert "term 'output b'" in found.explanation
    assert any(s.check == "rounding on 2 replicas" for s in report.skipped)


def test_float64_clears_what_is_only_rounding(forked, monkeypatch):
    """As if float32 were exact to one bit: then its rounding is a difference."""
    in_float64 = compare.Tolerance._least

    def least(self, *seen):
        fine = self.facts.eps == 2.0**-52
        return in_float64(self, *seen) if fine else [0.0] * len(self.facts.sizes)

    monkeypatch.setattr(compare.Tolerance, "_least", least)
    exact = property(lambda self: self.eps**0.6 if self.eps == 2.0**-52 else 2e-8)
    monkeypatch.setattr(compare.StepFacts, "rounding", exact)
    report = distloss.audit(builds.right, replicas=(1, 2))
    assert report.agrees
    assert max(m.error for m in report.measured) < 1e-14
    assert any("decided by the same step" in s.why for s in report.skipped)


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("starts_others", "calling build() took longer than the limit of 6 s"),
        ("exits", "calling build() called sys.exit(no data set)"),
        ("kills_itself", "calling build() ended its process (signal SIGKILL)"),
    ],
)
def test_a_build_that_cannot_be_checked_is_one_message(capfd, tmp_path, name, says):
    output = tmp_path / "report.html"
    code, out, err = run(
        capfd, name, "--timeout", "6", "--format", "html", "--output", str(output)
    )
    assert (code, out) == (2, "")
    assert says in err
    assert err.startswith("distloss: ")
    assert len(err.splitlines()) == 1
    assert not list(tmp_path.iterdir())
    assert not children()


def test_a_step_that_cannot_be_split_is_one_message(forked):
    with pytest.raises(AuditError, match="needs 16 rows"):
        distloss.audit(address("step_needs_rows"), replicas=(1, 2))


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("wrong_type", "Expected build() to return (model, batch). Got dict"),
        ("no_step", "has no train_step"),
    ],
)
def test_what_is_no_model_is_refused(name, says):
    with pytest.raises(AuditError) as caught:
        contract.checked_pair(getattr(builds, name)())
    assert says in str(caught.value)


@pytest.mark.parametrize(
    ("batch", "says"),
    [
        ("a batch", "Expected the batch to be (x, y)"),
        ((np.ones([22, 3]), np.ones([21, 1])), "differ in rows: [(22, 3), (21, 1)]"),
        ((np.ones([22, 3]), 1.0), "without rows"),
        ((np.ones([3, 3]), np.ones(3)), "one row for each of 4 replicas. Got 3 rows"),
        ((np.ones(5), [object()] * 5), "without rows"),
    ],
)
def test_what_is_no_batch_is_refused(batch, says):
    with pytest.raises(AuditError) as caught:
        contract.checked_batch(batch, 4)
    assert says in str(caught.value)


def test_an_error_of_the_user_is_told_with_its_place():
    target = {"file": str(BUILDS), "name": "raises", "paths": []}
    with pytest.raises(KeyError) as caught:
        child.load(target)()
    told = child._error(caught.value)
    assert told["type"] == "KeyError"
    assert told["where"].startswith(str(BUILDS))
    assert not told["is_ours"]
    with pytest.raises(AttributeError, match="nothing_here"):
        child.load(target | {"name": "nothing_here"})
    with pytest.raises(TypeError, match="is a int, no function"):
        child.load(target | {"name": "ROWS"})


def test_a_collective_that_does_not_sum_is_an_error(monkeypatch):
    devices = Devices.__new__(Devices)
    devices.replicas, devices.rank = 4, None
    devices.strategy = strategy_of("mirrored")
    devices.check_collective()
    monkeypatch.setattr(StrategyReplicas, "sum", lambda _, local, name: local)
    with pytest.raises(AuditError, match=r"to be 4\. Got \[1.0, 1.0, 1.0, 1.0\]"):
        devices.check_collective()


@pytest.mark.parametrize(
    ("weight", "found"),
    [(16, True), ("rows", True), (None, False), (0.5, False), ("weights", False)],
)
def test_a_batch_size_in_the_place_of_the_weights_is_found(monkeypatch, weight, found):
    monkeypatch.setattr(tf.nn, "compute_average_loss", tf.nn.compute_average_loss)
    calls = lint.Calls()
    calls.patch()

    @tf.function(input_signature=[tf.TensorSpec([None])])
    def step(losses):
        named = {"rows": tf.shape(losses)[0], "weights": losses * 0.5}
        return tf.nn.compute_average_loss(losses, named.get(weight, weight), 16)

    step.get_concrete_function()
    assert ("batch-size-as-weight" in calls.findings()) == found


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"replicas": (1,)}, ArgumentError),
        ({"replicas": (0, 2)}, ArgumentError),
        ({"replicas": "1,2"}, ArgumentTypeError),
        ({"replicas": (1, 2.0)}, ArgumentTypeError),
        ({"engine": "torch"}, ArgumentError),
        ({"devices": "tpu"}, ArgumentError),
        ({"build": "nowhere.py:build"}, ArgumentError),
        ({"build": "builds.py"}, ArgumentError),
        ({"build": 3}, ArgumentTypeError),
    ],
)
def test_wrong_arguments_are_refused_before_anything_starts(arguments, error):
    build = arguments.pop("build", builds.right)
    with pytest.raises(error, match="Expected"):
        distloss.audit(build, **arguments)


def test_an_output_that_cannot_be_written_is_refused_early(capfd, tmp_path):
    code, _, err = run(capfd, "right", "--output", str(tmp_path / "no" / "such"))
    assert code == 2
    assert "folder that exists" in err


def test_help_loads_no_tensorflow():
    code = (
        "import sys\nfrom distloss.cli import main\ntry: main(['audit', '--help'])\n"
        "except SystemExit: print(any(m in sys.modules for m in ('tensorflow', "
        "'keras', 'numpy', 'rich')))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines()[-1] == "False"
    assert "exit codes: 0" in done.stdout


def test_an_ordinary_model_agrees(forked):
    """The others, and 50 seeds: scripts/false_alarms.py."""
    path = BUILDS.parent / "ordinary.py"
    report = distloss.audit(f"{path}:two_outputs", replicas=(1, 4))
    assert report.agrees, report.findings


def test_an_error_of_tensorflow_is_told_without_its_preamble():
    message = (
        "Graph execution error:\n\nDetected at node a/Assert defined at (most recent "
        'call last):\n  File "x.py", line 6, in <module>\n\nassertion failed: '
        "[needs 16 rows]\n\t [[{{node a}}]]"
    )
    told = conversation._first_lines(message)
    assert told.startswith("assertion failed: [needs 16 rows]")
