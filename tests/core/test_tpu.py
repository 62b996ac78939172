"""What a TPU needs, shown without one: every step compiles under XLA, with static
shapes, no call of the host, and no operation whose result has an open shape."""

import pathlib
import shlex
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf
from conftest import strategy_of
from tensorflow.python.tpu import tpu_replication

import distloss
from distloss import DistributedLoss, DistributedOptimizer, GlobalMean, OneDevice

ROOT = pathlib.Path(__file__).parents[2]
ROWS = 8
REDUCTIONS = ("sum_over_batch_size", "mean", "mean_with_sample_weight", "sum")
random = np.random.default_rng(4)
TOKENS = np.array([[1, 2, 0], [3, 0, 0], [4, 5, 6], [7, 0, 0]] * 2)
TARGETS = random.normal(size=[ROWS, 3, 2]).astype("float32")
WEIGHTS = random.uniform(0.5, 5, ROWS).astype("float32")

# What TPUs refuse: operations that call the host, and those whose result has a shape
# that depends on values. https://cloud.google.com/tpu/docs/tensorflow-ops
REFUSED = tpu_replication._UNSUPPORTED_OPS | {
    *("PyFunc", "PyFuncStateless", "EagerPyFunc", "PrintV2", "StringFormat"),
    *("Where", "Unique", "UniqueV2", "UniqueWithCounts", "DynamicPartition"),
    *("SparseToDense", "RaggedRange", "NonMaxSuppressionV3", "ListDiff"),
}


def model_and_step(replicas=None):
    """A step in which each reduction is taken with and without weights and masks."""
    layers = keras.layers
    inputs = keras.Input([3], ROWS, dtype="int32")
    hidden = layers.Embedding(9, 4, mask_zero=True)(inputs)
    model = keras.Model(
        inputs, layers.Dense(2)(layers.GRU(3, return_sequences=True)(hidden))
    )
    losses = [
        DistributedLoss("huber", reduction=r, replicas=replicas) for r in REDUCTIONS
    ]
    fixed = DistributedLoss("mse", replicas=replicas, global_batch_size=ROWS)
    rule = keras.optimizers.Adam(0.01, global_clipnorm=0.5)
    optimizer = DistributedOptimizer(rule, replicas=replicas)
    optimizer.build(model.trainable_variables)
    seen = GlobalMean(replicas=replicas)

    def step(tokens, targets, weights):
        with tf.GradientTape() as tape:
            outputs = model(tokens)
            plain = tf.identity(outputs)  # has no mask
            total = fixed(targets, outputs, weights)
            for loss in losses:
                total += loss(targets, outputs, weights) + loss(targets, plain)
            rows = tf.reduce_mean(tf.square(plain - targets), [1, 2])
            total += distloss.mean_share(rows, weights, replicas=replicas)
        gradients = tape.gradient(total, model.trainable_variables)
        optimizer.apply(gradients, model.trainable_variables)
        seen.update_state(rows, weights)
        return total

    return model, step


def operations(graph):
    """Of a graph and of all functions that it calls."""
    found = list(graph.get_operations())
    for function in graph._functions.values():
        found += operations(function.graph)
    return found


def refused(graph):
    """Operations of `graph` that a TPU cannot run, and those with open shapes."""
    names = {op.type for op in operations(graph)} & set(REFUSED)
    open_shapes = [
        op.name
        for op in operations(graph)
        for output in op.outputs
        if output.dtype not in (tf.resource, tf.variant)
        and not output.shape.is_fully_defined()
    ]
    return names, open_shapes


def test_a_step_compiles_and_computes_the_same():
    weights = []
    for compiled in (False, True):
        keras.utils.set_random_seed(5)
        model, step = model_and_step(OneDevice())
        function = tf.function(step, jit_compile=compiled)
        totals = [function(TOKENS, TARGETS, WEIGHTS) for _ in range(2)]
        weights.append([*model.get_weights(), np.array(totals)])
    for one, other in zip(*weights, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)


def test_what_a_tpu_refuses_is_not_in_a_replicas_step():
    strategy = strategy_of("mirrored", 2)
    with strategy.scope():
        _, step = model_and_step()
    halves = [
        strategy.experimental_distribute_values_from_function(
            lambda context, a=array: tf.constant(
                np.split(a, 2)[context.replica_id_in_sync_group]
            )
        )
        for array in (
            np.tile(TOKENS, [2, 1]),
            np.tile(TARGETS, [2, 1, 1]),
            np.tile(WEIGHTS, 2),
        )
    ]
    # Traced, not run: XLA on a CPU has no several replicas.
    run = tf.function(lambda *parts: strategy.run(step, args=parts), jit_compile=True)
    assert refused(run.get_concrete_function(*halves).graph) == (set(), [])


def test_what_a_tpu_refuses_is_found():
    @tf.function(input_signature=[tf.TensorSpec([4])])
    def step(x):
        tf.print(x)
        return tf.boolean_mask(x, x > 0)

    names, open_shapes = refused(step.get_concrete_function().graph)
    assert {"Where", "PrintV2"} <= names
    assert open_shapes


@pytest.mark.parametrize("microbatches", [1, 2])
def test_a_prepared_model_compiles(microbatches):
    histories = []
    for compiled in (False, True):
        keras.utils.set_random_seed(5)
        model = keras.Sequential([keras.Input([3]), keras.layers.Dense(2)])
        rule = keras.optimizers.SGD(0.1, global_clipnorm=0.5)
        model.compile(rule, "mse", jit_compile=compiled)
        distloss.prepare(model, microbatches=microbatches)
        data = TOKENS.astype("float32"), TARGETS[:, 0]
        fitted = model.fit(*data, sample_weight=WEIGHTS, epochs=2, verbose=0)
        histories.append([*fitted.history["loss"], *model.get_weights()[0].ravel()])
    np.testing.assert_allclose(*histories, rtol=1e-5)


def launched(*arguments):
    """What scripts/launch_tpu prints and returns, where no gcloud is."""
    script = [sys.executable, ROOT / "scripts" / "launch_tpu", *arguments]
    done = subprocess.run(
        script, capture_output=True, text=True, cwd=ROOT, timeout=60, env={"PATH": ""}
    )
    return done.returncode, done.stdout.splitlines(), done.stderr


def test_the_launcher_says_what_it_would_run():
    program = "examples/tpu_digits.py"
    code, (here,), _ = launched("--dry-run", program, "--epochs", "2")
    assert code == 0
    assert here.startswith("env TPU_NAME=local")
    assert here.endswith("examples/tpu_digits.py --epochs 2")
    where = ("--tpu", "mine", "--zone", "us-central2-b", "--pip", "scikit-learn")
    for pod, settings in ((), "TPU_NAME=local"), (("--pod",), "TPU_LOAD_LIBRARY=0"):
        code, lines, _ = launched(*where, *pod, "--dry-run", program)
        assert code == 0
        words = [shlex.split(line) for line in lines]
        assert [w[4] for w in words] == ["ssh", "scp", "ssh", "ssh"]
        workers = [x for w in words for x in w if x.startswith("--worker")]
        assert workers == ["--worker=all"] * 3 + ["--worker=0"]
        assert settings in words[-1][-1]
        assert "cd distloss-launched/examples && env TPU_NAME=" in words[-1][-1]
        assert words[2][-1].endswith("&& python3 -m pip install scikit-learn")
        copied = [pathlib.Path(w) for w in words[1][6:-5]]
        assert all((ROOT / path).exists() for path in copied)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--dry-run", "nowhere.py"), "no file nowhere.py"),
        (("--tpu", "mine", "README.md"), "--tpu mine needs the --zone"),
        (("--pod", "README.md"), "go with --tpu NAME"),
        (("README.md",), "no TPU on this machine"),
        (("--tpu", "mine", "--zone", "z", "README.md"), "no gcloud"),
    ],
)
def test_the_launcher_says_what_is_wrong(arguments, says):
    code, lines, error = launched(*arguments)
    assert (code, lines) == (2, [])
    assert says in error
