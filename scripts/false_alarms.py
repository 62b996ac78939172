"""Audits correct models of many kinds over random seeds: none may be found wrong.

    python scripts/false_alarms.py [seeds] [first]

About 10 s per seed on 2 quiet cores; each seed takes the next kind of model.
"""

import os
import pathlib
import sys
import time

import distloss

ORDINARY = pathlib.Path(__file__).parent.parent / "tests" / "ordinary.py"
KINDS = (
    "cnn",
    "gru_with_masks",
    "transformer_block",
    "embeddings",
    "two_outputs",
    "mixed_precision",
    "synchronized_batch_norm",
)


def main(seeds=50, first=0):
    """Prints a line per seed; 1 if anything was found."""
    alarms = 0
    for seed in range(first, first + seeds):
        kind = KINDS[seed % len(KINDS)]
        os.environ["DISTLOSS_SEED"] = str(seed)
        started = time.monotonic()
        report = distloss.audit(f"{ORDINARY}:{kind}", replicas=(1, 4))
        alarms += not report.agrees
        worst = max(m.error for m in report.measured)
        found = [(f.cause, f.evidence) for f in report.findings] or "agrees"
        seconds = time.monotonic() - started
        print(f"{seed:3} {kind:24} {worst:8.1e} {seconds:5.1f} s  {found}", flush=True)
    print(f"{alarms} false alarms in {seeds}")
    return int(alarms > 0)


if __name__ == "__main__":
    sys.exit(main(*map(int, sys.argv[1:])))
