"""Audits the zoo, and writes its two tables into its README.

Each entry of `examples/zoo` is audited twice, `wrong` and `mended`. The table says what
the audit said; an entry whose verdict is not the one that it promises is an error.

    python scripts/zoo_table.py                     # audits everything: half an hour
    python scripts/zoo_table.py --reports FOLDER    # keeps reports, and uses kept ones
    python scripts/zoo_table.py --jobs 2 --only 'd*'    # audits some, side by side
    python scripts/zoo_table.py --before FOLDER     # with what an earlier audit said

Entries with the cause "cannot-tell" are right where the audit names no cause: where it
says `unexplained`, cannot tell, or that it could not be checked.
"""

import argparse
import ast
import collections
import concurrent.futures
import fnmatch
import json
import pathlib
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).parent.parent
ZOO = ROOT / "examples" / "zoo"
README = ZOO / "README.md"
AUDITED = "<!-- table: scripts/zoo_table.py, audited -->"
WITHOUT_ENTRY = "<!-- table: scripts/zoo_table.py -->"
END = "<!-- end of table -->"
CANNOT_TELL = "cannot-tell"  # the cause of an entry of which none is to be named
NOT_CHECKED = 2  # the exit code of an audit without a report
COLLECTED = "defg"  # first letters of the entries that others collected
# How it went with an entry, in the order in which the counts are printed.
RIGHT, UNTOLD, WRONG, MISSED = "right cause", "cannot tell", "wrong", "called right"

sys.path.insert(0, str(ZOO))
from _entry import Entry, links  # noqa: E402
from _not_run import NOT_RUN  # noqa: E402


def entries() -> dict[str, Entry]:
    """Each entry by the name of its file. Reads the files and imports none."""
    found = {}
    for path in sorted(ZOO.glob("[!_]*.py")):
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "ENTRY":
                fields = {
                    kw.arg: ast.literal_eval(kw.value) for kw in node.value.keywords
                }
                found[path.stem] = Entry(**fields)
    return found


def kept(path: pathlib.Path) -> dict | None:
    """The report that is in a file, if there is one."""
    return json.loads(path.read_text()) if path.exists() else None


def audited(name: str, build: str, entry: Entry, folder: pathlib.Path) -> dict | None:
    """The report of the audit, or None where there is none."""
    output = folder / f"{name}.{build}.json"
    if not output.exists():
        print(f"{name}:{build}", file=sys.stderr, flush=True)
        counts = "1,2" if entry.engine == "horovod" else "1,2,4"
        command = [
            sys.executable,
            "-m",
            "distloss",
            "audit",
            f"{ZOO / name}.py:{build}",
        ]
        command += ["--replicas", counts, "--engine", entry.engine]
        command += ["--format", "json", "--output", str(output)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if not output.exists():
            print(done.stderr.strip(), file=sys.stderr)
        if not output.exists() and done.returncode == NOT_CHECKED:
            why = (done.stderr.strip().splitlines() or [""])[-1]
            unknown = {"answer": "cannot tell", "agrees": False, "findings": []}
            output.write_text(json.dumps(unknown | {"why": why}))
    return kept(output)


def said(report: dict | None) -> str:
    """The causes of a report, each with alpha and rho on most replicas, as Markdown."""
    if report is None:
        return "not audited yet"
    if not report["findings"]:
        return report.get("answer", "agrees")
    last = {finding["cause"]: finding for finding in report["findings"]}
    return "<br>".join(
        f"`{cause}`, {_numbers(finding)}" for cause, finding in last.items()
    )


def _numbers(finding: dict) -> str:
    where = f"N={finding['replicas']}" if finding["replicas"] > 1 else "one device"
    alpha = f"alpha {float(finding['scale']):.3g}"
    rho = float(finding["residual"])
    return f"{where}: {alpha}" + (f", rho {rho:.2g}" if rho > 1e-4 else "")


def causes_of(report: dict | None) -> set[str]:
    """The causes that a report names; `unexplained` names none."""
    found = [] if report is None else report["findings"]
    return {finding["cause"] for finding in found} - {"unexplained"}


def outcome(entry: Entry, report: dict | None) -> str:
    """How it went with what is wrong."""
    causes = causes_of(report)
    if entry.cause in causes:
        return RIGHT
    if causes:
        return WRONG
    if report is None:
        return UNTOLD
    if report["agrees"]:
        return MISSED
    return RIGHT if entry.cause == CANNOT_TELL else UNTOLD


def row(
    name: str, entry: Entry, report: dict | None, before: pathlib.Path | None = None
) -> str:
    """One line of the table; `before` is where the reports of an earlier audit are."""
    where = "<br>".join(links(entry.reported))
    title = f"[{entry.title}]({name}.py)"
    cells = [entry.bug, title, where, said(report), entry.mended_by]
    if before is not None:
        cells.insert(3, earlier(name, entry, before))
    return f"| {' | '.join(cells)} |"


def earlier(name: str, entry: Entry, before: pathlib.Path) -> str:
    """How it went in an earlier audit, of an entry that others collected."""
    if name[0] not in COLLECTED:
        return ""
    report = kept(before / f"{name}.wrong.json")
    found = ", ".join(f"`{cause}`" for cause in sorted(causes_of(report)))
    return outcome(entry, report) + (f": {found}" if found else "")


def audit_all(
    chosen: dict[str, Entry], folder: pathlib.Path, *, jobs: int, kept_only: bool
) -> dict[tuple[str, str], dict | None]:
    """The report of each build of each entry, some audits side by side."""
    every = [(name, build) for name in chosen for build in ("wrong", "mended")]
    if kept_only:
        return {key: kept(folder / f"{'.'.join(key)}.json") for key in every}
    with concurrent.futures.ThreadPoolExecutor(jobs) as pool:
        waiting = [pool.submit(audited, *key, chosen[key[0]], folder) for key in every]
    return {key: one.result() for key, one in zip(every, waiting, strict=True)}


def problems_of(
    name: str, entry: Entry, wrong: dict | None, mended: dict | None
) -> list[str]:
    """What is not as an entry promises."""
    found = []
    how = outcome(entry, wrong)
    if how != RIGHT:
        said_causes = sorted(causes_of(wrong))
        found.append(f"{name}: {how}: {entry.cause} is not among {said_causes}")
    if mended is None:
        found.append(f"{name}: no verdict on what is mended")
    elif not mended["agrees"]:
        causes = [finding["cause"] for finding in mended["findings"]]
        found.append(f"{name}: what is mended does not agree, {causes}")
    return found


def counted(
    chosen: dict[str, Entry], reports: dict[tuple[str, str], dict | None]
) -> str:
    """How it went, in a line: also for the guide of the audit."""
    outcomes = collections.Counter(
        outcome(entry, reports[name, "wrong"]) for name, entry in chosen.items()
    )
    told = ", ".join(f"{outcomes[how]} {how}" for how in (RIGHT, UNTOLD, WRONG, MISSED))
    mended = [reports[name, "mended"] for name in chosen]
    agree = sum(one is not None and one["agrees"] for one in mended)
    return f"wrong: {told}, of {len(chosen)}; mended: {agree} of {len(mended)} agree"


def table(
    chosen: dict[str, Entry],
    reports: dict[tuple[str, str], dict | None],
    before: pathlib.Path | None = None,
) -> tuple[list[str], list[str]]:
    """The lines of the table, and what is not as promised."""
    head = ["", "bug", "reported in", "what the audit says", "mended by"]
    if before is not None:
        head.insert(3, "before")
    lines = [f"| {' | '.join(head)} |".replace("|  |", "| |", 1)]
    lines += ["|" + "---|" * len(head)]
    problems = []
    for name, entry in chosen.items():
        wrong, mended = reports[name, "wrong"], reports[name, "mended"]
        problems += problems_of(name, entry, wrong, mended)
        lines.append(row(name, entry, wrong, before))
    return lines, problems


def not_run() -> list[str]:
    """The table of what has no entry."""
    lines = ["| | bug | reported in | why it has no entry |", "|---|---|---|---|"]
    for bug in NOT_RUN:
        where = "<br>".join(links(bug.reported))
        lines.append(f"| {bug.bug} | {bug.title} | {where} | {bug.why}. |")
    return lines


def write(begin: str, lines: list[str]) -> None:
    """Puts `lines` between `begin` and the end of that table."""
    before, _, rest = README.read_text().partition(begin)
    _, _, after = rest.partition(END)
    body = "\n".join(["", *lines, ""])
    README.write_text(f"{before}{begin}\n{body}\n{END}{after}")


def main() -> int:
    """Audits, writes, and says what is not as promised."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--reports", type=pathlib.Path, help="keeps reports here")
    parser.add_argument("--kept-only", action="store_true", help="audits nothing")
    parser.add_argument(
        "--before", type=pathlib.Path, help="reports of an earlier audit, for a column"
    )
    parser.add_argument("--jobs", type=int, default=1, help="audits side by side")
    parser.add_argument(
        "--only", default="*", help="entries, such as 'd*'; the README stays as it is"
    )
    options = parser.parse_args()
    folder = options.reports
    chosen = {n: e for n, e in entries().items() if fnmatch.fnmatch(n, options.only)}
    with tempfile.TemporaryDirectory() as temporary:
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)
        reports = audit_all(
            chosen,
            folder or pathlib.Path(temporary),
            jobs=options.jobs,
            kept_only=options.kept_only,
        )
    lines, problems = table(chosen, reports, options.before)
    if options.only == "*":
        write(AUDITED, lines)
        write(WITHOUT_ENTRY, not_run())
    print(counted(chosen, reports))
    for problem in problems:
        print(problem, file=sys.stderr)
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
