"""Horovod: processes that share a batch unevenly train as one process on all of it."""

import contextlib
import json
import os
import pathlib
import re
import subprocess
import sys
import tempfile
import time

import keras
import numpy as np
import pytest
import tensorflow as tf
import yaml
from dense_gradients import given_dense

import distloss
from distloss import HorovodReplicas, callbacks, data

ROOT = pathlib.Path(__file__).parents[2]
PROGRAMS = ROOT / "tests" / "hvd" / "programs"
LAUNCH = ROOT / "scripts" / "launch_horovod"
sys.path.insert(0, str(PROGRAMS))
import problem  # noqa: E402
from problem import MEAN, OPTIMIZERS, WEIGHTED  # noqa: E402

pytestmark = pytest.mark.timeout(1200)  # the first test starts the processes


def started(program, processes, *arguments, limits=()):
    """The ended launch of a program, and what it printed."""
    command = [sys.executable, LAUNCH, "-np", processes, *limits, program, *arguments]
    return subprocess.run(
        [*map(str, command)],
        capture_output=True,
        text=True,
        timeout=1000,
        env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", "HOROVOD_CYCLE_TIME": "3"},
    )


def last_words(ended):
    return ended.stdout[-3000:] + ended.stderr[-6000:]


def results_in(folder, processes, ended):
    """What each process has written, in the order of the ranks."""
    files = [pathlib.Path(folder) / f"{rank}.json" for rank in range(processes)]
    assert all(file.exists() for file in files), last_words(ended)
    return [json.loads(file.read_text()) for file in files]


def results_of(program, processes):
    """The same of a program that ends well."""
    with tempfile.TemporaryDirectory() as folder:
        ended = started(PROGRAMS / program, processes, folder)
        assert ended.returncode == 0, last_words(ended)
        return results_in(folder, processes, ended)


@pytest.fixture(scope="module")
def three_and_their_end(tmp_path_factory):
    """What each of three has written, how the launch ended, and how soon."""
    folder = tmp_path_factory.mktemp("three")
    ended = started(PROGRAMS / "three.py", 3, folder)
    now = time.time()
    results = results_in(folder, 3, ended)
    killed = folder / "killed"
    assert killed.exists(), last_words(ended)
    return results, ended, now - float(killed.read_text())


@pytest.fixture(scope="module")
def three(three_and_their_end):
    return three_and_their_end[0]


def assert_equal_ranks(results, tolerance=1e-6):
    for result in results[1:]:
        np.testing.assert_allclose(
            result["weights"], results[0]["weights"], rtol=0, atol=tolerance
        )


def assert_as_one_process(results, wanted, tolerance=2e-5):
    assert_equal_ranks(results)
    np.testing.assert_allclose(
        results[0]["weights"], wanted["weights"], rtol=0, atol=tolerance
    )
    if "history" in wanted:
        for result in results:
            assert sorted(result["history"]) == sorted(wanted["history"])
            for name, values in wanted["history"].items():
                np.testing.assert_allclose(result["history"][name], values, rtol=1e-5)


def plain(name, reduction, spans=None, arrays=(problem.X, problem.Y, problem.WEIGHT)):
    loss = keras.losses.MeanSquaredError(reduction=reduction)
    model = problem.dense(OPTIMIZERS[name](), loss)
    return problem.fitted(model, problem.batches(spans or problem.whole(), arrays))


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("reduction", [MEAN, WEIGHTED])
def test_fit_trains_as_one_process(three, name, reduction):
    results = [result["fit_with_wrappers"][f"{name} {reduction}"] for result in three]
    assert_as_one_process(results, plain(name, reduction))


def test_horovods_own_optimizer_trains_a_model_per_process(three):
    """The negative control: upstream never reduces with Keras 3, and says nothing."""
    results = [result["fit_with_horovods_own_optimizer"] for result in three]
    with pytest.raises(AssertionError):
        assert_equal_ranks(results, tolerance=1e-2)


@pytest.mark.parametrize(
    "check", ["prepared_whole", "prepared_in_parts", "prepared_under_a_loss_scale"]
)
def test_prepare_alone_trains_and_reports_as_one_process(three, check):
    losses = [keras.losses.MeanSquaredError(reduction=r) for r in (MEAN, WEIGHTED)]
    model = problem.two_outputs(OPTIMIZERS["Adam"](), losses)
    whole = problem.two_targets(problem.whole())
    wanted = problem.fitted(model, whole, validation_data=whole)
    results = [result[check] for result in three]
    assert_as_one_process(results, wanted)
    evaluated = model.evaluate(whole, verbose=0, return_dict=True)
    for result in results:
        assert result["evaluate"] == pytest.approx(evaluated, rel=1e-5)


@pytest.mark.parametrize("name", problem.OWN)
def test_a_step_of_its_own_trains_and_reports_as_one_process(three, name):
    wanted = problem.fitted(problem.OWN[name](), problem.batches(problem.whole()))
    results = [result["own_steps"][name] for result in three]
    if name == "two_optimizers":  # compiled for its optimizers, without a loss
        for history in (wanted["history"], *(r["history"] for r in results)):
            history.pop("loss", None)
    assert_as_one_process(results, wanted)


def test_a_step_of_its_own_that_is_not_prepared_does_not(three):
    results = [result["own_steps"]["unprepared"] for result in three]
    with pytest.raises(AssertionError):
        assert_equal_ranks(results, tolerance=1e-2)


def test_a_row_weighted_loop_trains_as_one_process(three):
    model = problem.own_means()
    batches = problem.batches(problem.whole())
    step = tf.function(model.train_step, reduce_retracing=True)
    fourth = [float(step(b)["fourth"]) for b in batches for _ in range(2)]
    results = [result["own_loop"] for result in three]
    assert_as_one_process(results, {"weights": problem.flat(model.weights)})
    for result in results:
        np.testing.assert_allclose(result["fourth"], fourth, rtol=1e-5)


@pytest.mark.parametrize("tape", ["averaging_tape", "summing_tape"])
def test_a_loop_with_horovods_tape_trains_as_one_process(three, tape):
    model = problem.dense("sgd", "mse")
    optimizer = OPTIMIZERS["Adam"]()
    variables = model.trainable_variables
    values = []
    for span in problem.whole():
        x, y, weight = (a[span] for a in (problem.X, problem.Y, problem.WEIGHT))
        with tf.GradientTape() as recording:
            error = (model(x) - y)[:, 0]
            value = tf.reduce_sum(weight * error**2) / tf.reduce_sum(weight)
            regularizer = 0.1 * tf.reduce_sum(model.weights[0] ** 2)
            total = value + tf.reduce_mean(error**4) + regularizer
        values.append(float(value))
        gradients = recording.gradient(total, [v.value for v in variables])
        optimizer.apply_gradients(zip(gradients, variables, strict=True))
    results = [result[tape] for result in three]
    assert_as_one_process(results, {"weights": problem.flat(model.weights)})
    for result in results:
        np.testing.assert_allclose(result["values"], values, rtol=1e-5)


def test_sparse_gradients_of_embeddings_train_as_one_process(three):
    # given a dense gradient, for plain Keras updates by slices apart
    model = problem.embedding(given_dense(OPTIMIZERS["Adam"]()), "mse")
    whole = problem.batches(problem.whole(), (problem.IDS, problem.Y))
    wanted = problem.fitted(model, whole)
    del wanted["history"]  # without the callback, each process reports its own rows
    assert_as_one_process([result["embeddings"] for result in three], wanted)


def test_overflow_on_one_process_is_skipped_by_all(three):
    results = [result["overflow"] for result in three]
    assert_equal_ranks(results)
    for result in results:
        assert result["skipped"] == result["before"]
        assert np.isfinite(result["weights"]).all()
        assert result["weights"] != result["before"]
        assert (result["scale"], result["iterations"]) == (32.0, 1)


def test_accumulated_batches_train_as_one_batch(three):
    loss = keras.losses.MeanSquaredError(reduction=WEIGHTED)
    model = problem.dense(OPTIMIZERS["Adam"](), loss)
    spans = list(problem.whole())
    pairs = [
        slice(a.start, b.stop) for a, b in zip(spans[::2], spans[1::2], strict=True)
    ]
    wanted = problem.fitted(model, problem.batches(pairs))
    results = [result["accumulation"] for result in three]
    assert_as_one_process(results, {"weights": wanted["weights"]})


def test_gradients_sent_as_float16_are_nearly_those_of_one_process(three):
    results = [result["half_precision_gradients"] for result in three]
    wanted = plain("SGD", MEAN)["weights"]
    assert_equal_ranks(results)
    off = np.abs(np.subtract(results[0]["weights"], wanted)).max()
    assert 1e-6 < off < 1e-3  # they were really sent as float16


@pytest.mark.parametrize("way", ["prepared", "own step", "averaged"])
def test_rows_that_float16_cannot_count_are_counted(three, way):
    for result in three:
        of_loss, of_gradient = result["compressed"]["rows"][way]
        assert abs(of_loss) < 1e-5
        assert abs(of_gradient) < 2.0**-13  # rounded up as often as down


def test_bfloat16_is_refused_where_horovod_cannot_sum_it(three):
    wanted = "ContextError: Expected gradients that Horovod can sum.*bfloat16"
    for result in three:
        found = result["compressed"]["bfloat16"]
        assert re.match(wanted, found["whole"]["dense"])
        assert re.match(wanted, found["whole"]["sparse"])
        assert found["fp16"]["dense"] == "no error"  # it is sent as float16
        assert re.match(wanted, found["fp16"]["sparse"])
        # if not, HorovodReplicas(compression="bf16") can be offered
        assert re.match(
            "InvalidArgumentError: .*bfloat16 is not in", found["of Horovod"]
        )


SIZES = ["one byte", "default", "everything"]


@pytest.mark.parametrize("size", SIZES)
def test_buckets_of_any_size_give_the_same_updates(three, size):
    results = [result["in_buckets"][size] for result in three]
    wanted = {"weights": plain("SGD", WEIGHTED)["weights"]}
    assert_as_one_process([r["fitted"] for r in results], wanted)
    assert_as_one_process([r["prepared"] for r in results], plain("SGD", MEAN))
    for result in results:
        eagerly, in_graph = result["mixed"]
        assert max(eagerly, in_graph) < 1e-5


@pytest.mark.parametrize("size", SIZES)
def test_a_bucket_is_sent_before_the_next_gradient_is_known(three, size):
    wanted = [["Exp", "Sin"]] if size == "everything" else [["Sin"], ["Exp"]]
    for result in three:
        assert result["in_buckets"][size]["waited_for"] == wanted


def test_processes_that_run_out_of_batches_stay_in_step(three):
    spans = list(problem.whole())
    first = np.r_[spans[0], spans[1], spans[2]]
    arrays = [a[np.r_[first, spans[3]]] for a in (problem.X, problem.Y, problem.WEIGHT)]
    joint = [slice(0, len(first)), slice(len(first), problem.ROWS)]
    results = [result["unequal_numbers_of_batches"] for result in three]
    assert_as_one_process(results, plain("Adam", WEIGHTED, joint, arrays))
    assert [result["lengths"] for result in results] == [[2, 2]] * 3
    assert sum(result["rows"] for result in results) == problem.ROWS


def test_a_metric_read_outside_a_function_is_that_of_all_processes(three):
    wanted = np.average(problem.Y[:, 0].astype("float64"), weights=problem.WEIGHT)
    assert [result["metric"] for result in three] == pytest.approx([wanted] * 3)


def test_weights_and_optimizer_state_are_those_of_the_first_process(three):
    model = problem.dense(OPTIMIZERS["Adam"](), "mse")
    model.fit(problem.X, problem.Y, verbose=0)
    wanted = problem.fitted(model, problem.batches(problem.whole()))
    results = [result["broadcast"] for result in three]
    assert_as_one_process(results, {"weights": wanted["weights"]})
    state = problem.flat(model.optimizer.variables)
    for result in results:
        np.testing.assert_allclose(result["state"], state, rtol=0, atol=2e-5)


def test_drift_is_stopped_with_the_first_variable_that_differs(three):
    for result in three:
        assert re.match(
            r"DriftError: .*first in variable 'dense/outer/bias'", result["drift"]
        )
        own = result["drift_of_horovods_own_optimizer"]
        assert re.match(r"DriftError: .*'dense/hidden/kernel'.*hvd\.Dist", own)


def test_other_models_are_not_broadcast(three):
    wanted = "ContextError: Expected the same model and optimizer on all processes"
    assert all(result["other_models"].startswith(wanted) for result in three)


@pytest.mark.parametrize(
    ("case", "wanted"),
    [
        ("loss", "ContextError: Expected replicas= to say.*HorovodReplicas"),
        ("optimizer", "ContextError: Expected replicas= to say.*HorovodReplicas"),
        ("prepare", "ContextError: Expected replicas= to say.*HorovodReplicas"),
        ("share", "ContextError: Expected replicas= to say.*HorovodReplicas"),
        ("unknown set", r"ContextError: Expected a process set.*\[0, 1\]"),
        ("horovods optimizer", "ArgumentTypeError: .*never reduces gradients"),
        ("prepare horovods", "ArgumentTypeError: .*never reduces gradients"),
        ("not built", "ContextError: Expected a model with weights"),
        ("endless", "ArgumentError: Expected a data set that ends"),
    ],
)
def test_what_would_be_wrong_is_refused(three, case, wanted):
    for result in three:
        assert re.match(wanted, result["refusals"][case])


def test_names_match_whatever_else_was_traced(three):
    got = [result["same_names_after_another_trace"] for result in three]
    assert got == [[6.0, 7.0, 8.0]] * 3


def test_tf_keras_optimizers_clip_after_the_sum(three):
    import tf_keras

    model = problem.dense("sgd", "mse")
    variables = [variable.value for variable in model.trainable_variables]
    optimizer = tf_keras.optimizers.SGD(0.1, momentum=0.9, global_clipnorm=0.3)
    for span in problem.whole():
        x, y, weight = (a[span] for a in (problem.X, problem.Y, problem.WEIGHT))
        with tf.GradientTape() as tape:
            error = (model(x) - y)[:, 0]
            value = tf.reduce_sum(weight * error**2) / tf.reduce_sum(weight)
        gradients = tape.gradient(value, variables)
        optimizer.apply_gradients(zip(gradients, variables, strict=True))
    results = [result["tf_keras_loop"] for result in three]
    assert_as_one_process(results, {"weights": problem.flat(variables)})
    assert all(result["is_same_class"] for result in results)


def test_tf_keras_starts_reports_and_stays_as_one_process(three):
    import tf_keras

    class Weighted(tf_keras.losses.Loss):
        """A mean by weights: tf-keras divides by rows."""

        def __call__(self, y_true, y_pred, sample_weight=None):
            weights = tf.cast(sample_weight, tf.float32)
            return tf.reduce_sum(weights * (y_true - y_pred) ** 2) / tf.reduce_sum(
                weights
            )

    model = problem.dense_of_tf_keras(problem.adam_of_tf_keras(), Weighted())
    whole = problem.batches(problem.whole())
    wanted = problem.fitted(model, whole)
    results = [result["tf_keras_callbacks"] for result in three]
    assert_as_one_process(results, wanted)
    report = model.evaluate(whole, verbose=0, return_dict=True)
    for result in results:
        assert result["evaluate"] == pytest.approx(report, rel=1e-5)


def test_drift_of_tf_keras_is_found_and_an_elastic_state_kept(three):
    for result in three:
        assert result["tf_keras_drift"].startswith("DriftError: Expected the same")
        assert "/bias:0" in result["tf_keras_drift"]
    model = problem.dense_of_tf_keras(problem.adam_of_tf_keras(), "mse")
    states = [result["tf_keras_elastic_state"] for result in three]
    assert_equal_ranks(states)
    one_more = [x + 1 for x in problem.flat(model.weights)]
    np.testing.assert_allclose(states[0]["weights"], one_more, rtol=1e-6)
    assert states[0]["epoch"] == 3


@pytest.mark.parametrize("name", ["prepared", "wrapped", "of tf-keras"])
def test_steps_are_checked_against_one_device(three, name):
    for result in three:
        assert result["steps_checked"][name] == [[True, [4, 4, 0]], [True, [4, 1, 3]]]


@pytest.fixture(scope="module")
def four():
    return results_of("four.py", 4)


def test_process_sets_train_on_their_own(four):
    for number, pair in enumerate((four[:2], four[2:])):
        spans = list(problem.whole())
        wanted = plain("SGD", WEIGHTED, spans[:2] if number == 0 else spans[2:])
        assert_as_one_process(pair, {"weights": wanted["weights"]})
        assert all((r["count"], r["outside"]) == (2, 1) for r in pair)
        assert all(r["checked"] == [[True, [6, 2]]] for r in pair)
    assert four[0]["weights"] != four[2]["weights"]


def test_a_constant_is_summed_when_the_function_runs(four):
    """Not while Grappler improves its graph, for ever."""
    got = [result["sum_of_a_constant"] for result in four]
    assert got == [[8.0, "not initialized"]] * 4


def test_a_killed_process_ends_the_others(three_and_their_end):
    _, ended, seconds = three_and_their_end
    assert ended.returncode != 0
    assert "Process 1 exit with status code 137" in ended.stdout + ended.stderr
    pids = [int(pid) for pid in re.findall(r"pid (\d+)", ended.stdout)]
    assert len(pids) == 3
    assert not any(pathlib.Path(f"/proc/{pid}").exists() for pid in pids)
    assert seconds < 60


def test_losses_in_another_order_are_reported_by_name():
    limits = ["--stall-warning", "4", "--stall-shutdown", "8"]
    ended = started(PROGRAMS / "order.py", 2, limits=limits)
    printed = ended.stdout + ended.stderr
    assert ended.returncode != 0, printed
    assert "not noticed" not in printed
    assert re.search("distloss_HorovodAllreduce_.*_of_mean_squared_error", printed)


def sizes_seen(folder):
    log = folder / "log"
    lines = log.read_text().split("\n")[:-1] if log.exists() else []
    return [int(line.split()[1]) for line in lines]


def wait_for(job, condition, seconds=200):
    stop = time.monotonic() + seconds
    while not condition():
        assert job.poll() is None, "the job ended by itself"
        assert time.monotonic() < stop, "the job did not get there in time"
        time.sleep(0.2)


@contextlib.contextmanager
def elastic_job(folder):
    """The running job, on as many processes as the file `hosts` in `folder` says."""
    discover = folder / "discover"
    discover.write_text(f"#!/bin/sh\ncat {folder / 'hosts'}\n")
    discover.chmod(0o755)
    runner = pathlib.Path(sys.executable).parent / "horovodrun"
    # With an interface named, the driver does not wait for a second host.
    sizes = ["-np", "2", "--min-np", "1", "--max-np", "3"]
    hosts = ["--network-interface", "lo", "--host-discovery-script", discover]
    command = [runner, *sizes, *hosts, sys.executable, PROGRAMS / "elastic.py"]
    quiet = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"}
    with (folder / "output").open("w") as output:
        job = subprocess.Popen(
            [*command, folder], stdout=output, stderr=output, env=quiet
        )
    try:
        yield job
    finally:
        job.terminate()
        job.wait(60)


def test_processes_that_come_and_go_train_as_one(tmp_path):
    """2 processes, then 3, then 2: each step is that of its whole batch."""
    hosts = tmp_path / "hosts"
    hosts.write_text("localhost:2\n")
    with elastic_job(tmp_path) as job:
        wait_for(job, lambda: len(sizes_seen(tmp_path)) > 3)
        hosts.write_text("localhost:3\n")
        wait_for(job, lambda: 3 in sizes_seen(tmp_path)[:-3])
        hosts.write_text("localhost:2\n")
        wait_for(job, lambda: sizes_seen(tmp_path)[-3:] == [2, 2, 2])
        (tmp_path / "done").touch()
        job.wait(60)
    steps, traces, *weights = (tmp_path / "result").read_text().split()

    model = problem.dense(keras.optimizers.SGD(0.05, momentum=0.9), "mse")
    for step in range(int(steps)):
        rows = problem.elastic_batch(step)
        weight = problem.WEIGHT[rows] / problem.WEIGHT[rows].mean()
        model.train_on_batch(problem.X[rows], problem.Y[rows], sample_weight=weight)
    wanted = problem.flat(model.weights)
    np.testing.assert_allclose([*map(float, weights)], wanted, rtol=0, atol=5e-5)
    assert traces == "1"


def test_the_example_finds_what_it_claims():
    ended = started(ROOT / "examples" / "horovod_digits.py", 3)
    assert ended.returncode == 0, ended.stdout[-2000:] + ended.stderr[-3000:]
    assert "3 processes, prepare" in ended.stdout


def launched(*arguments):
    command = [sys.executable, LAUNCH, *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60)


def test_the_launcher_prints_what_it_would_do():
    done = launched(
        *("-np", "8", "--hosts", "one:4,two:4", "--dry-run", "--python", "python3"),
        *("train.py", "--epochs", "3 4"),
    )
    assert done.returncode == 0
    assert done.stdout == (
        "horovodrun -np 8 --gloo --stall-check-warning-time-seconds 60 "
        "--stall-check-shutdown-time-seconds 300 -H one:4,two:4 python3 train.py "
        "--epochs '3 4'\n"
    )


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["-np", "2", "no_such_file.py"], "no file no_such_file.py"),
        (["-np", "4", "--hosts", "one:2", __file__], "fewer slots than -np 4"),
        (["-np", "4", "--hosts", "one", __file__], "expected host:slots"),
        (["-np", "2", "--hostfile", "no_such", __file__], "no file no_such"),
        (["-np", "0", __file__], "expected 1 or more, got 0"),
    ],
)
def test_the_launcher_says_what_is_wrong(arguments, words):
    done = launched(*arguments)
    assert done.returncode == 2
    assert words in done.stderr.splitlines()[-1]


def test_the_manifest_has_what_the_mpi_operator_needs():
    job = yaml.safe_load((ROOT / "examples" / "horovod_mpijob.yaml").read_text())
    assert (job["apiVersion"], job["kind"]) == ("kubeflow.org/v2beta1", "MPIJob")
    replicas = job["spec"]["mpiReplicaSpecs"]
    assert replicas["Launcher"]["replicas"] == 1
    pods = {
        kind: spec["template"]["spec"]["containers"] for kind, spec in replicas.items()
    }
    assert sorted(pods) == ["Launcher", "Worker"]
    assert all(pod["name"] and pod["image"] for (pod,) in pods.values())
    command = pods["Launcher"][0]["command"]
    processes = job["spec"]["slotsPerWorker"] * replicas["Worker"]["replicas"]
    assert command[command.index("-np") + 1] == str(processes)
    done = launched(*command[1:-1], "--dry-run", command[-1])
    assert done.returncode == 0, done.stderr
    assert "--hostfile /etc/mpi/hostfile" in done.stdout
    assert (ROOT / command[0]).exists()
    assert (ROOT / command[-1]).exists()


# What needs no Horovod to run


def test_what_is_no_sum_is_refused():
    with pytest.raises(distloss.DistlossError, match="Adasum is refused"):
        HorovodReplicas(gradient_op="adasum")
    with pytest.raises(ValueError, match="Expected gradient_op="):
        HorovodReplicas(gradient_op="mean")
    with pytest.raises(TypeError, match="Expected process_set="):
        HorovodReplicas(process_set="01")
    with pytest.raises(ValueError, match="Expected compression="):
        HorovodReplicas(compression="int8")


def test_horovod_that_was_not_initialized_is_named():
    with pytest.raises(RuntimeError, match=r"hvd\.init\(\)"):
        HorovodReplicas().sum(tf.constant(1.0))


def test_replicas_are_saved_with_the_loss():
    replicas = HorovodReplicas([1, 0], "average", compression="fp16")
    loss = distloss.DistributedLoss("mse", replicas=replicas)
    loaded = distloss.DistributedLoss.from_config(loss.get_config())
    assert loaded.replicas == replicas


@pytest.mark.parametrize("every", [0, -1, 1.5, True])
def test_a_drift_guard_needs_a_number_of_batches(every):
    with pytest.raises(ValueError, match="Expected every="):
        callbacks.DriftGuard(HorovodReplicas(), every=every)


def test_checksums_tell_tensors_apart():
    values = [[1.0, 2.0, 3.0], [2.0, 1.0, 3.0], [1.0, 2.0, 3.0 + 1e-4]]
    sums = np.stack([callbacks.checksums([tf.constant(v)]).numpy() for v in values])
    assert callbacks.first_difference(sums[[0, 0]], 1e-6) is None
    assert callbacks.first_difference(sums[[0, 1]], 1e-6) == 0
    assert callbacks.first_difference(sums[[0, 2]], 1e-6) == 0
    broken = sums[[0, 0]].copy()
    broken[1] = np.nan
    assert callbacks.first_difference(broken, 1e-6) == 0
    assert callbacks.first_difference(np.full((2, 1, 2), np.nan), 1e-6) is None


def test_only_data_sets_that_end_are_kept_in_step():
    with pytest.raises(TypeError, match=r"Expected dataset= to be a tf\.data"):
        data.in_step([1, 2])
    with pytest.raises(ValueError, match="Expected batches="):
        data.in_step(tf.data.Dataset.range(3), batches=-1)
