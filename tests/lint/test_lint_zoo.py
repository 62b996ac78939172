"""Lint finds the zoo's bugs in their lines, and nothing in what is mended.

`scripts/lint_table` also audits what was mended.
"""

import importlib.util
import pathlib
import sys

import pytest
from no_keras import clean_keras  # noqa: F401

from distloss._lint.check import check_file
from distloss._lint.files import Target
from distloss._lint.fixes.mending import mended

ROOT = pathlib.Path(__file__).parents[2]
ZOO = ROOT / "examples" / "zoo"


def script(name):
    sys.path.insert(0, str(ROOT / "scripts"))
    try:
        return importlib.import_module(name)
    finally:
        sys.path.remove(str(ROOT / "scripts"))


zoo_table, lint_table = script("zoo_table"), script("lint_table")
ENTRIES = zoo_table.entries()
# what stands in the line that is wrong; read off the entries by hand
WRONG_LINE = {
    "a01_no_allreduce": "def _all_reduce_sum_gradients",
    "a02_divided_by_hand": "mean_squared_error(y_true, y_pred) / replica_count()",
    "a02_sum_of_local_means": "tf.reduce_mean(row_losses(model, x, y))",
    "a03_regularizer": "+ tf.add_n(model.losses)",
    "a04_compute_loss": "keras.ops.mean((y_pred - y) ** 2)",
    "a04_scalar_loss": "model.compile(",
    "a05_compute_average_loss": "compute_average_loss(row_losses(model, x, y))",
    "a05_fit_uneven": "model.compile(",
    "a05_horovod_average": "tf.reduce_mean(row_losses(model, x, y))",
    "a06_nominal_batch_size": "/ GLOBAL_BATCH_SIZE",
    "a07_empty_replica": "tf.reduce_mean(row_losses(model, x, y)) * rows",
    "a07_half_empty": "divide_no_nan(tf.reduce_sum(values), rows)",
    "a08_double_division": "loss / replica_count()",
    "a09_keras_scales_too": "loss(y, model(x)) / replica_count()",
    "a09_reduction_none": "tf.reduce_mean(loss(y, model(x)))",
    "a09_times_replicas": "* replica_count()",
    "a10_report_only": "distloss.mean_share(losses)",
    "a11_batch_size_as_weight": "compute_average_loss(row_losses(model, x, y), ROWS)",
    "a11_tokens_by_rows": "compute_average_loss(values, global_batch_size=ROWS)",
    "a11_weighted_mean": "tf.reduce_mean(weighted)",
    "a13_clip_in_the_loop": "tf.clip_by_global_norm(gradients, 0.5)",
    "a13_clipnorm": "sgd(global_clipnorm=0.5)), regression_rows()",
    "a15_keras_accumulation": "row_losses(model, x, y)) / PARTS",
    "a16_overflow": "LossScaleOptimizer(sgd())), regression_rows()",
    "a17_mask": "model.compile(",
    "a18_weights": "model.compile(",
    "a19_add_loss": "self.add_loss(",
    "a19_shared_sum": "distloss.regularization_share(model.losses)",
    "a20_local_batch_size": "compute_average_loss(values, global_batch_size=rows)",
    "a20_whole_batch_on_each": ".batch(self.size_of(context))",
    "a21_collective_in_the_tape": "context.all_reduce(",
    "a22_batch_dice": "1 - 2 * common / (foreground + predicted)",
    "a22_contrastive": "sparse_softmax_cross_entropy_with_logits(own, logits)",
    "a23_foreground_count": "total / tf.maximum(positives, 1)",
    "a24_batch_normalization": "keras.layers.BatchNormalization()",
    "b01_divided_by_size": "/ hvd.size()",
    "b01_sum_of_means": "tf.reduce_mean(row_losses(model, x, y))",
    "b01_times_size": "* hvd.size()",
    "b02_backward_passes": "tf.reduce_mean(row_losses(model, x, y))",
    "b03_apply_gradients": "hvd.DistributedOptimizer(optimizer)",
    "b04_keras_3_fit": "hvd_keras.DistributedOptimizer(sgd())",
    "b05_sparse_gradients": "tf.IndexedSlices(values",
    "b08_join": "divide_no_nan(tf.reduce_sum(values), rows)",
    "c01_mean_of_microbatches": "distloss.mean_share(row_losses(model, x, y), is_token",
    "c02_token_mean_per_replica": "divide_no_nan(total, tf.reduce_sum(is_token(x)))",
    "c03_parts_not_averaged": "distloss.mean_share(row_losses(model, x, y))",
    "c04_global_count_divided": "loss / replica_count()",
    "c05_average_of_sums": "0.01 * tf.reduce_sum(row_losses(model, x, y))",
    "c07_task_per_replica": "divide_no_nan(total, tf.reduce_sum(is_of_task))",
    "d06_average_of_the_loss_only": "self.optimizer.apply(gradients",
    "d07_summed_in_and_after_the_tape": "hvd.allreduce(share, op=hvd.Sum)",
    "d10_clipped_and_kept": "optimizer_of(optimizer)",
    "d14_ignored_labels": "tf.reduce_mean(labelled_losses(model, x, y))",
    "d16_second_optimizer": "self.for_wide.apply(wide_gradients",
    "d17_no_aggregation": "self.optimizer.apply_gradients(",
    "d18_weighed_by_rows": "hvd.allreduce(part * g, **self.how)",
    "d22_broadcast_in_each_step": "self.optimizer.apply(gradients",
    "e04_weights_and_rows": "tf.reduce_mean(losses)",
    "g02_tokens_of_own_parts": "row_losses(model, x, y) * is_token(x)) / tokens",
    "g03_times_replicas": "loss * replica_count()",
    "g04_sums_averaged": "total / replica_count()",
    "g06_counted_before_the_shift": "losses * is_label) / count / replica_count()",
    "g08_second_term_local": "confidence_losses * mask) / tf.reduce_sum(mask)",
    "g09_decaying_weights": "model.compile(",
    "g13_weights_truncated": "total / tf.cast(tf.maximum(count, 1), tf.float32)",
    "g14_no_labels_on_a_replica": "total / tf.reduce_sum(is_label)",
    "g15_ignored_class": "model.compile(",
    "g16_packed_segments": "tf.reduce_sum(means) / tf.reduce_sum(is_text)",
}


def path_of(name):
    return ZOO / f"{name}.py"


def lines_found(name, build):
    """The text of the lines that are found, by rule."""
    findings, problems = check_file(Target(path_of(name), build))
    assert problems == []
    assert {pathlib.Path(one.file).name for one in findings} <= {path_of(name).name}
    lines = path_of(name).read_text().splitlines()
    return {(one.rule, lines[one.line - 1]) for one in findings}


def test_every_entry_is_visible_or_said_not_to_be():
    assert set(WRONG_LINE) | set(lint_table.NOT_VISIBLE) == set(ENTRIES)
    assert len(WRONG_LINE) >= 40


@pytest.mark.parametrize("name", WRONG_LINE)
def test_the_bug_is_found_in_its_line(name):
    cause = ENTRIES[name].cause
    rule = lint_table.SAME.get(cause, cause)
    lines = {line for found, line in lines_found(name, "wrong") if found == rule}
    assert len(lines) == 1
    assert WRONG_LINE[name] in lines.pop()


@pytest.mark.parametrize("name", ENTRIES)
def test_nothing_is_found_in_what_is_mended(name):
    assert lines_found(name, "mended") == set()
    text = path_of(name).read_text()
    assert mended(Target(path_of(name), "mended"), text, certain=False) == text


@pytest.mark.parametrize("name", ENTRIES)
def test_a_whole_file_shows_what_its_builds_show(name):
    both = lines_found(name, "wrong") | lines_found(name, "mended")
    assert lines_found(name, None) == both


@pytest.mark.parametrize("certain", [True, False])
@pytest.mark.parametrize("name", ENTRIES)
def test_mending_is_short_and_once_is_enough(name, certain):
    target, text = Target(path_of(name), "wrong"), path_of(name).read_text()
    after = mended(target, text, certain=certain)
    assert lint_table.changed_lines(text, after) <= 5
    assert mended(target, after, certain=certain) == after
    compile(after, name, "exec")
