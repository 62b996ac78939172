"""Scripts as they are: run up to their first training step, which is then probed.

Each script raises in its last line, which must not be reached. Some are audited, all
with DISTLOSS_ZOO=all.
"""

import json
import pathlib

import keras
import numpy as np
import pytest
import tensorflow as tf
from chosen import some

import distloss
from distloss import cli
from distloss._audit.checks.table import CAUSES
from distloss._audit.child.count import Told
from distloss._audit.child.full_batches import rows_of_all
from distloss._audit.child.loop import Call
from distloss._audit.report.findings import Finding, Location, Report
from distloss._audit.report.render import rendered
from distloss._errors import ArgumentError, ArgumentTypeError, AuditError

pytestmark = pytest.mark.usefixtures("forked")

SCRIPTS = pathlib.Path(__file__).parent / "programs"
UNITS = ("--units", "7")
# Arguments, and the causes that must be named; the first is at the line with "# here".
WRONG = {
    "loop_sum_of_means": ["sum-of-means"],
    "uneven_last_batch": ["mean-of-means", "empty-replica"],
    "class_with_fit": ["clip-before-sum"],
    "same_rows_for_all": ["batch-dealt-twice", "mean-of-means", "empty-replica"],
    "tf_keras_fit": ["batch-statistics"],
    "own_train_step_wrong": ["sum-of-means"],
    "loop_clips_by_hand": ["clip-before-sum"],
    "train_on_batch": ["sum-of-means"],
    "tf_keras_loop": ["sum-of-means"],
    "fit_sequence": ["mean-of-means", "empty-replica"],
    "dealt_whole_batches": ["batch-grows-with-replicas"],
}
RIGHT = {
    "loop_divides_by_replicas": (),
    "fit_arrays": (),
    "loop_scaled_batch": UNITS,
    "notebook": (),
    "own_train_step_right": (),
    "own_train_step_prepared": (),
    "loop_right": (),
    "swallows": (),
    "gan": (),
    "loop_in_trainer": (),
    "fit_generator": (),
    "fit_dicts": (),
    "dealt_by_function": (),
    "tpu_fit": (),
    "several_workers": (),
}
NO_VERDICT = {
    "plain_loop": r"100 updates by SGD at .*plain_loop.py:13 .*a function build\(\)",
    "no_step": r"Looked for fit or train_on_batch .*strategy.run .*function build\(\)",
    "loop_scaled_batch": r"called sys.exit\(2\).*required: --units",
}


def path(name):
    return str(SCRIPTS / f"{name}.py")


def audited(name, args=(), **options):
    return distloss.audit(path(name), args=args, replicas=(1, 2), **options)


def line_of_mark(name):
    lines = pathlib.Path(path(name)).read_text().splitlines()
    return next(i for i, line in enumerate(lines, 1) if line.endswith("# here"))


def test_every_script_has_a_verdict():
    names = {file.stem for file in SCRIPTS.glob("*.py")}
    assert names == {*WRONG, *RIGHT, *NO_VERDICT}


@pytest.mark.parametrize("name", some(WRONG, 5))
def test_a_wrong_script_is_named_with_its_cause_and_line(name):
    report = audited(name)
    assert [f.cause for f in report.findings] == WRONG[name]
    location = report.findings[0].location
    assert (location.file, location.line) == (
        f"tests/audit/programs/{name}.py",
        line_of_mark(name),
    )


@pytest.mark.parametrize("name", some(RIGHT, 5))
def test_a_right_script_is_found_right(name):
    report = audited(name, RIGHT[name])
    assert report.agrees
    assert "even split" in {m.probe for m in report.measured}


def test_a_batch_that_was_cut_is_no_other_number_of_rows():
    """The loop divides by 16, the rows that its batch has."""
    assert audited("loop_right", rows=8).agrees


@pytest.mark.parametrize("name", some(NO_VERDICT, 3))
def test_what_cannot_be_captured_is_said(name):
    with pytest.raises(AuditError, match=NO_VERDICT[name]):
        audited(name)


def test_the_command_takes_arguments_of_the_script_and_says_where(capfd):
    target = path("loop_sum_of_means")
    options = ["--replicas", "1,2", "--rows", "10", "--splits", "even"]
    code = cli.main(["audit", target, *options, "--format", "json", "--", "ignored"])
    report = json.loads(capfd.readouterr().out)
    assert code == 1
    assert report["findings"][0]["location"] == {
        "file": "tests/audit/programs/loop_sum_of_means.py",
        "line": line_of_mark("loop_sum_of_means"),
        "call": "gradient",
    }
    assert {m["probe"] for m in report["measured"]} == {"even split"}
    assert report["measured"][0]["rows"] == [[5, 5]]
    notes = {one["check"]: one["why"] for one in report["skipped"]}
    assert "the first 10 of the 16 rows" in notes["all rows"]
    assert notes["uneven split on 2 replicas"] == "not among --splits"


@pytest.mark.parametrize(
    ("target", "options", "error"),
    [
        ("nowhere.py", {}, ArgumentError),
        ("package.module:build", {"args": ["--units"]}, ArgumentError),
        (path("no_step"), {"rows": 1}, ArgumentError),
        (path("no_step"), {"rows": "8"}, ArgumentTypeError),
        (path("no_step"), {"splits": "even"}, ArgumentTypeError),
        (path("no_step"), {"splits": ["odd"]}, ArgumentError),
    ],
)
def test_wrong_arguments_are_refused_before_anything_runs(target, options, error):
    with pytest.raises(error, match="Expected"):
        distloss.audit(target, **options)


@pytest.mark.parametrize("form", ["text", "plain", "html", "json"])
def test_every_format_says_where_to_look(form, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # a long path would be broken into lines
    file = pathlib.Path("train.py")
    file.write_text("first\nmodel.compile(<loss>)\nlast\n")
    place = Location(str(file), 2, "compile")
    found = Finding("sum-of-means", 2, 2.0, 0.0, (), "So.", "Mend it.", (), place)
    report = Report("train.py", "strategy", (1, 2), (found,), ())
    shown = "".join(line.strip("│ ") for line in rendered(report, form).splitlines())
    if form == "json":
        assert '"line": 2,"call": "compile"' in shown
    else:
        assert f"{file}:2 (compile)" in shown
    assert ("model.compile(&lt;loss&gt;)</b>" in shown) == (form == "html")
    file.unlink()
    assert "sum-of-means" in rendered(report, form)


def test_causes_are_listed_and_explained(capfd):
    for arguments, words in {
        ("--list-causes",): [*CAUSES],
        ("--explain", "empty-replica"): ["The step raises on a replica", "To mend it"],
    }.items():
        with pytest.raises(SystemExit) as ended:
            cli.main(["audit", *arguments])
        assert not ended.value.code
        shown = capfd.readouterr().out
        assert all(word in shown for word in words)
    assert cli.main(["audit", "--explain", "x"]) == 2
    assert "a cause that the audit names. Got 'x'" in capfd.readouterr().err


# -- which data always comes in full batches


ROWS = tf.data.Dataset.range(48).map(lambda i: (i, i))


@pytest.mark.parametrize(
    ("data", "rows"),
    [
        (ROWS.batch(12), 12),
        (ROWS.batch(13), 0),
        (ROWS.batch(13, drop_remainder=True), 13),
        (ROWS.repeat().batch(13).prefetch(2), 13),
        (ROWS.batch(13).repeat(), 0),
        (ROWS.shuffle(9).batch(16).map(lambda x, y: (x, y)).cache().take(2), 16),
        (ROWS.batch(16, num_parallel_calls=2).shuffle(3), 16),
        (ROWS.padded_batch(16), 16),
        (ROWS.batch(16).with_options(tf.data.Options()), 16),
        (ROWS.batch(16).filter(lambda x, y: tf.size(x) > 0), 0),
        (ROWS.filter(lambda x, y: x > 3).batch(4), 0),
        (ROWS.batch(16).concatenate(ROWS.batch(12)), 0),
        ([ROWS.batch(12)], 0),
    ],
)
def test_full_batches_are_read_off_how_a_data_set_was_made(data, rows):
    assert rows_of_all(data) == rows
    if rows:
        sizes = {len(batch[0]) for batch in data.take(9)}
        assert sizes == {rows}


# -- what a script is told of the number of replicas


@pytest.mark.parametrize("prepares", [True, False])
def test_a_number_that_was_told_is_the_real_one_in_a_step(prepares):
    number = Told(4, 2, lambda: prepares)
    seen = 4 if prepares else 2
    eight = tf.constant(8.0)
    for compute in (lambda f: f(eight), lambda f: tf.function(f)(eight)):
        assert float(compute(lambda x: x / number)) == 8 / seen
        assert float(compute(lambda x: x * number)) == 8 * seen
        assert float(compute(lambda x: number * x)) == 8 * seen
        assert float(compute(lambda x: x * (1 / number))) == 8 / seen
        assert float(compute(lambda x: (3.0 / number) * 2 * x)) == 48 / seen
        assert float(compute(lambda x: x / (64 // number))) == 8 / (64 // seen)
        assert float(compute(lambda x: tf.cast(x, tf.float64) / number)) == 8 / seen
        assert float(compute(lambda x: tf.divide(x, number))) == 8 / seen


def test_a_number_that_was_told_is_a_number():
    number = Told(4, 2, lambda: True)
    assert [32 * number, number * 32, number + 1, 9 - number] == [128, 128, 5, 5]
    assert (number * 0.5, 0.5 * number, number / 8, number // 3) == (2.0, 2.0, 0.5, 1)
    assert (number == 4, number > 1, number < 4) == (True, True, False)
    assert {number: 1}[4]
    assert (len(range(number)), [0] * number, f"{number}") == (4, [0] * 4, "4")
    assert "%d %s" % (number, number) == "4 4"  # noqa: UP031
    assert np.zeros(number).shape == np.arange(number).shape == (4,)
    assert int(next(iter(tf.data.Dataset.range(9).batch(64 // number)))[-1]) == 8
    assert int(tf.constant(number)) == int(max(number, 1)) == 4
    assert keras.optimizers.SGD(0.1 * number).learning_rate.numpy() == np.float32(0.4)


def test_arguments_of_a_run_are_a_batch_and_what_is_none(strategy_of_two):
    rows = np.arange(10.0)
    data = tf.data.Dataset.from_tensor_slices({"x": rows, "w": -rows}).batch(6)
    batch = next(iter(strategy_of_two.experimental_distribute_dataset(data)))
    scale, weight = tf.constant(2.0), keras.Variable(rows)
    call = Call.of(strategy_of_two, print, (batch, scale), {"weight": weight})
    given, none, options = call.batch[0][0], call.batch[0][1], call.batch[1]
    np.testing.assert_array_equal(given["x"], rows[:6])
    assert (none, options) == (None, {"weight": None})
    dealt = [part[0][0]["w"].numpy().tolist() for part in call.dealt]
    assert dealt == [[0, -1, -2], [-3, -4, -5]]
    (other, same), named = call.arguments_of(call.dealt[1])
    assert other["w"] is call.dealt[1][0][0]["w"]
    assert (same, named["weight"]) == (scale, weight)


@pytest.fixture
def strategy_of_two():
    return tf.distribute.MirroredStrategy(
        ["CPU:0", "CPU:1"], cross_device_ops=tf.distribute.ReductionToOneDevice()
    )
