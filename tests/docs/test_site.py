"""The site is built without a warning; what is wrong in a page stops it."""

import os
import shutil
import subprocess
import sys

import pytest
from pages import PAGES, ROOT


def site_of(root, site):
    """What `scripts/docs.py` of a checkout says, and its exit code."""
    return subprocess.run(
        [sys.executable, root / "scripts" / "docs.py", "--site", site],
        env={**os.environ, "PYTHONPATH": ""},
        capture_output=True,
        text=True,
        timeout=200,
    )


def test_the_site_holds_the_pages_and_the_api(tmp_path):
    done = site_of(ROOT, tmp_path)
    assert done.returncode == 0, (done.stdout + done.stderr)[-3000:]
    assert "0 warnings found. 0 errors found." in done.stdout
    for page in PAGES:
        name = page.relative_to(ROOT)
        if name.name == "README.md":
            name = name.parent / "index.md"
        assert (tmp_path / name.with_suffix(".html")).exists(), name
    training = (tmp_path / "api" / "training.html").read_text()
    assert 'id="distloss.prepare"' in training
    assert "into how many parts each replica" in training
    text = (tmp_path / "search" / "search_index.json").read_text()
    assert "sum-of-means" in text
    assert "invisible-code-block" not in text


@pytest.fixture
def checkout(tmp_path):
    """A copy of what the site is made of."""
    for name in ("scripts", "examples", "distloss"):
        shutil.copytree(ROOT / name, tmp_path / name)
    for name in ("README.md", "LICENSE"):
        shutil.copy(ROOT / name, tmp_path)
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    return tmp_path


def test_a_page_that_is_wrong_stops_it(checkout, tmp_path):
    page = checkout / "examples" / "guides" / "limits.md"
    wrong = "\n[a guide](no_such_guide.md), [a heading](fit.md#no-such-heading)\n"
    page.write_text(page.read_text() + wrong)
    source = checkout / "distloss" / "data.py"
    source.write_text(
        source.read_text().replace("      dataset: local", "      x: local")
    )
    done = site_of(checkout, tmp_path / "site")
    assert done.returncode != 0
    for words in ("no_such_guide.md", "#no-such-heading", "Parameter 'x' does not"):
        assert words in done.stderr


def test_a_picture_that_is_not_there_is_found(tmp_path):
    """In HTML, at which MkDocs does not look."""
    page = '<html><a href="b.html">b</a><img src="a.png"></html>'
    (tmp_path / "index.html").write_text(page)
    (tmp_path / "b.html").write_text("<html>b</html>")
    code = "import pathlib, sys, docs; sys.exit(docs.check_links(pathlib.Path('.')))"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": str(ROOT / "scripts")},
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    assert "a.png" in done.stdout
    assert "1 error found" in done.stdout
