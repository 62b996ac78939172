"""Audits correct models of many kinds over random seeds: none may be found wrong.

    python scripts/false_alarms.py [seeds] [first]

About 10 s per seed on 2 quiet cores; each seed takes the next kind of model.
"""

import os
import pathlib
import sys
import time

import distloss

TESTS = pathlib.Path(__file__).parent.parent / "tests" / "helpers"
KINDS = {
    "ordinary.py": (
        "cnn",
        "gru_with_masks",
        "transformer_block",
        "embeddings",
        "two_outputs",
        "mixed_precision",
        "synchronized_batch_norm",
    ),
    "builds_false_alarms.py": (
        "one_of_two_optimizers_clips",
        "two_optimizers_clip_each_its_way",
        "average_of_weights_beside_clipping",
        "clipped_activations",
        "clipped_by_hand_after_the_sum",
        "sharpness_of_the_batch",
        "half_of_a_sum",
        "sum_with_a_schedule",
        "sum_of_scaled_inputs",
        "sum_of_counted_penalties",
        "sum_of_many",
        "scalar_weight",
        "width_as_weight",
        "tokens_added_up",
        "positions_added_up",
        "tokens_with_sgd",
        "dense_tokens_with_adam",
        "two_means_shown",
        "a_mean_beside_a_sum",
        "two_tasks_of_one_model",
        "noise_of_operations",
        "noise_without_state",
        "noise_of_generators",
        "noise_of_keras",
        "noise_while_traced",
        "mixed_rows",
        "augmented_images",
        "drawn_without_seed",
        "added_sum_is_added",
        "added_weights_are_shared",
    ),
}


def main(seeds=50, first=0):
    """Prints a line per seed; 1 if anything was found."""
    alarms = 0
    kinds = [(file, kind) for file, names in KINDS.items() for kind in names]
    for seed in range(first, first + seeds):
        file, kind = kinds[seed % len(kinds)]
        os.environ["DISTLOSS_SEED"] = str(seed)
        started = time.monotonic()
        report = distloss.audit(f"{TESTS / file}:{kind}", replicas=(1, 4))
        alarms += not report.agrees
        worst = max(m.error for m in report.measured)
        found = [(f.cause, f.evidence) for f in report.findings] or "agrees"
        seconds = time.monotonic() - started
        print(f"{seed:3} {kind:36} {worst:8.1e} {seconds:5.1f} s  {found}", flush=True)
    print(f"{alarms} false alarms in {seeds}")
    return int(alarms > 0)


if __name__ == "__main__":
    sys.exit(main(*map(int, sys.argv[1:])))
