"""Lays out the pages of the site, builds it with MkDocs, and checks its links.

scripts/docs                 # makes the environment, then runs this
scripts/docs --site FOLDER   # another place than site/
"""

import argparse
import functools
import http.server
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile
import threading
from typing import Any

ROOT = pathlib.Path(__file__).resolve().parent.parent
OURS = ROOT / "scripts" / "_docs"
PAGES = (
    "README.md",
    "LICENSE",
    "distloss/CHANGELOG.md",
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
    settings["DISTLOSS_SECTIONS"] = str(OURS / "sections.py")
    settings["NO_MKDOCS_2_WARNING"] = "1"  # about a release that is not this one
    command = [sys.executable, "-m", "mkdocs", "build", "--strict"]
    done = subprocess.run(
        command,
        cwd=folder,
        env={**os.environ, **settings},
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )
    # with --quiet, --strict would count no warnings
    lines = done.stderr.splitlines()
    told = [line for line in lines if not line.startswith("INFO")]
    print("\n".join(told), file=sys.stderr)
    return done.returncode


class Files(http.server.SimpleHTTPRequestHandler):
    """Serves files, and says nothing of it."""

    def end_headers(self) -> None:
        """Tells linkchecker that it need not spare this server."""
        self.send_header("LinkChecker", "welcome")
        super().end_headers()

    def log_message(self, *_: Any) -> None:
        """Nothing."""


class Server(http.server.ThreadingHTTPServer):
    """Serves somebody who hangs up when he has seen enough."""

    def handle_error(self, *_: Any) -> None:
        """Nothing: what was not served is a wrong link."""


def check_links(site: pathlib.Path) -> int:
    """Whether links and pictures of the pages are there; exit code of linkchecker."""
    serve = functools.partial(Files, directory=site)
    with Server(("127.0.0.1", 0), serve) as server:
        # not read as files: linkchecker gives up the rights of root, which it may need
        threading.Thread(target=server.serve_forever, daemon=True).start()
        command = [sys.executable, "-m", "linkcheck", "--no-status"]
        command += ["--config", str(OURS / "linkchecker.ini")]
        address = f"http://127.0.0.1:{server.server_port}/index.html"
        done = subprocess.run([*command, address], check=False)
        server.shutdown()
    return done.returncode


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
