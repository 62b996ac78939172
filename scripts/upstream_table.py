"""Runs each script of `examples/upstream`, and writes what was seen into its table.

What a script ended with in an environment is kept in `seen.json` beside the scripts,
from one call to the next, as long as the script is as it was. The table is made of it.

    scripts/upstream_table                          # the environment that it runs in
    scripts/upstream_table --python A/bin/python B/bin/python
    scripts/upstream_table --only masks weights --timeout 60
    scripts/upstream_table --table                  # runs nothing
"""

import argparse
import json
import os
import pathlib
import re
import signal
import subprocess
import sys
import textwrap
import zlib
from collections.abc import Iterator

FOLDER = pathlib.Path(__file__).parent.parent / "examples" / "upstream"
README, SEEN = FOLDER / "README.md", FOLDER / "seen.json"
BEGIN, END = "<!-- table: scripts/upstream_table.py -->", "<!-- end of table -->"

PROJECTS = {"horovod": "Horovod", "tensorflow": "TensorFlow"}  # by how names begin
WRONG, RIGHT = 1, 0
Ended = int | str  # WRONG, RIGHT, or in words why the script could not say so

# Asked in each environment. `.built-for` is what scripts/install_horovod leaves.
VERSIONS = """
import importlib.metadata as of, importlib.util, json, pathlib
versions = {}
nightly = {"keras-nightly": "keras", "tf-nightly": "tensorflow"}
for name in (*nightly, "tensorflow", "keras", "tf-keras", "horovod"):
    try:
        versions[nightly.get(name, name)] = of.version(name)
    except of.PackageNotFoundError:
        pass
place = importlib.util.find_spec("horovod")
if place and (pathlib.Path(place.origin).parent / ".built-for").exists():
    versions["horovod"] += " by install_horovod"
print(json.dumps(versions))
"""


def scripts() -> list[pathlib.Path]:
    """All of them, those of Keras first."""
    return sorted(FOLDER.glob("*.py"), key=lambda path: (is_of_horovod(path), path))


def is_of_horovod(script: pathlib.Path) -> bool:
    """Whether it needs Horovod."""
    return script.stem.startswith("horovod_")


def defect(script: pathlib.Path) -> str:
    """What is wrong, in a sentence."""
    return script.read_text().removeprefix('"""').partition("\n")[0]


def checksum(script: pathlib.Path) -> int:
    """Of what it does, without its docstring."""
    return zlib.crc32(script.read_text().split('"""', 2)[2].encode())


def versions(python: str) -> dict[str, str]:
    """The releases that an interpreter has."""
    done = subprocess.run(
        [python, "-c", VERSIONS], capture_output=True, text=True, check=True
    )
    return json.loads(done.stdout)


def runs(script: pathlib.Path, has: dict[str, str]) -> Iterator[tuple[str, list[str]]]:
    """What a run is of, and its arguments: none, or that it shall use tf-keras."""
    if is_of_horovod(script) and "horovod" not in has:
        return
    found = [(f"Keras {has['keras']}", [])]
    if "sys.argv" in script.read_text() and "tf-keras" in has:
        found.append((f"tf-keras {has['tf-keras']}", ["tf_keras"]))
    for keras, arguments in found:
        if is_of_horovod(script):
            with_keras = f"{keras}, TensorFlow {has['tensorflow']}"
            yield f"Horovod {has['horovod']} ({with_keras})", arguments
        else:
            yield f"{keras} (TensorFlow {has['tensorflow']})", arguments


def ended(code: int, output: str, errors: str) -> Ended:
    """What a script that ended with `code` has shown."""
    said = re.search(r"^expected .*^got ", output, re.MULTILINE | re.DOTALL)
    if said and code in (WRONG, RIGHT):
        return code
    last = (errors.strip().splitlines() or [f"exit code {code}"])[-1]
    return textwrap.shorten(last, 100, placeholder=" ...")


def news(script: pathlib.Path, of: str, end: Ended) -> str:
    """What a test says where a script ended in another way than was seen before."""
    if end == RIGHT:
        return (
            f"mended upstream: {defect(script)} With {of} that is not so any more. Run "
            "scripts/upstream_table, and see which releases still need what mends it.\n"
        )
    return f"{script.name} ended with {end!r} with {of}: see scripts/upstream_table.\n"


def run(python: str, script: pathlib.Path, arguments: list[str], timeout: int) -> Ended:
    """Runs a script."""
    quiet = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", "KERAS_BACKEND": "tensorflow"}
    process = subprocess.Popen(
        [python, str(script), *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=quiet,
        start_new_session=True,  # to end the processes that it starts with it
    )
    try:
        output, errors = process.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        return f"not done in {timeout} seconds"
    print(output, end="")
    return ended(process.returncode, output, errors)


def kept() -> dict[str, dict]:
    """What was seen of each script as it is now."""
    seen = json.loads(SEEN.read_text()) if SEEN.exists() else {}
    return {
        script.stem: seen[script.stem]
        if seen.get(script.stem, {}).get("checksum") == checksum(script)
        else {"checksum": checksum(script), "ended": {}}
        for script in scripts()
    }


def numbers(text: str) -> list[int]:
    """By which versions are sorted."""
    return [int(number) for number in re.findall(r"\d+", text)]


def row(script: pathlib.Path, seen: dict[str, Ended]) -> str:
    """One line of the table."""
    cells: dict[Ended, list[str]] = {WRONG: [], RIGHT: [], "": []}
    for of in sorted(seen, key=numbers, reverse=True):
        why = seen[of]
        cells[why if why in cells else ""].append(
            of if why in cells else f"{of}: {why}"
        )
    project = PROJECTS.get(script.stem.partition("_")[0], "Keras")
    name = f"[{script.stem}]({script.name})"
    lists = ["<br>".join(cell).replace("|", "\\|") for cell in cells.values()]
    return f"| {' | '.join([name, project, defect(script), *lists])} |"


def table(seen: dict[str, dict]) -> list[str]:
    """The lines of the table."""
    return [
        "| script | of | defect | seen in | right in | could not be asked in |",
        "|---|---|---|---|---|---|",
        *(row(script, seen[script.stem]["ended"]) for script in scripts()),
    ]


def text_with(lines: list[str]) -> str:
    """The README with a table of these lines."""
    before, _, rest = README.read_text().partition(BEGIN)
    _, _, after = rest.partition(END)
    body = "\n".join(["", *lines, ""])
    return f"{before}{BEGIN}\n{body}\n{END}{after}"


def main() -> None:
    """Runs, keeps, writes."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    add = parser.add_argument
    add("--python", nargs="+", default=[sys.executable], help="interpreters")
    add("--only", nargs="+", metavar="NAME", help="of scripts; default: all")
    add("--timeout", type=int, default=300, metavar="SECONDS", help="for a script")
    add("--table", action="store_true", help="only writes the table")
    options = parser.parse_args()
    seen = kept()
    for python in [] if options.table else options.python:
        has = versions(python)
        for script in scripts():
            if options.only and script.stem not in options.only:
                continue
            for of, arguments in runs(script, has):
                print(f"{script.stem}: {of}", flush=True)
                end = run(python, script, arguments, options.timeout)
                print(f"ended with {end}\n", flush=True)
                seen[script.stem]["ended"][of] = end
                SEEN.write_text(json.dumps(seen, indent=2, sort_keys=True) + "\n")
    README.write_text(text_with(table(seen)))


if __name__ == "__main__":
    main()
