"""Audits the zoo, and writes its two tables into its README.

Each entry of `examples/zoo` is audited twice, `wrong` and `mended`. The table says what
the audit said; an entry whose verdict is not the one that it promises is an error.

    python scripts/zoo_table.py                     # audits everything: half an hour
    python scripts/zoo_table.py --reports FOLDER    # keeps reports, and uses kept ones
"""

import argparse
import ast
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
        counts = "1,2,3" if entry.engine == "horovod" else "1,2,4"
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
    return kept(output)


def said(report: dict | None) -> str:
    """The causes of a report, each with alpha and rho on most replicas, as Markdown."""
    if report is None:
        return "not audited yet"
    last = {finding["cause"]: finding for finding in report["findings"]}
    return "<br>".join(
        f"`{cause}`, {_numbers(finding)}" for cause, finding in last.items()
    )


def _numbers(finding: dict) -> str:
    where = f"N={finding['replicas']}" if finding["replicas"] > 1 else "one device"
    alpha = f"alpha {float(finding['scale']):.3g}"
    rho = float(finding["residual"])
    return f"{where}: {alpha}" + (f", rho {rho:.2g}" if rho > 1e-4 else "")


def row(name: str, entry: Entry, report: dict | None) -> str:
    """One line of the table."""
    where = "<br>".join(links(entry.reported))
    title = f"[{entry.title}]({name}.py)"
    cells = [entry.bug, title, where, said(report), entry.mended_by]
    return f"| {' | '.join(cells)} |"


def table(folder: pathlib.Path, *, kept_only: bool) -> tuple[list[str], list[str]]:
    """The lines of the table, and what is not as promised."""
    lines = ["| | bug | reported in | what the audit says | mended by |"]
    lines += ["|---|---|---|---|---|"]
    problems = []
    for name, entry in entries().items():
        wrong, mended = (
            kept(folder / f"{name}.{build}.json")
            if kept_only
            else audited(name, build, entry, folder)
            for build in ("wrong", "mended")
        )
        if wrong is None or mended is None:
            problems.append(f"{name}: no verdict")
            lines.append(row(name, entry, wrong))
            continue
        causes = {finding["cause"] for finding in wrong["findings"]}
        if entry.cause not in causes:
            problems.append(f"{name}: {entry.cause} is not among {sorted(causes)}")
        if not mended["agrees"]:
            found = [finding["cause"] for finding in mended["findings"]]
            problems.append(f"{name}: what is mended does not agree, {found}")
        lines.append(row(name, entry, wrong))
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
    options = parser.parse_args()
    folder = options.reports
    with tempfile.TemporaryDirectory() as temporary:
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)
        lines, problems = table(
            folder or pathlib.Path(temporary), kept_only=options.kept_only
        )
    write(AUDITED, lines)
    write(WITHOUT_ENTRY, not_run())
    for problem in problems:
        print(problem, file=sys.stderr)
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
