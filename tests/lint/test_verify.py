"""`audit --fix` keeps a mend where the audit of a copy agrees, and only there."""

import dataclasses
import pathlib

import pytest

from distloss import cli
from distloss._audit.report.findings import Finding, Report
from distloss._errors import ArgumentError, LintError
from distloss._lint.verify import verified_fix

WRONG = """\
import keras
import tensorflow as tf
import distloss

CERTAIN = True


class Loop:
    trainable_variables = ()

    def __init__(self):
        self.model = keras.Sequential([keras.Input([3]), keras.layers.Dense(1)])
        self.optimizer = keras.optimizers.SGD()

    def train_step(self, batch):
        with tf.GradientTape() as tape:
            values = keras.losses.mse(batch[1], self.model(batch[0]))
            loss = tf.reduce_sum(values) / 32
        gradients = tape.gradient(loss, self.model.trainable_variables)
        self.optimizer.apply(gradients)


def build():
    return Loop(), (x, y)
"""
AGREES = Report("", "strategy", (1, 2), (), ())
FOUND = Finding("sum-of-means", 2, 2.0, 0.0, (), "", "")
DIFFERS = dataclasses.replace(AGREES, findings=(FOUND,))


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "train.py"
    path.write_text(WRONG)
    return path


def audits_of(reports):
    """An audit that says what it is told to, and what it was asked."""
    texts = []

    def audit(address):
        texts.append(pathlib.Path(address.rpartition(":")[0]).read_text())
        return reports[len(texts) - 1]

    return audit, texts


def test_a_mend_with_which_the_audit_agrees_is_written(file):
    audit, texts = audits_of([DIFFERS, AGREES])
    done = verified_fix(f"{file}:build", audit)
    assert (done.written, done.last.target) == (True, f"{file}:build")
    assert texts == [WRONG, file.read_text()]
    assert "distloss.mean_share(values)" in file.read_text()
    assert "+            loss = distloss.mean_share(values)" in done.difference
    assert [path.name for path in file.parent.iterdir()] == ["train.py"]


def test_a_mend_with_which_it_does_not_agree_is_not(file):
    audit, texts = audits_of([DIFFERS, DIFFERS])
    done = verified_fix(f"{file}:build", audit)
    assert (done.written, done.last) == (False, DIFFERS)
    assert len(texts) == 2
    assert file.read_text() == WRONG
    assert [path.name for path in file.parent.iterdir()] == ["train.py"]


def test_what_is_certain_is_tried_first(file):
    text = WRONG.replace("tf.reduce_sum(values) / 32", "tf.reduce_mean(values)")
    file.write_text(text)
    audit, texts = audits_of([DIFFERS, AGREES])
    assert verified_fix(f"{file}:build", audit).written
    assert len(texts) == 2


def test_what_agrees_is_not_touched(file):
    audit, texts = audits_of([AGREES])
    done = verified_fix(f"{file}:build", audit)
    assert (done.after, done.written, len(texts)) == (None, False, 1)


def test_an_audit_that_fails_leaves_no_copy(file):
    def audit(address):
        if address != f"{file}:build":
            raise LintError("no")
        return DIFFERS

    with pytest.raises(LintError):
        verified_fix(f"{file}:build", audit)
    assert [path.name for path in file.parent.iterdir()] == ["train.py"]
    assert file.read_text() == WRONG


@pytest.mark.parametrize("address", ["train.py", "package.module:build", "no.py:build"])
def test_only_a_function_in_a_file_can_be_mended(address, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ArgumentError):
        verified_fix(address, lambda _: AGREES)


def test_a_file_that_cannot_be_written_again_is_refused(file):
    file.write_bytes(b"# -*- coding: latin-1 -*-\n" + WRONG.encode())
    with pytest.raises(LintError, match="UTF-8"):
        verified_fix(f"{file}:build", lambda _: DIFFERS)


def test_the_command_mends_an_entry_of_the_zoo(tmp_path, capsys, forked):
    zoo = pathlib.Path(__file__).parents[2] / "examples" / "zoo"
    for path in [*zoo.glob("_*.py"), zoo / "a04_scalar_loss.py"]:
        (tmp_path / path.name).write_text(path.read_text())
    address = f"{tmp_path}/a04_scalar_loss.py:wrong"
    code = cli.main(["audit", "--fix", address, "--replicas", "1,2"])
    out, err = capsys.readouterr()
    assert code == cli.AGREES
    assert "+    distloss.prepare(model)" in out
    assert err.splitlines() == [
        "before: sum-of-means",
        "after: agrees",
        f"{address}: mended",
    ]
    assert "distloss.prepare(model)" in (tmp_path / "a04_scalar_loss.py").read_text()
