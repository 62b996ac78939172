"""Notebooks run from top to bottom, and say what is kept in them."""

import importlib.util
import os
import re

import nbformat
import pytest
from nbclient.exceptions import CellExecutionError
from pages import ROOT

EXAMPLES = ROOT / "examples"
NAMES = sorted(path.stem for path in EXAMPLES.glob("*.ipynb"))
# Of the last digits machines may think differently, and so may releases of Keras.
DIGITS = re.compile(r"\d+\.\d+|\d+%")
KILOBYTES = 60


def script():
    spec = importlib.util.spec_from_file_location(
        "notebooks", ROOT / "scripts" / "notebooks.py"
    )
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


notebooks = script()


def said(notebook):
    """What its cells print, and which pictures they draw."""
    found = []
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            assert output.output_type != "error"
            found.append(output.get("text") or sorted(output.get("data", {})))
    return found


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_a_notebook_says_what_is_kept_in_it(name, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(ROOT), prepend=os.pathsep)
    monkeypatch.setenv("PYTHONWARNINGS", "ignore")
    path = EXAMPLES / f"{name}.ipynb"
    kept = said(nbformat.read(path, as_version=4))
    today = said(notebooks.executed(path))
    assert [DIGITS.sub("#", str(one)) for one in today] == [
        DIGITS.sub("#", str(one)) for one in kept
    ]
    assert any(one == ["image/png", "text/plain"] for one in kept)


def test_the_notebooks_are_those_that_the_script_runs():
    assert tuple(NAMES) == notebooks.NAMES


@pytest.mark.parametrize("name", NAMES)
def test_a_notebook_is_small_and_shows_no_path_of_a_machine(name):
    path = EXAMPLES / f"{name}.ipynb"
    text = path.read_text()
    assert len(text) < 1000 * KILOBYTES
    assert '"stderr"' not in text
    assert not re.search(r"/(home|root|tmp|work)/", text)


@pytest.mark.slow
def test_a_notebook_that_fails_is_found(tmp_path):
    cell = nbformat.v4.new_code_cell("assert 1 == 2")
    path = tmp_path / "wrong.ipynb"
    nbformat.write(nbformat.v4.new_notebook(cells=[cell]), path)
    with pytest.raises(CellExecutionError, match="AssertionError"):
        notebooks.executed(path)
