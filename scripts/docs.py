"""Lays out the pages of the site, builds it with MkDocs, and checks its links.

scripts/docs                 # makes the environment, then runs this
scripts/docs --site FOLDER   # another place than site/
"""

import argparse
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parent.parent
OURS = ROOT / "scripts" / "_docs"
PAGES = (
    "README.md",
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "LICENSE",
    "distloss/README.md",
    "distloss/_lint/README.md",
)
COMMENT = re.compile(r"<!--.*?-->\n?", re.DOTALL)


def requirements() -> list[str]:
    """What the extra `docs` of pyproject.toml names."""
    text = (ROOT / "pyproject.toml").read_text()
    (line,) = re.findall(r"^docs = \[(.*)\]$", text, re.MULTILINE)
    return re.findall(r'"([^"]+)"', line)


def lay_out(folder: pathlib.Path) -> None:
    """The pages, and all that they link to, in the folders of the checkout."""
    pages = folder / "docs"
    shutil.copytree(ROOT / "examples", pages / "examples")
    shutil.copytree(OURS / "api", pages / "api")
    for name in PAGES:
        (pages / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, pages / name)
    for page in pages.rglob("*.md"):  # what is hidden there is for the tests
        page.write_text(COMMENT.sub("", page.read_text()))
    shutil.copy(OURS / "mkdocs.yml", folder)


def build(folder: pathlib.Path, site: pathlib.Path) -> int:
    """Runs MkDocs, for which a warning is an error; its exit code."""
    settings = {"DISTLOSS_ROOT": str(ROOT), "DISTLOSS_SITE": str(site)}
    settings["NO_MKDOCS_2_WARNING"] = "1"  # about a release that is not this one
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet"]
    done = subprocess.run(
        command, cwd=folder, env={**os.environ, **settings}, check=False
    )
    return done.returncode


def check_links(site: pathlib.Path) -> int:
    """Whether links and pictures of the pages are there; exit code of linkchecker."""
    command = [sys.executable, "-m", "linkcheck", "--no-warnings", "--no-status"]
    return subprocess.run([*command, str(site / "index.html")], check=False).returncode


def main() -> int:
    """Builds and checks."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--site", type=pathlib.Path, default=ROOT / "site")
    parser.add_argument("--requirements", action="store_true", help="prints them")
    options = parser.parse_args()
    if options.requirements:
        print("\n".join(requirements()))
        return 0
    with tempfile.TemporaryDirectory() as folder:
        lay_out(pathlib.Path(folder))
        failed = build(pathlib.Path(folder), options.site.resolve())
    failed = failed or check_links(options.site.resolve())
    if not failed:  # browsers refuse to search in files
        print(f"docs: python3 -m http.server --directory {options.site}")
    return failed


if __name__ == "__main__":
    sys.exit(main())
