"""Audits right training steps, drawn from seeds: none may be found wrong.

    python scripts/right_models.py --count 100 [--seed 0] [--kinds dense,masks]
    python scripts/right_models.py --mutants --count 30
    python scripts/right_models.py --table FILE...

With `--mutants` it plants a mistake in each, and the audit is to name its cause. Prints
a line for each case that is not as it should be, with the command that repeats it
alone, and a table at the end; 1 if there was any such case. `--output FILE` appends a
line of JSON for each case, so that `--table` can add up portions.

A right step takes about 2 to 5 CPU seconds, under Horovod 6 to 10, a mutant 3: each
process has one with TensorFlow loaded, of which the children of its audits are forks.
"""

import argparse
import concurrent.futures
import itertools
import json
import multiprocessing
import sys

from _right_models import audited, tables


def _arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=100, help="cases")
    parser.add_argument("--seed", type=int, default=0, help="of the first case")
    parser.add_argument("--kinds", help="only seeds of these kinds, or mutations")
    parser.add_argument("--mutants", action="store_true", help="plant mistakes")
    parser.add_argument("--jobs", type=int, default=2, help="audits at a time")
    parser.add_argument("--output", metavar="FILE", help="append a line for each case")
    parser.add_argument("--table", nargs="+", metavar="FILE", help="audit nothing")
    return parser.parse_args()


def _cases(options):
    """The cases to run; imports Keras, which the audits' own processes do not need."""
    from _right_models import cases

    names = options.kinds.split(",") if options.kinds else None
    cases.check(names, options.mutants)
    found = (
        case
        for seed in itertools.count(options.seed)
        if (case := cases.case_of(seed, options.mutants))
        and (names is None or {case.kind, case.mutation} & {*names})
    )
    return list(itertools.islice(found, options.count))


def _outcomes(options):
    """What came of each case, as it comes."""
    cases = _cases(options)
    # Each process has one with TensorFlow, of which the audits' children are forks.
    with concurrent.futures.ProcessPoolExecutor(
        options.jobs,
        multiprocessing.get_context("spawn"),
        initializer=audited.fork_from_one_process,
    ) as pool:
        for done in concurrent.futures.as_completed(
            [pool.submit(audited.outcome_of, case) for case in cases]
        ):
            yield done.result().as_record()


def main():
    """Prints what is not as it should be, and a table; 1 if there was anything."""
    options = _arguments()
    if options.table:
        print(tables.table(tables.read(options.table)))
        return 0
    records = []
    for record in _outcomes(options):
        records.append(record)
        line = tables.line(record)
        print(line, file=sys.stdout if tables.is_wrong(record) else sys.stderr)
        sys.stdout.flush()
        if options.output:
            with open(options.output, "a") as file:
                print(json.dumps(record), file=file)
    print(tables.table(records))
    return int(any(map(tables.is_wrong, records)))


if __name__ == "__main__":
    sys.exit(main())
