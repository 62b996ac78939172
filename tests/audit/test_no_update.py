"""A step that trains nothing is named; what only looks like that is not.

Builds are in `builds_no_update`; some are audited, or all with DISTLOSS_ZOO=all.
"""

import pathlib

import builds_no_update as builds
import pytest
import tensorflow as tf
from chosen import some

import distloss
from distloss._audit.child.uses import stopped, uses

BUILDS = pathlib.Path(builds.__file__)
# Words of the explanation, and the variables that are named, of how many there are.
WRONG = {
    "takes_and_forgets": ("gives them to nobody", 4),
    "takes_and_counts": ("gives them to nobody", 4),
    "metrics_only": ("takes no gradient", 4),
    "keras_step_forgets": ("gives them to nobody", 4),
    "body_before_the_tape": ("Some variables get no gradient", 2),
    "body_is_rounded": ("Some variables get no gradient", 2),
    "only_one_replica_updates": ("On several replicas", 4),
}
RIGHT = (
    "body_is_left_out",
    "branch_begins_at_zero",
    "rate_by_hand_begins_at_zero",
    "body_is_stopped",
    "rectifier_is_dead",
    "teacher_follows",
    "rounded_straight_through",
    "schedule_begins_at_zero",
    "rate_is_zero",
    "rows_of_a_table_are_unused",
    "scaled_float16",
    "body_is_not_trainable",
    "body_is_stopped_by_its_own_gradient",
    "body_before_the_tape_of_the_head",
    "window_by_hand",
)


def audited(name):
    return distloss.audit(f"{BUILDS}:{name}", replicas=(1, 2))


@pytest.mark.parametrize("name", some(list(WRONG), 4))
def test_a_step_that_does_not_train_is_named(name, forked):
    words, count = WRONG[name]
    report = audited(name)
    assert [finding.cause for finding in report.findings] == ["no-update"]
    (finding,) = report.findings
    assert words in finding.explanation
    assert len(finding.variables) == count
    assert not report.agrees


@pytest.mark.parametrize("name", some(list(RIGHT), 6))
def test_what_is_right_agrees(name, forked):
    assert audited(name).findings == ()


def test_what_stays_as_it_is_is_said(forked):
    report = audited("body_is_left_out")
    (note,) = [
        s for s in report.skipped if s.check == "variables that stay as they are"
    ]
    assert "kernel" in note.why
    assert "trainable = False" in note.why
    silent = audited("body_is_not_trainable")
    assert not [s for s in silent.skipped if "stay as they are" in s.check]


@pytest.mark.parametrize(
    ("name", "answer"),
    [
        ("gradients_of_a_part_are_discarded", "cannot tell"),
        ("gradients_of_a_part_are_kept", "agrees"),
    ],
)
def test_gradients_that_are_discarded_may_be_meant(name, answer, forked):
    report = audited(name)
    assert (report.answer, report.findings) == (answer, ())
    assert any("takes the gradient of" in s.why for s in report.skipped)


def test_gradients_that_are_kept_for_somebody_else_cannot_be_told(forked):
    with pytest.raises(distloss.DistlossError, match="Got no change in 16 calls"):
        audited("kept_for_somebody_else")


# -- what is read off a graph


def graph_of(step):
    return tf.function(step).get_concrete_function(tf.ones([2])).graph


@pytest.fixture
def variables():
    return [tf.Variable([1.0, 2.0]) for _ in range(3)]


def used(graph, variables):
    """What is read and written, by index."""
    found = uses(graph)
    handles = [id(v.handle) for v in variables]
    return tuple(
        {i for i, handle in enumerate(handles) if handle in ids}
        for ids in (found.read, found.written)
    )


def test_writes_in_branches_loops_and_functions_are_found(variables):
    first, second, third = variables

    @tf.function(jit_compile=True)
    def inner(x):
        third.assign_sub(x)

    def step(x):
        for _ in tf.range(3):
            x *= first
            if tf.reduce_sum(x) > 0.0:
                second.assign_add(x)
        inner(x)
        return x

    assert used(graph_of(step), variables) == ({0}, {1, 2})


def test_a_gradient_writes_nothing(variables):
    first, second, third = variables

    @tf.function
    def inner(x):
        return tf.reduce_sum(first * x + tf.gather(second, [0, 1, 0])[:2])

    def step(x):
        with tf.GradientTape() as tape:
            loss = (
                inner(x)
                + tf.while_loop(
                    lambda y: tf.reduce_sum(y) < 9.0, lambda y: [y + third], [x]
                )[0][0]
            )
        return tape.gradient(loss, variables)

    assert used(graph_of(step), variables) == ({0, 1, 2}, set())


def test_python_in_a_graph_is_opaque(variables):
    def step(x):
        return tf.py_function(lambda y: variables[0].assign(y), [x], tf.float32)

    assert uses(graph_of(step)).is_opaque
    assert not uses(graph_of(lambda x: x + variables[0])).is_opaque


def test_what_is_stopped_is_found_but_for_a_scalar(variables):
    first, second, third = variables

    @tf.function
    def inner(x):
        return tf.stop_gradient(second * x)

    def step(x):
        loss = tf.reduce_sum(first * x)
        shown = loss + tf.stop_gradient(2 * loss - loss)
        losses.append(shown + tf.reduce_sum(inner(x)) + tf.reduce_sum(third))
        return tf.stop_gradient(third) + losses[0]

    losses = []
    graph = graph_of(step)
    handles = [v.handle for v in variables]
    assert stopped(graph, handles, losses) == [False, True, False]
