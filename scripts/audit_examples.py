"""Audits the scripts in examples/ as they are, and prints what the audit said of each.

An example compares: it trains in several ways, the first of them mostly plain Keras on
one device. The audit looks at the first training step, so that it names the bug that
the example is about; where the first way is right, it finds nothing. Some examples do
not come to a training step, since they start others, or check their own numbers.

A verdict that is not the one expected ends this with exit code 1.

    python scripts/audit_examples.py                     # some five minutes
    python scripts/audit_examples.py keras_fit prepare   # these only
"""

import argparse
import json
import pathlib
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).parent.parent
NO_STEP, RIGHT = "no verdict", "right"
# By the file: the causes on 2 replicas, and what its first training step is.
EXPECTED = {
    "audit_example": ([NO_STEP], "calls audit() itself"),
    "clipping": ([NO_STEP], "a step that is given no rows"),
    "custom_loop": ([RIGHT], "a loop with DistributedLoss"),
    "horovod_digits": ([RIGHT], "fit of a prepared model"),
    "keras_fit": (["mean-of-means", "empty-replica"], "plain Keras, a short batch"),
    "masked_sequences": (["mean-of-means"], "plain Keras, masks"),
    "microbatches": ([RIGHT], "plain Keras, one full batch"),
    "mixed_precision": (["overflow-not-agreed"], "plain LossScaleOptimizer"),
    "multi_worker": ([NO_STEP], "starts workers, and waits for them"),
    "own_step_adversarial": (
        ["unexplained", "clip-before-sum"],
        "plain Keras, three updates of raw means in one step",
    ),
    "own_step_autoencoder": (["sum-of-means"], "plain Keras, raw means"),
    "own_step_distillation": (
        ["mean-of-means", "empty-replica"],
        "plain Keras, a short batch",
    ),
    "prepare": (
        ["mean-of-means", "empty-replica", "clip-before-sum"],
        "plain Keras, a short batch, global_clipnorm",
    ),
    "row_weighted_loop": (["sum-of-means", "clip-before-sum"], "a loop of raw means"),
    "test_one_update": ([NO_STEP], "a test, for pytest"),
    "three_reductions": ([NO_STEP], "no model, and expects 4 replicas"),
    "tpu_digits": ([RIGHT], "a loop with DistributedLoss"),
    "two_towers": (
        ["empty-replica", "not-decomposable", "sparse-slices-apart"],
        "negatives of one replica, Adagrad of embeddings",
    ),
    "vae_add_loss": (["divided-twice"], "plain Keras, a sum in add_loss"),
    "wrong_scaling": ([NO_STEP], "no model, and expects 4 replicas"),
}


def audited(name: str, folder: pathlib.Path) -> tuple[list[str], str, float]:
    """The causes that the audit names, where, and the seconds that it took."""
    output = folder / f"{name}.json"
    engine = "horovod" if name.startswith("horovod") else "strategy"
    command = [sys.executable, "-m", "distloss", "audit", f"examples/{name}.py"]
    command += ["--replicas", "1,2", "--engine", engine]
    command += ["--format", "json", "--output", str(output)]
    started = time.monotonic()
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, check=False
    )
    seconds = time.monotonic() - started
    if done.returncode not in (0, 1):
        lines = done.stderr.strip().splitlines() or ["it said nothing"]
        return [NO_STEP], lines[-1], seconds
    findings = json.loads(output.read_text())["findings"]
    if not findings:
        return [RIGHT], "", seconds
    place = findings[0]["location"] or {"file": "?", "line": 0}
    causes = list(dict.fromkeys(finding["cause"] for finding in findings))
    return causes, f"{place['file']}:{place['line']}", seconds


def main() -> int:
    """Audits, prints a table, and says whether all is as expected."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", help="of examples; all, if there is none")
    names = parser.parse_args().names or list(EXPECTED)
    wrong = []
    print("| example | first training step | verdict | where, or why not | s |")
    print("|---|---|---|---|---|", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        for name in names:
            causes, where, seconds = audited(name, pathlib.Path(folder))
            expected, step = EXPECTED[name]
            if causes != expected:
                wrong.append(f"{name}: expected {expected}, got {causes}")
            told = f"{', '.join(causes)} | {where[:150]} | {seconds:.0f}"
            print(f"| {name} | {step} | {told} |", flush=True)
    print("\n".join(wrong) or "all as expected", file=sys.stderr)
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main())
