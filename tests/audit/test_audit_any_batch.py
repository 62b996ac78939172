"""The audit takes whatever `fit` takes, and says so in a sentence where it cannot."""

import pathlib

import builds_any_batch
import pytest
import tensorflow as tf
from chosen import some

import distloss
from distloss import cli
from distloss._audit import processes
from distloss._errors import ArgumentError, ArgumentTypeError, AuditError

BUILDS = pathlib.Path(builds_any_batch.__file__)


def convolutions_take_no_rows():
    """Not with oneDNN, which TensorFlow has on where the processor has AVX-512."""
    no_rows, filters = tf.zeros([0, 9, 9, 1]), tf.ones([3, 3, 1, 4])
    return tf.nn.conv2d(no_rows, filters, 1, "VALID").shape == (0, 7, 7, 4)


def test_an_empty_shard_meets_the_switches_that_training_has(forked):
    """With oneDNN, convolutions take no rows badly; training has what is usual here."""
    assert not any("ONEDNN" in name for name in processes._SETTINGS)
    report = distloss.audit(f"{BUILDS}:convolution", replicas=(1, 2))
    found = {f.cause: f for f in report.findings}["empty-replica"]
    if convolutions_take_no_rows():
        assert "1 of 2 replicas with rows: alpha = 0.5" in found.evidence[0]
    else:
        assert "InvalidArgumentError" in found.evidence[0]
        assert "With one row on the last replica it runs." in found.evidence[0]
    assert "distloss.prepare(model)" in found.remedy
    assert not report.skipped


RIGHT = [
    "prepared_convolution",
    "x_alone",
    "x_in_a_tuple",
    "x_and_none",
    "weight_of_none",
    "a_list",
    "x_in_a_dictionary",
    "y_in_a_dictionary",
    "a_weight_for_each_output",
    "one_weight_for_all_outputs",
    "an_output_without_a_target",
    "a_dictionary",
    "a_data_set",
    "a_data_set_of_dictionaries",
    "a_py_data_set",
    "a_generator",
    "half_precision",
    "one_row_for_each",
    "optimizer_not_built",
    "optimizer_not_built_with_averages",
    "optimizer_not_built_in_an_eager_step",
    "two_optimizers_not_built",
    "four_parts",
    "a_loop_in_float64",
    "a_ragged_input",
    "a_sparse_input",
    "texts",
    "texts_in_a_compiled_model",
    "integers",
    "subclassed",
]


@pytest.mark.parametrize("name", some(RIGHT, 6))
def test_what_is_right_agrees_whatever_its_batch(forked, name):
    report = distloss.audit(f"{BUILDS}:{name}", replicas=(1, 2))
    assert report.agrees, report.findings
    assert {m.probe for m in report.measured} >= {"even split"}


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("creates_a_variable", "Create it in build()"),
        ("nothing_trainable", "trainable_variables to be the variables that are"),
        ("one_row", "at least one row for each of 2 replicas. Got 1 rows"),
        ("no_batches", "Got a data set without a batch"),
        ("not_batched", "A data set must be batched"),
        ("unequal_rows", "differ in rows"),
        ("nothing", "Got nothing but None"),
        ("words_for_numbers", "raised"),
        ("objects", "Expected the batch to be (x, y)"),
    ],
)
def test_what_cannot_be_told_is_a_sentence(forked, name, says):
    with pytest.raises(AuditError) as caught:
        distloss.audit(f"{BUILDS}:{name}", replicas=(1, 2))
    assert says in str(caught.value)
    assert "Traceback" not in str(caught.value)


@pytest.mark.parametrize("seconds", ["nan", "inf", "0", "-1"])
def test_a_limit_that_is_none_is_refused(capfd, seconds):
    address = f"{BUILDS}:a_data_set"
    assert cli.main(["audit", address, "--timeout", seconds]) == cli.NOT_CHECKED
    assert "timeout= to be a number of seconds above 0" in capfd.readouterr().err
    with pytest.raises(ArgumentError, match="above 0"):
        distloss.audit(address, timeout=float(seconds))


@pytest.mark.parametrize("timeout", ["6", True, 1j])
def test_a_limit_of_another_type_is_refused(timeout):
    with pytest.raises(ArgumentTypeError, match="timeout="):
        distloss.audit(f"{BUILDS}:a_data_set", timeout=timeout)
