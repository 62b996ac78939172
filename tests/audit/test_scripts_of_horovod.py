"""Scripts as they are, under Horovod: each process has a part of the batch.

One is audited, all with DISTLOSS_ZOO=all: launching Horovod takes most of the time.
"""

import pathlib
import sys
import types

import keras
import numpy as np
import pytest
import tensorflow as tf
from chosen import some
from numpy.random import bit_generator

import distloss
from distloss._audit import opening
from distloss._audit.child.built import joined, save_batch
from distloss._audit.child.count import Counted, Told
from distloss._audit.child.determinism import seed_process
from distloss._audit.child.first_step import FirstStep, Stop
from distloss._audit.child.full_batches import rows_and_count
from distloss._audit.child.own_loop import OwnLoop
from distloss._audit.child.places import Places
from distloss._audit.child.script_batch import Batch
from distloss._errors import AuditError

SCRIPTS = pathlib.Path(__file__).parent / "programs" / "of_horovod"
# By the causes that must be named, at the line with "# here".
VERDICTS = {
    "tape": [],
    "prepared": [],
    "trainer": [],
    "sum": ["sum-of-means"],
    "fit_same_rows": ["batch-dealt-twice"],
    "keras_3": ["not-reduced"],
    "apply_gradients": ["not-reduced"],
}
NO_VERDICT = {
    "inline": r"a function that is given rows, opens a tape.*inline.py:16 .*build\(\)",
    "local_batch_size": r"divides by the constant 8, .*build\(\)",
}


def path(name):
    return str(SCRIPTS / f"{name}.py")


def lines_of_mark(name):
    lines = pathlib.Path(path(name)).read_text().splitlines()
    return [i for i, line in enumerate(lines, 1) if line.endswith("# here")]


def audited(name):
    return distloss.audit(path(name), engine="horovod", replicas=(1, 2))


def test_every_script_has_a_verdict():
    assert {file.stem for file in SCRIPTS.glob("*.py")} == {*VERDICTS, *NO_VERDICT}


@pytest.mark.slow
@pytest.mark.parametrize("name", some([*VERDICTS, *NO_VERDICT], 99))
def test_a_script_has_its_verdict(name):
    if name in NO_VERDICT:
        with pytest.raises(AuditError, match=NO_VERDICT[name]):
            audited(name)
        return
    report = audited(name)
    assert [f.cause for f in report.findings] == VERDICTS[name]
    assert [f.location.line for f in report.findings] == lines_of_mark(name)
    assert "even split" in {m.probe for m in report.measured}


# -- the step that a script takes by itself

X = np.arange(12, dtype="float32").reshape(4, 3)
WEIGHT = tf.Variable([[1.0], [2.0], [3.0]])
SCALE = 2.0


class Opener:
    """Takes steps in all the ways that scripts do."""

    def __init__(self):
        self.loop, self.found = OwnLoop(), "not asked"

    def gradient(self, rows, scale=1.0):
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(scale * tf.matmul(rows, WEIGHT))
        return tape.gradient(loss, WEIGHT)

    def ask(self, gradient):
        """Stands where an optimizer would update; `gradient` has rows, too."""
        self.found = self.loop.step()
        return gradient

    def plain(self, rows, *, scale):
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(scale * tf.matmul(rows, WEIGHT))
        return self.ask(tape.gradient(loss, WEIGHT))

    def assigns(self, rows, scale):
        rows = rows / scale
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(tf.matmul(rows, WEIGHT))
        return self.ask(tape.gradient(loss, WEIGHT))

    under_function = tf.function(assigns)

    def of_any(self, *batch, **options):
        return self.assigns_none(*batch, **options)

    def assigns_none(self, rows, scale=1.0):
        half = scale / 2

        def inner():
            with tf.GradientTape() as tape:
                loss = half * tf.reduce_mean(tf.matmul(rows, WEIGHT))
            return tape.gradient(loss, WEIGHT)

        return self.ask(inner())

    def without_rows(self, scale):
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(scale * tf.matmul(X, WEIGHT))
        return self.ask(tape.gradient(loss, WEIGHT))

    def split(self, rows):
        """The tape is in one function, the update in another."""
        gradient = self.gradient(rows)
        return self.update(gradient)

    def update(self, gradient):
        return self.ask(gradient)


@pytest.fixture
def opener():
    before = tf.config.functions_run_eagerly()
    made = Opener()
    tf.config.run_functions_eagerly(True)
    with made.loop.watching():
        yield made
    tf.config.run_functions_eagerly(before)


TAKEN = {  # by the function that is the step
    "plain": lambda it: it.plain(X, scale=SCALE),
    "assigns": lambda it: it.under_function(X, SCALE),
    "assigns_none": lambda it: it.of_any(X, scale=SCALE),
    "split": lambda it: it.split(X),
}


@pytest.mark.parametrize("name", TAKEN)
def test_the_step_is_the_function_that_is_given_rows_and_opens_a_tape(opener, name):
    wanted = TAKEN[name](opener)
    step = opener.found
    assert any(one is X for one in (*step.args, *step.kwargs.values()))
    assert opener in step.used
    opener.found = None
    np.testing.assert_array_equal(step.function(*step.args, **step.kwargs), wanted)
    assert step.called_at["file"] == "tests/audit/test_scripts_of_horovod.py"
    assert step.called_at["call"] == name


@pytest.mark.parametrize(
    "take", [lambda it: it.assigns(X, SCALE), lambda it: it.without_rows(SCALE)]
)
def test_a_step_whose_arguments_are_not_known_is_none(opener, take):
    take(opener)
    assert opener.found is None


def test_what_closes_over_values_is_made_anew_with_them(opener):
    shift = tf.constant(5.0)

    def step(first, /, rows, *others, scale, **options):
        with tf.GradientTape() as tape:
            total = tf.matmul(rows, WEIGHT) + shift + sum(others) + options["more"]
            loss = first * scale * tf.reduce_mean(total**2)
        return opener.ask(tape.gradient(loss, WEIGHT))

    wanted = step(3.0, X, 7.0, 8.0, scale=SCALE, more=9.0)
    found = opener.found
    assert found.function is not step
    assert found.args[2:] == (7.0, 8.0)
    assert found.kwargs == {"scale": SCALE, "more": 9.0}
    np.testing.assert_array_equal(found.function(*found.args, **found.kwargs), wanted)


@pytest.mark.filterwarnings("ignore:Even though the `tf.config")
def test_the_first_step_of_a_process_ends_its_script():
    layer, optimizer = keras.layers.Dense(1), keras.optimizers.SGD(1.0)
    data = tf.data.Dataset.from_tensor_slices(X).batch(3)
    layer.build([None, 3])
    before = layer.get_weights()

    def step(rows):
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(layer(rows))
        optimizer.apply(tape.gradient(loss, layer.weights), layer.weights)

    first = FirstStep(Places(), is_process=True)
    with first.watching():
        rows = next(iter(data))
        with pytest.raises(Stop):
            step(rows)
    loop, batch = first.taken()
    np.testing.assert_array_equal(batch.rows, X[:3])
    assert (batch.size, batch.count, batch.is_full) == (3, 4, False)
    assert [v.path for v in loop.trainable_variables] == [v.path for v in layer.weights]
    assert any(one is layer for one in loop.held)
    np.testing.assert_array_equal(layer.get_weights()[0], before[0])


# -- parts of a batch


def answer(rows, *, always=0, count=0, counts_replicas=False):
    return {
        "is_part": True,
        "rows": rows,
        "rows_of_script": rows,
        "always": always,
        "count": count,
        "counts_replicas": counts_replicas,
        "notes": [],
    }


@pytest.mark.parametrize(
    ("answers", "always", "is_even"),
    [
        ([answer(8, always=8, count=-1)] * 2, 16, True),
        ([answer(8, count=30)] * 2, 0, True),
        ([answer(8, count=30), answer(8, count=29)], 0, False),
        ([answer(8, always=8, count=16), answer(8, count=15)], 0, False),
        ([answer(8), answer(8)], 0, False),
    ],
)
def test_parts_are_of_one_batch(answers, always, is_even):
    about = opening._of_all(answers)
    assert (about["rows"], about["of_process"]) == (16, 8)
    assert (about["always"], about["is_even"]) == (always, is_even)


@pytest.mark.parametrize(
    ("parts", "wanted"),
    [
        ([["a", "b"], ["b", "a"]], True),
        ([["a", "b"], ["c", "d"], ["d", "c"]], True),
        ([["a", "b"], ["b", "c"]], False),  # drawn by chance
        ([["a", "a"], ["a", "a"]], False),  # always the same row
    ],
)
def test_processes_have_the_same_rows_if_they_have_all_of_them(parts, wanted):
    assert opening._are_alike(parts) == wanted


def test_the_batch_is_what_the_processes_have_in_their_order(tmp_path):
    parts = [({"x": X[:3]}, np.array(["a", "b", "c"])), ({"x": X[3:]}, np.array(["d"]))]
    paths = [str(tmp_path / f"{rank}.npz") for rank in range(2)]
    for part, one in zip(parts, paths, strict=True):
        save_batch(part, one)
    features, labels = joined(parts[0], paths)
    np.testing.assert_array_equal(features["x"], X)
    assert labels.tolist() == ["a", "b", "c", "d"]
    save_batch(({"x": X[:, :2]}, np.array(["d"])), paths[1])
    with pytest.raises(AuditError, match=r"differ in rows only.*build\(\)"):
        joined(parts[0], paths)


def test_each_process_is_cut_to_its_part_of_the_rows():
    assert len(Batch(X).cut(4, 2)[0]) == 2
    assert len(Batch(X).cut(4, 1)[0]) == 4
    assert len(Batch(X).cut(2, 4)[0]) == 1


@pytest.mark.parametrize(
    ("make", "wanted"),
    [
        (lambda rows: rows.shard(2, 0).batch(5), (5, 12)),
        (lambda rows: rows.shard(5, 4).shuffle(9).batch(3).repeat(), (3, 4)),
        (lambda rows: rows.repeat().batch(5), (5, -1)),
        (lambda rows: rows.batch(5, drop_remainder=True), (5, -1)),
        (lambda rows: rows.filter(lambda x: x > 1).batch(5), (0, 0)),
    ],
)
def test_rows_of_batches_and_of_all_are_read_off_a_data_set(make, wanted):
    assert rows_and_count(make(tf.data.Dataset.range(24))) == wanted


def test_processes_draw_by_themselves_and_the_same_again(monkeypatch):
    monkeypatch.setattr(bit_generator, "randbits", bit_generator.randbits)
    drawn = []
    for rank in (1, 2, 1):
        seed_process(rank)
        entropy = int(np.random.default_rng().integers(1 << 40))
        drawn.append((float(np.random.rand()), entropy, float(keras.random.normal([]))))
    assert drawn[0] == drawn[2]
    assert all(one != other for one, other in zip(*drawn[:2], strict=True))


def test_a_script_hears_how_many_processes_there_are(monkeypatch):
    horovod = types.ModuleType("horovod.tensorflow")
    horovod.size = lambda: 2
    monkeypatch.setitem(sys.modules, "horovod.tensorflow", horovod)
    counted = Counted(4)
    with counted.watching():
        assert horovod.size() == 4
        assert isinstance(horovod.size(), Told)
        assert (X[:: horovod.size()] == X[:1]).all()
    assert counted.was_asked
    assert horovod.size() == 2
