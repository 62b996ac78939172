"""Several workers, each a process, train as one device on all of their rows."""

import itertools
import json
import pathlib
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf
from clusters import ended, last_words

PROGRAMS = pathlib.Path(__file__).parent / "programs"
sys.path.insert(0, str(PROGRAMS))
import problem_of_workers as problem  # noqa: E402

pytestmark = pytest.mark.timeout(1200)  # the first test of each cluster starts it


def launched(program, workers, folder):
    """The exit codes, and what each worker has written, by the name of the file."""
    problem.write_files(folder)
    codes = ended(PROGRAMS / program, workers, folder)
    said = "\n".join(last_words(folder, index) for index in range(workers))
    written = {
        path.stem: json.loads(path.read_text()) for path in folder.glob("*.json")
    }
    results = [written.get(f"results{index}") for index in range(workers)]
    assert None not in results, said
    failed = [
        check["failed"] for r in results for check in r.values() if "failed" in check
    ]
    assert not failed, "\n".join(failed)
    return codes, written, results


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    return launched("two.py", 2, tmp_path_factory.mktemp("two"))


@pytest.fixture(scope="module")
def three(tmp_path_factory):
    return launched("three.py", 3, tmp_path_factory.mktemp("three"))


@pytest.fixture(scope="module")
def servers(tmp_path_factory):
    folder = tmp_path_factory.mktemp("servers")
    _, _, results = launched("parameter_server.py", 1, folder)
    return results[0]


@pytest.fixture
def check_of(request):
    """(cluster, check) -> its results of each worker, which hold the same weights."""

    def results(cluster, check):
        _, _, every = request.getfixturevalue(cluster)
        chosen = [result[check] for result in every]
        assert all(one["weights"] == chosen[0]["weights"] for one in chosen)
        assert all(one["start"] == chosen[0]["start"] for one in chosen)
        return chosen

    return results


def rows_of_steps(results):
    """The rows of all workers, for each step."""
    steps = zip(*(result["rows"] for result in results), strict=True)
    return [list(itertools.chain(*parts)) for parts in steps]


def model_from(start):
    model = problem.compiled("sgd")
    sizes = [int(np.prod(weight.shape)) for weight in model.weights]
    parts = np.split(np.array(start), np.cumsum(sizes)[:-1])
    pairs = zip(parts, model.weights, strict=True)
    model.set_weights([part.reshape(weight.shape) for part, weight in pairs])
    return model


def trained_alone(start, steps, optimizer):
    """Weights, losses and the mean of the errors, by plain Keras on one device."""
    model, optimizer = model_from(start), problem.optimizer_of(optimizer)
    losses, sums = [], np.zeros(2)
    for rows in steps:
        x, y, weight = (a[rows] for a in (problem.X, problem.Y, problem.WEIGHT))
        weights = weight * (x != 0).any(-1)
        with tf.GradientTape() as tape:
            y_pred = model(x)
            values = tf.reduce_mean((y_pred - y) ** 2, -1)
            loss = tf.reduce_sum(weights * values) / weights.sum()
            loss += tf.add_n(model.losses)
        gradients = tape.gradient(loss, model.trainable_variables)
        optimizer.apply(gradients, model.trainable_variables)
        losses.append(float(loss))
        errors = np.abs(y_pred - y)[..., 0]
        sums += (weight * errors).sum(), (weight * np.ones_like(errors)).sum()
    return problem.flat(model.weights), losses, sums[0] / sums[1]


def fitted_alone(start, steps, optimizer, epochs=problem.EPOCHS):
    """What plain Keras' fit gives on one device; `steps` are those of one epoch."""
    model = model_from(start)
    loss, metric = model.loss, [keras.metrics.MeanAbsoluteError(name="mae")]
    model.compile(problem.optimizer_of(optimizer), loss, metrics=metric)
    arrays = (problem.X, problem.Y, problem.WEIGHT)
    signature = tuple(tf.TensorSpec([None, *a.shape[1:]], a.dtype) for a in arrays)
    batches = tf.data.Dataset.from_generator(
        lambda: (tuple(a[rows] for a in arrays) for rows in steps),
        output_signature=signature,
    ).apply(tf.data.experimental.assert_cardinality(len(steps)))
    return problem.fitted(model, batches, validation_data=batches), model


def batches_of(rows, size=problem.SIZE):
    return [list(range(i, min(i + size, rows))) for i in range(0, rows, size)]


def assert_same(got, wanted, tolerance):
    np.testing.assert_allclose(got, wanted, rtol=0, atol=tolerance)


LOOPS = [
    ("two", "loop_with_wrappers", "SGD"),
    ("two", "loop_with_mean_share", "Adam"),
    ("two", "loop_over_files", "SGD"),
    ("two", "loop_over_own_rows", "SGD"),
    ("two", "loop_in_buckets", "SGD"),
    ("three", "loop_over_dealt_rows", "SGD"),
    ("three", "loop_over_files", "SGD"),
    ("three", "loop_over_26_rows", "SGD"),
]
TOLERANCE = {"two": 1e-6, "three": 1e-5}


@pytest.mark.parametrize(("cluster", "check", "optimizer"), LOOPS)
def test_a_loop_trains_as_one_device(check_of, cluster, check, optimizer):
    results = check_of(cluster, check)
    steps = rows_of_steps(results)
    weights, losses, mean = trained_alone(results[0]["start"], steps, optimizer)
    for result in results:
        assert_same(result["weights"], weights, TOLERANCE[cluster])
        assert result["losses"] == pytest.approx(losses, rel=1e-5)
        assert result["mean"] == pytest.approx(mean, rel=1e-5)


@pytest.mark.parametrize("cluster", ["two", "three"])
def test_the_comparison_rejects_a_mean_of_means(check_of, cluster):
    results = check_of(cluster, "loop_with_means_of_means")
    steps = rows_of_steps(results)
    weights, _, _ = trained_alone(results[0]["start"], steps, "SGD")
    with pytest.raises(AssertionError):
        assert_same(results[0]["weights"], weights, 1e-2)


def test_accumulated_batches_train_as_one(check_of):
    results = check_of("two", "loop_that_accumulates")
    steps = rows_of_steps(results)
    pairs = [a + b for a, b in zip(steps[::2], steps[1::2], strict=True)]
    weights, _, _ = trained_alone(results[0]["start"], pairs, "SGD")
    assert_same(results[0]["weights"], weights, 1e-6)
    assert results[0]["iterations"] == len(pairs)


def test_what_each_policy_deals(check_of):
    """What the comparisons rest on: unequal parts, and workers without rows."""
    once = [*range(problem.ROWS)]
    data = rows_of_steps(check_of("two", "loop_with_wrappers"))
    assert data == 2 * batches_of(problem.ROWS)
    cases = [("two", "files"), ("three", "files"), ("two", "own_rows")]
    for cluster, name in cases:
        results = check_of(cluster, f"loop_over_{name}")
        epoch = rows_of_steps(results)[: len(results[0]["rows"]) // 2]
        assert sorted(itertools.chain(*epoch)) == once
        counts = [sum(map(len, result["rows"])) for result in results]
        assert len(set(counts)) == len(counts)
        are_done = [not result["rows"][-1] for result in results]
        assert are_done == [False] + [name == "files"] * (len(results) - 1)


def test_overflow_on_one_worker_is_skipped_by_all(two):
    for result in two[2]:
        got = result["overflow_on_one_worker"]
        assert got["skipped"] == 1.0
        assert got["weight"] == pytest.approx(1 - 0.1 * (32 + 64) / 32)
        assert got["scale"] == 32.0


def test_gradients_are_sent_in_16_bits(two):
    for result in two[2]:
        (of_half, slices), (of_brain, same) = result["sums_in_16_bits"].values()
        assert of_half == [2 * float(np.float16(1 / 3)), np.inf]
        assert of_brain == [2 * 0.333984375, 199_680.0]  # 8 bits of each
        assert slices == same == pytest.approx([2 / 3, 2e5])


def test_losses_in_another_order_are_an_error(two):
    """TensorFlow alone would add up one loss of one worker and another of another."""
    names = ("mean_squared_error", "mean_absolute_error")
    for name, result in zip(names, two[2], strict=True):
        raised = result["losses_in_another_order"]["raised"]
        assert f"_of_{name} now. Got other names from others" in raised


FITS = [
    ("two", "fit_prepared", "SGD", "loop_with_wrappers"),
    ("two", "fit_prepared_in_parts", "Adam", "loop_with_wrappers"),
    ("two", "fit_prepared_over_files", "SGD", "loop_over_files"),
    ("three", "fit_over_files", "SGD", "loop_over_files"),
    ("three", "fit_over_26_rows_in_parts", "Adam", "loop_over_26_rows"),
]


@pytest.mark.parametrize(("cluster", "check", "optimizer", "loop"), FITS)
def test_fit_trains_and_reports_as_one_device(
    check_of, cluster, check, optimizer, loop
):
    results = check_of(cluster, check)
    steps = rows_of_steps(check_of(cluster, loop))
    epoch = steps[: len(steps) // problem.EPOCHS]
    wanted, model = fitted_alone(results[0]["start"], epoch, optimizer)
    for result in results:
        assert_same(result["weights"], wanted["weights"], TOLERANCE[cluster])
        for name, values in result["history"].items():
            assert values == pytest.approx(wanted["history"][name], rel=1e-5), name
        if "predicted" in result:
            predicted = model.predict(problem.X, verbose=0).ravel()
            assert_same(result["predicted"], predicted, 1e-5)


def test_fit_of_plain_keras_does_not_start(two):
    """Why fit needs prepare, until upstream mends it."""
    raised = [result["fit_of_plain_keras"]["raised"] for result in two[2]]
    assert raised == ["ValueError"] * 2


def test_fit_of_tf_keras_trains_as_one_device(check_of):
    for result in check_of("two", "fit_of_tf_keras_prepared"):
        assert_same(result["weights"], result["wanted"], 1e-6)


@pytest.mark.parametrize("name", problem.OWN)
def test_a_step_of_its_own_trains_and_reports_as_one_device(two, name):
    results = [result["fit_of_own_steps"][name] for result in two[2]]
    assert results[0]["weights"] == results[1]["weights"]
    for result in results:
        assert_same(result["weights"], result["wanted"]["weights"], 1e-5)
        for key, values in result["wanted"]["history"].items():
            assert result["history"][key] == pytest.approx(values, rel=1e-5), key


def test_fit_of_plain_tf_keras_is_a_mean_of_means(check_of):
    for result in check_of("two", "fit_of_tf_keras"):
        assert np.abs(np.subtract(result["weights"], result["wanted"])).max() > 5e-3


def test_a_sum_to_which_a_worker_does_not_come_ends_in_time(two):
    codes, written, _ = two
    missed = written["missed0"]
    assert missed["raised"] == "DeadlineExceededError"
    assert missed["seconds"] < 20  # of which the limit is 3
    assert codes == [0, 0]


def test_a_killed_worker_ends_the_others(three):
    """By TensorFlow's heartbeats, after 10 seconds, without any option."""
    codes, written, _ = three
    for index in (0, 1):
        assert written[f"killed{index}"]["raised"] == "UnavailableError"
        assert written[f"killed{index}"]["seconds"] < 40
    assert codes == [0, 0, -9]


@pytest.mark.parametrize("check", ["with_wrappers", "with_mean_share"])
def test_a_parameter_server_gets_each_workers_own_mean(servers, check):
    """Clipped once, and divided by no number of workers, which are two."""
    got = servers[check]
    weights, losses, mean = trained_alone(got["start"], got["rows"], "SGD")
    assert_same(got["weights"], weights, 1e-6)
    assert got["losses"] == pytest.approx(losses, rel=1e-5)
    assert got["mean"] == pytest.approx(mean, rel=1e-5)
    assert got["replicas"] == 1


def test_accumulation_on_a_parameter_server_is_refused(servers):
    wanted = "Expected replicas that take their steps together"
    assert wanted in servers["accumulated"]["raised"]
