"""`audit --fix` keeps a mend where the audit of a copy agrees, and only there."""

import dataclasses
import pathlib

import pytest

from distloss import cli
from distloss._audit import run
from distloss._audit.report.findings import Finding, Report
from distloss._errors import ArgumentError, AuditError, LintError
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
SCRIPT = """\
import keras
import tensorflow as tf

strategy = tf.distribute.MirroredStrategy()
with strategy.scope():
    model = keras.Sequential([keras.Input([3]), keras.layers.Dense(1)])
    optimizer = keras.optimizers.SGD()


def step(x, y):
    with tf.GradientTape() as tape:
        values = keras.losses.mse(y, model(x))
        loss = {values}
    gradients = tape.gradient(loss, model.trainable_variables)
    optimizer.apply(gradients, model.trainable_variables)


strategy.run(step, args=batch)
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

    def audit(address, source=None):
        place = address.removesuffix(":build")
        assert not place.startswith("_")
        texts.append(source or pathlib.Path(place).read_text())
        return dataclasses.replace(reports[len(texts) - 1], target=address)

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
    assert (done.written, done.last.findings) == (False, (FOUND,))
    assert len(texts) == 2
    assert file.read_text() == WRONG
    assert [path.name for path in file.parent.iterdir()] == ["train.py"]


def test_what_is_certain_is_tried_first(file):
    text = WRONG.replace("tf.reduce_sum(values) / 32", "tf.reduce_mean(values)")
    file.write_text(text)
    audit, texts = audits_of([DIFFERS, AGREES])
    assert verified_fix(f"{file}:build", audit).written
    assert len(texts) == 2


def test_a_script_is_mended_as_a_whole_and_audited_under_its_own_name(file):
    """Its audit is asked of the same address, and given the text."""
    text = SCRIPT.format(values="tf.reduce_mean(values)")
    file.write_text(text)
    audit, texts = audits_of([DIFFERS, AGREES])
    done = verified_fix(str(file), audit)
    assert (done.written, done.last.target) == (True, str(file))
    assert texts == [text, file.read_text()]
    assert file.read_text() == SCRIPT.format(
        values="distloss.mean_share(values)"
    ).replace("import tensorflow as tf\n", "import tensorflow as tf\nimport distloss\n")
    assert [path.name for path in file.parent.iterdir()] == ["train.py"]


def test_what_somebody_changed_meanwhile_is_not_overwritten(file):
    def audit(address, source=None):
        if source:
            file.write_text("x = 1\n")
            return AGREES
        return DIFFERS

    with pytest.raises(LintError, match="as it was when its audit began"):
        verified_fix(f"{file}:build", audit)
    assert file.read_text() == "x = 1\n"


def test_a_mend_that_cannot_be_audited_is_shown_and_not_written(file):
    def audit(address, source=None):
        if source:
            raise AuditError("It raised.")
        return DIFFERS

    done = verified_fix(f"{file}:build", audit)
    assert (done.written, done.after, done.last) == (False, None, DIFFERS)
    assert done.failure == "It raised."
    assert "+            loss = distloss.mean_share(values)" in done.difference
    assert file.read_text() == WRONG


def test_rules_that_the_project_ignores_are_not_mended(file):
    settings = file.parent / "pyproject.toml"
    settings.write_text('[tool.distloss]\nignore = ["nominal-batch-size"]\n')
    audit, texts = audits_of([DIFFERS, AGREES])
    assert not verified_fix(f"{file}:build", audit).written
    assert texts == [WRONG]
    settings.write_text('[tool.distloss]\nignore = ["not-reduced"]\n')
    audit, texts = audits_of([DIFFERS, AGREES])
    assert verified_fix(f"{file}:build", audit).written


def test_what_is_accepted_is_not_mended(file):
    accepted = dataclasses.replace(FOUND, accepted="It is meant.")
    audit, texts = audits_of([dataclasses.replace(AGREES, findings=(accepted,))])
    assert not verified_fix(f"{file}:build", audit).written
    assert texts == [WRONG]


def test_what_agrees_is_not_touched(file):
    audit, texts = audits_of([AGREES])
    done = verified_fix(f"{file}:build", audit)
    assert (done.after, done.written, len(texts)) == (None, False, 1)


def test_an_audit_that_fails_leaves_no_copy(file):
    def audit(address, source=None):
        if source:
            raise LintError("no")
        return DIFFERS

    with pytest.raises(LintError):
        verified_fix(f"{file}:build", audit)
    assert [path.name for path in file.parent.iterdir()] == ["train.py"]
    assert file.read_text() == WRONG


@pytest.mark.parametrize(
    "address",
    ["no.py", "package.module:build", "no.py:build", "train", "folder.py"],
)
def test_only_a_file_can_be_mended(address, tmp_path, monkeypatch):
    (tmp_path / "folder.py").mkdir()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ArgumentError):
        verified_fix(address, lambda _: AGREES)


def test_a_file_that_cannot_be_written_again_is_refused(file):
    file.write_bytes(b"# -*- coding: latin-1 -*-\n" + WRONG.encode())
    with pytest.raises(LintError, match="UTF-8"):
        verified_fix(f"{file}:build", lambda _: DIFFERS)


def test_the_command_says_why_a_mend_could_not_be_audited(file, monkeypatch, capsys):
    def audit(address, *, source=None, **_):
        if source:
            raise AuditError("It raised.")
        return DIFFERS

    monkeypatch.setattr(run, "audit", audit)
    code = cli.main(["audit", "--fix", f"{file}:build"])
    out, err = capsys.readouterr()
    assert code == cli.DIFFERS
    assert "+            loss = distloss.mean_share(values)" in out
    assert err.splitlines() == [
        "before: sum-of-means",
        "after: could not be checked: It raised.",
        f"{file}:build: unchanged",
    ]


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


TRAIN = """\
import argparse
import pathlib
import sys

import keras
import numpy as np
import tensorflow as tf
from beside import rows

options = argparse.ArgumentParser()
options.add_argument("--units", type=int, required=True)
units = options.parse_args().units
here = pathlib.Path(__file__)
assert (here.name, sys.path[0]) == ("train.py", str(here.parent))
assert sys.argv[0].endswith("train.py")
strategy = tf.distribute.MirroredStrategy()
with strategy.scope():
    model = keras.Sequential([keras.Input([3]), keras.layers.Dense(units)])
    optimizer = keras.optimizers.SGD()


@tf.function
def step(x, y):
    with tf.GradientTape() as tape:
        values = keras.losses.mean_squared_error(y, model(x))
        loss = tf.reduce_mean(values)
        if tf.reduce_sum(loss) < 0:  # which AutoGraph converts
            loss = -loss
    gradients = tape.gradient(loss, model.trainable_variables)
    optimizer.apply(gradients, model.trainable_variables)


x = np.random.default_rng(0).normal(size=[rows, 3]).astype("float32")
data = tf.data.Dataset.from_tensor_slices((x, np.repeat(x[:, :1], units, 1)))
for batch in strategy.experimental_distribute_dataset(data.batch(rows)):
    strategy.run(step, args=batch)
raise AssertionError("it trains")
"""


def test_the_command_mends_a_script_with_its_arguments(tmp_path, capsys, forked):
    """Beside what it imports, under its own name; the mended lines become a graph."""
    script = tmp_path / "train.py"
    script.write_text(TRAIN)
    (tmp_path / "beside.py").write_text("rows = 8\n")
    options = ["--replicas", "1,2", "--splits", "even,uneven"]
    code = cli.main(["audit", "--fix", str(script), *options, "--", "--units", "2"])
    out, err = capsys.readouterr()
    assert code == cli.AGREES
    assert "+        loss = distloss.mean_share(values)" in out
    assert err.splitlines() == [
        "before: sum-of-means",
        "after: agrees",
        f"{script}: mended",
    ]
    assert "distloss.mean_share(values)" in script.read_text()
    names = {path.name for path in tmp_path.iterdir()} - {"__pycache__"}
    assert names == {"train.py", "beside.py"}
