"""What many cases came to, in words."""

import collections
import json
import statistics

WANTED = ("agrees", "right cause")


def read(paths):
    """The records of these files; of a case that is in several, the last one."""
    found = {}
    for path in paths:
        with open(path) as file:
            for record in map(json.loads, file):
                found[record["seed"], record["mutation"]] = record
    return list(found.values())


def is_wrong(record):
    """Whether it is not as it should be."""
    return record["verdict"] not in WANTED


def line(record):
    """A case in a line, and how to repeat it where it is not as it should be."""
    found = ", ".join(record["found"])
    what = record["mutation"] or record["kind"]
    text = f"{record['seed']:6} {what:28} {record['cpu']:5.1f} s  {record['verdict']}"
    text += f": {found}" if found else ""
    if is_wrong(record):
        evidence = "".join(f"\n         {one}" for one in record["evidence"])
        text += f"{evidence}\n         {record['command']}"
    return text


def table(records):
    """A row for each kind, or mutation, and one for all, as Markdown."""
    verdicts = [v for v, _ in collections.Counter(_verdicts(records)).items()]
    verdicts = sorted(verdicts, key=lambda v: (v not in WANTED, v))
    groups = collections.defaultdict(list)
    for record in records:
        groups[record["mutation"] or record["kind"]].append(record)
    lines = [f"| kind | cases | {' | '.join(verdicts)} | CPU s, median |"]
    lines += ["|---|" + "---:|" * (len(verdicts) + 2)]
    rows = [*sorted(groups.items()), ("**all**", records)]
    return "\n".join([*lines, *(_row(name, group, verdicts) for name, group in rows)])


def _verdicts(records):
    return (record["verdict"] for record in records)


def _row(name, group, verdicts):
    counted = collections.Counter(_verdicts(group))
    seconds = statistics.median(record["cpu"] for record in group) if group else 0.0
    cells = [name, str(len(group)), *(str(counted[v]) for v in verdicts)]
    return f"| {' | '.join(cells)} | {seconds:.1f} |"
