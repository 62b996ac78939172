"""The pytest plugin, in a pytest of its own."""

import pathlib
import subprocess
import sys

import builds
import forked
import pytest

from distloss._audit import run
from distloss._audit.report.findings import Finding, Report
from distloss.pytest_plugin import assert_same_gradient

TEST = f"""
import sys
sys.path.insert(0, {str(pathlib.Path(builds.__file__).parent)!r})
from builds import scalar_loss, raises
from distloss.pytest_plugin import assert_same_gradient

def test_wrong(assert_same_gradient):
    assert_same_gradient(scalar_loss, replicas=(1, 2))

def test_broken():
    assert_same_gradient(raises, replicas=(1, 2))

def test_replicas(virtual_replicas):
    assert virtual_replicas(3).num_replicas_in_sync == 3
"""


# Children of both audits are forks of one process that has loaded TensorFlow.
QUICK = f"""
import sys
sys.path.insert(0, {str(pathlib.Path(forked.__file__).parent)!r})
from forked import fork_children
import pytest

@pytest.fixture(autouse=True)
def quick(monkeypatch):
    fork_children(monkeypatch)
"""


def test_a_failure_is_the_finding_and_no_traceback(tmp_path):
    (tmp_path / "test_it.py").write_text(TEST)
    (tmp_path / "conftest.py").write_text(QUICK)
    plugin = ["-p", "distloss.pytest_plugin", "-p", "no:cacheprovider"]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", *plugin, "test_it.py"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=250,
        check=False,
    )
    out = done.stdout
    assert "2 failed, 1 passed" in out, out + done.stderr
    assert "sum-of-means: The gradient is N times too large" in out
    assert "scale 2, residual" in out
    assert "could not be checked" in out
    assert "KeyError" in out
    assert "_audit/run.py" not in out


SCRIPT = pathlib.Path(__file__).parent / "programs" / "loop_scaled_batch.py"


def test_a_script_is_audited_with_its_arguments(forked):
    assert_same_gradient(str(SCRIPT), replicas=(1, 2), args=["--units", "7"])


def test_a_script_without_its_arguments_fails(forked):
    with pytest.raises(pytest.fail.Exception, match="required: --units"):
        assert_same_gradient(str(SCRIPT), replicas=(1, 2))


@pytest.mark.parametrize("accepted", ["", "It is meant."])
def test_what_the_project_accepts_is_no_failure(monkeypatch, accepted):
    asked = []

    def audit(build, **options):
        asked.append((build, options))
        found = Finding("sum-of-means", 2, 2.0, 0.0, (), "", "", accepted=accepted)
        return Report(build, "strategy", (1, 2), (found,), ())

    monkeypatch.setattr(run, "audit", audit)
    if accepted:
        assert_same_gradient("train.py", [1, 2], args=["-n"], rows=8)
    else:
        with pytest.raises(pytest.fail.Exception, match="sum-of-means"):
            assert_same_gradient("train.py", [1, 2], args=["-n"], rows=8)
    options = {"replicas": (1, 2), "args": ["-n"], "rows": 8}
    assert asked == [("train.py", options)]
