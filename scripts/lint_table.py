"""What `distloss lint` finds and mends in the zoo, and what an audit says of that.

Each entry of `examples/zoo` is linted twice, `wrong` and `mended`; what is found in
`wrong` is mended in a copy, and the copy is audited, one at a time. The table goes into
the README of the zoo.

    scripts/lint_table                   # audits mended copies: a quarter of an hour
    scripts/lint_table --reports FOLDER  # keeps reports, and uses kept ones
    scripts/lint_table --no-audit        # seconds; the table is only printed
"""

import argparse
import json
import pathlib
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass

from zoo_table import ROOT, ZOO, entries

from distloss._lint.check import check_file
from distloss._lint.files import Target
from distloss._lint.fixes.mending import difference, mended

README = ZOO / "README.md"
BEGIN, END = "<!-- table: scripts/lint_table.py -->", "<!-- end of lint table -->"
SAME = {"batch-dealt-twice": "batch-grows-with-replicas"}  # lint cannot count rows
NOT_VISIBLE = {
    "a26_slices_apart": "whether an index comes twice is in the data",
    "d01_no_broadcast": "asked of scripts only, of which all is seen",
    "d02_hook_of_keras_2": "which methods Keras calls is not in the program",
    "d03_batch_norm_of_a_process": "it advises under strategies only",
    "d04_whitened_by_hand": "moments are not followed",
    "d05_average_shown": "who has how many rows is in the data",
    "d08_rate_times_size": "an update by hand is not followed",
    "d09_clipped_before_allreduce": "an order that arguments decide is not followed",
    "d11_same_rows_everywhere": "rows that are taken away are not followed",
    "d12_weights_averaged": "sums of weights are not followed",
    "d13_adam_before_the_average": "an update by hand is not followed",
    "d15_every_fourth_step": "which step it is, is in the data",
    "d19_slices_left_out": "which gradients are sparse is not in the program",
    "d20_tape_and_optimizer": "an `apply` of one's own is not followed",
    "d21_train_step_of_fit": "who has how many rows is in the data",
    "d23_rate_of_each_process": "learning rates are not followed",
    "d24_weight_decay_summed": "what depends on weights only is not followed",
    "d25_pairs_used_up": "that `zip` gives its pairs once is not followed",
    "e03_distance_to_old_weights": "that a term is of weights only is in a loop",
    "f01_one_replica_clips": "what a condition on the rank does is not followed",
    "f02_own_norm": "that a factor differs by replica is in its making",
    "f03_raw_update": "raw operations are not known",
    "f04_first_replica_only": "updates without an optimizer are not followed",
    "f05_last_bucket_dropped": "how many gradients fill a bucket is not counted",
    "f06_collectives_in_other_order": "the order of collectives is not compared",
    "f07_optimizer_of_a_copy": "of which model variables are is not followed",
    "f08_update_of_a_name": "updates without an optimizer are not followed",
    "f09_names_of_keras_2": "what names match is known when it runs",
    "f10_accumulators_kept": "what variables keep between steps is not followed",
    "f11_sums_in_train_step": "what variables keep between steps is not followed",
    "g01_scaled_by_rows": "a part scaled by rows may be right: its mean is by tokens",
    "g05_parts_in_train_step": "sums in a loop that are no gradients at first",
    "g07_gathered_over_local": "what is shown of a loop is not judged",
    "g10_count_of_pairs": "which replicas a sum is over is in an index",
    "g11_first_part_counts": "of which rows a count is, is in a slice",
    "g12_chunks_of_a_loss": "named in its line as `mean-of-means`, of a chunk",
    "g17_count_in_float16": "how many tokens there are is in the data",
    "g18_longest_text": "a maximum is no count",
    "g19_count_of_all_and_mean": "a sum over replicas inside a loss is not followed",
}


@dataclass
class Row:
    """One line of the table.

    Attributes:
      name: of the entry.
      cause: what the audit calls it.
      line: where lint found that in `wrong`, or None.
      alarms: what it found in `mended`.
      mend: "certain", "if the audit agrees" or "".
      changed: lines that the mend changes.
      agrees: what the audit says of the mended copy; None if it was not asked.
      twice: lines that mending once more changes.
    """

    name: str
    cause: str
    line: int | None
    alarms: int
    mend: str = ""
    changed: int = 0
    agrees: bool | None = None
    twice: int = 0


def looked_at(name: str, cause: str) -> tuple[Row, str]:
    """What lint makes of an entry, and the text of the mended copy."""
    path = ZOO / f"{name}.py"
    found, _ = check_file(Target(path, "wrong"))
    alarms, _ = check_file(Target(path, "mended"))
    rule = SAME.get(cause, cause)
    lines = [finding.line for finding in found if finding.rule == rule]
    row = Row(name, cause, min(lines, default=None), len(alarms))
    text = path.read_text()
    row.alarms += mended(Target(path, "mended"), text, certain=False) != text
    for kind, certain in (("certain", True), ("if the audit agrees", False)):
        after = mended(Target(path, "wrong"), text, certain=certain)
        if after != text:
            row.mend, row.changed = kind, changed_lines(text, after)
            again = mended(Target(path, "wrong"), after, certain=certain)
            row.twice = changed_lines(after, again)
            return row, after
    return row, text


def changed_lines(before: str, after: str) -> int:
    """Lines that are new or other than before."""
    lines = difference(before, after, "").splitlines()
    return sum(line.startswith("+") and not line.startswith("+++") for line in lines)


def audited(name: str, text: str, engine: str, folder: pathlib.Path) -> bool | None:
    """Whether the mended copy agrees."""
    output = folder / f"{name}.lint.json"
    if not output.exists():
        print(f"audits {name}", file=sys.stderr, flush=True)
        with tempfile.TemporaryDirectory() as place:
            for helper in ZOO.glob("_*.py"):
                shutil.copy(helper, place)
            copy = pathlib.Path(place, f"{name}.py")
            copy.write_text(text)
            command = [sys.executable, "-m", "distloss", "audit", f"{copy}:wrong"]
            command += ["--replicas", "1,2", "--engine", engine]
            command += ["--format", "json", "--output", str(output)]
            subprocess.run(command, check=False, cwd=ROOT)
    if not output.exists():
        return None
    return bool(json.loads(output.read_text())["agrees"])


def table(rows: list[Row]) -> list[str]:
    """The rows as Markdown, and the sums."""
    lines = ["| entry | cause | found in line | mended | lines | audit afterwards |"]
    lines += ["|---|---|---|---|---|---|"]
    words = {True: "agrees", False: "differs", None: ""}
    for row in rows:
        found = row.line or f"not visible: {NOT_VISIBLE.get(row.name, 'missed')}"
        cells = [f"[{row.name}]({row.name}.py)", f"`{row.cause}`", found, row.mend]
        cells += [row.changed or "", words[row.agrees]]
        lines.append(f"| {' | '.join(map(str, cells))} |")
    found = sum(row.line is not None for row in rows)
    alarms = sum(row.alarms for row in rows)
    agree = [row for row in rows if row.agrees]
    certain = sum(row.mend == "certain" for row in agree)
    longest = max((row.changed for row in agree), default=0)
    lines += [
        "",
        f"Found: {found} of {len(rows)}; in what is mended: {alarms}. Agree after "
        f"mending: {len(agree)} ({certain} by `lint --fix`, the others by "
        f"`audit --fix`), with at most {longest} changed lines.",
    ]
    return lines


def write(lines: list[str]) -> None:
    """Puts the table between its markers."""
    before, _, rest = README.read_text().partition(BEGIN)
    _, _, after = rest.partition(END)
    body = "\n".join(["", *lines, ""])
    README.write_text(f"{before}{BEGIN}\n{body}\n{END}{after}")


def problems(rows: list[Row]) -> list[str]:
    """What is not as promised."""
    found = [f"{row.name}: found in mended" for row in rows if row.alarms]
    found += [f"{row.name}: mends twice" for row in rows if row.twice]
    missed = [row for row in rows if row.line is None and row.name not in NOT_VISIBLE]
    return found + [f"{row.name}: {row.cause} is not found" for row in missed]


def main() -> int:
    """Lints, mends, audits, writes."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--reports", type=pathlib.Path, help="keeps reports here")
    parser.add_argument("--no-audit", action="store_true", help="only prints")
    options = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.reports or pathlib.Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        for name, entry in entries().items():
            row, text = looked_at(name, entry.cause)
            if row.mend and not options.no_audit:
                row.agrees = audited(name, text, entry.engine, folder)
            rows.append(row)
    lines = table(rows)
    print("\n".join(lines))
    if not options.no_audit:
        write(lines)
    for problem in problems(rows):
        print(problem, file=sys.stderr)
    return 1 if problems(rows) else 0


if __name__ == "__main__":
    sys.exit(main())
