"""distloss doctor says which private names of other packages there are."""

import json
import subprocess
import sys

import pytest

from distloss._doctor import text
from distloss._doctor.report import Names, Report

SENTENCE = "Expected Keras with keras.Model._old, which distloss needs to ..."


def report_of(*names):
    return Report("strategy", {}, ("CPU:0",), (), (), (), names)


def group(missing=(), *, version="3.15.1", is_tested=True):
    tested = "Keras 3.3 to 3.15"
    return Names("keras", version, tested, is_tested, "models", 12, tuple(missing))


def test_a_line_says_that_all_are_there():
    said = text.written(report_of(group()))
    assert "  private names of keras, models: 12, all there\n" in said
    assert "newer" not in said


def test_what_is_missing_is_said_in_its_sentence():
    said = text.written(report_of(group([SENTENCE])))
    assert "  private names of keras, models: 12, 1 MISSING\n" in said
    assert f"    {SENTENCE}\n" in said


def test_a_release_that_came_after_the_tests_is_said_once():
    new = group(version="3.16.0", is_tested=False)
    said = text.written(report_of(new, new))
    assert said.count("keras 3.16.0 is newer than what distloss was tested with") == 1


@pytest.mark.timeout(300)
def test_the_command_looks_for_them():
    command = [sys.executable, "-m", "distloss", "doctor", "--replicas", "1"]
    done = subprocess.run(
        [*command, "--format", "json"],
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    names = json.loads(done.stdout)["names"]
    assert {"keras", "tf-keras", "tensorflow"} <= {one["package"] for one in names}
    assert [one["missing"] for one in names if one["missing"]] == []
    assert all(one["is_tested"] for one in names)
    assert sum(one["count"] for one in names if one["package"] == "keras") > 50
