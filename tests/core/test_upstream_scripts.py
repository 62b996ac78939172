"""examples/upstream: each script shows its defect, in a few lines and without us.

Which releases have it is in `seen.json` there, by scripts/upstream_table.
"""

import ast
import json
import os
import pathlib
import re
import subprocess
import sys

import keras
import pytest
import tensorflow as tf
from chosen import some

ROOT = pathlib.Path(__file__).parents[2]
FORKS = ROOT / "tests" / "helpers" / "scripts_in_forks.py"
sys.path.insert(0, str(ROOT / "scripts"))
import upstream_table as table  # noqa: E402

SCRIPTS = table.scripts()
OF_KERAS = [script for script in SCRIPTS if not table.is_of_horovod(script)]
RUN = some(OF_KERAS, 4)
HERE = f"Keras {keras.__version__} (TensorFlow {tf.__version__})"
names = pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.stem)


@pytest.fixture(scope="module")
def endings():
    """How each script that is run has ended, and what it printed."""
    done = subprocess.run(
        [sys.executable, FORKS, *RUN],
        capture_output=True,
        text=True,
        timeout=280,
        env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"},
    )
    assert done.returncode == 0, done.stderr
    return dict(zip(RUN, json.loads(done.stdout), strict=True))


@pytest.mark.parametrize("script", RUN, ids=lambda script: script.stem)
def test_a_script_of_keras_fails_where_the_defect_is(script, endings):
    code, output, errors = endings[script]
    wanted = json.loads(table.SEEN.read_text())[script.stem]["ended"].get(HERE, 1)
    got = table.ended(code, output, errors)
    assert got == wanted, table.news(script, HERE, got) + output + errors


@names
def test_a_script_is_short_and_needs_keras_or_horovod_alone(script):
    text = script.read_text()
    assert len(text.splitlines()) <= 40
    imported = {
        name.partition(".")[0]
        for node in ast.walk(ast.parse(text))
        for name in (
            [alias.name for alias in node.names]
            if isinstance(node, ast.Import)
            else [node.module]
            if isinstance(node, ast.ImportFrom)
            else []
        )
    }
    allowed = {"horovod"} if table.is_of_horovod(script) else {"keras", "numpy"}
    assert imported <= sys.stdlib_module_names | allowed | {"tensorflow"}


@names
def test_a_script_says_where_the_defect_is(script):
    told = ast.get_docstring(ast.parse(script.read_text()))
    assert "https://github.com/" in told
    assert table.defect(script).endswith(".")


@names
def test_a_script_was_run_as_it_is_with_the_newest_keras_and_failed(script):
    seen = json.loads(table.SEEN.read_text())[script.stem]
    assert seen["checksum"] == table.checksum(script), "run scripts/upstream_table"
    others = re.compile("tf-keras|dev|rc| by ")  # by install_horovod, which mends
    releases = [of for of in seen["ended"] if not others.search(of)]
    newest = max(releases, key=table.numbers)
    ended = seen["ended"][newest]
    assert ended == table.WRONG, table.news(script, newest, ended)


def test_the_table_is_that_of_what_was_seen():
    assert table.README.read_text() == table.text_with(table.table(table.kept()))


def test_only_a_script_that_has_said_so_has_seen_anything():
    said = "expected a\ngot      b\n"
    assert table.ended(1, said, "") == table.WRONG
    assert table.ended(0, said, "") == table.RIGHT
    assert table.ended(1, "expected a\n", "x\nTypeError: b\n") == "TypeError: b"
    assert table.ended(0, "", "") == "exit code 0"
    assert table.ended(-9, said, "") == "exit code -9"


def test_a_defect_that_is_gone_is_news():
    news = table.news(OF_KERAS[0], HERE, table.RIGHT)
    assert news.startswith(f"mended upstream: {table.defect(OF_KERAS[0])}")
