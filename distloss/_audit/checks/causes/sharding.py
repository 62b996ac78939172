"""Who gets which rows of a data set: each row should go to one replica.

A row is known by a digest of all that it holds.
"""

from __future__ import annotations

import itertools
from collections import Counter

from distloss._audit.checks.cause import Cause, Remedy
from distloss._audit.checks.check import Check, Sharding
from distloss._audit.report.findings import Finding

DEALT_TWICE = Cause(
    "batch-dealt-twice",
    "The data set gives the same rows to several replicas: each of them counts several "
    "times, and the batch is that much smaller than it looks.",
    Remedy(
        "Let tf.distribute split batches (strategy.experimental_distribute_dataset), "
        "or shard the rows yourself: dataset.shard(context.num_input_pipelines, "
        "context.input_pipeline_id), in batches of "
        "context.get_per_replica_batch_size(global_batch_size). With Horovod: "
        "dataset.shard(hvd.size(), hvd.rank()), or another order on each process."
    ),
    made_with="data",
)

GROWS_WITH_REPLICAS = Cause(
    "batch-grows-with-replicas",
    "Each replica gets a batch of its own size, so the batch of all of them is another "
    "one than on one replica.",
    Remedy(
        "Batch by context.get_per_replica_batch_size(global_batch_size) in the "
        "function that is given to distribute_datasets_from_function."
    ),
    made_with="data",
)


def wrongly_sharded(on_one: Sharding, on_many: Sharding) -> Finding | None:
    """What is wrong with a batch on N replicas, given the one that one replica gets."""
    whole, dealt = (
        Counter(itertools.chain.from_iterable(parts)) for parts in (on_one, on_many)
    )
    rows, expected, count = sum(dealt.values()), sum(whole.values()), len(on_many)
    # A row may be in the data twice; then it is so on one replica.
    again = sum(max(0, times - max(1, whole[row])) for row, times in dealt.items())
    sizes = ", ".join(str(len(part)) for part in on_many)
    shown = f"{count} replicas get {sizes} rows"
    if again:
        evidence = f"{shown}, {again} of them for the second time or more"
        return DEALT_TWICE.finding(count, rows / (rows - again), evidence)
    if rows != expected:
        evidence = f"{shown}; one replica gets {expected}"
        return GROWS_WITH_REPLICAS.finding(count, rows / max(1, expected), evidence)
    return None


CHECK = Check(
    "sharding", (DEALT_TWICE, GROWS_WITH_REPLICAS), on_sharding=wrongly_sharded
)
