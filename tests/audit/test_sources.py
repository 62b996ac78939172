"""A file that runs as another text: in bytecode, in AutoGraph and in tracebacks."""

import importlib.util
import inspect
import linecache
import sys
import traceback
import types

import pytest
import tensorflow as tf

from distloss._audit import run
from distloss._audit.child import child
from distloss._audit.child.sources import code_of
from distloss._errors import ArgumentError

IN_FILE = "def f(x):\n    return -1.0\n\n\ndef build():\n    return 'in the file'\n"
INSTEAD = """\
# \x0c \u2028 no line ends here\r
def f(x):\r
    if x > 0:\r
        return x * 3\r
    return x


def fails():
    raise ValueError

def build():
    return "instead"\
"""


@pytest.fixture
def file(tmp_path, monkeypatch):
    monkeypatch.setattr(linecache, "updatecache", linecache.updatecache)
    monkeypatch.delitem(sys.modules, "__train__", raising=False)
    path = tmp_path / "train.py"
    path.write_text(IN_FILE)
    return path


def executed(file, source):
    """As scripts are: a module in `sys.modules`, which AutoGraph looks through."""
    module = types.ModuleType("__train__")
    module.__file__ = str(file)
    sys.modules["__train__"] = module
    exec(code_of(file, source), vars(module))
    return module


def test_autograph_converts_the_lines_that_run(file):
    assert linecache.getlines(str(file))  # of what is in there; they are known already
    module = executed(file, INSTEAD)
    graph = tf.function(module.f)
    assert float(graph(tf.constant(2.0))) == 6
    assert float(graph(tf.constant(-2.0))) == -2
    linecache.checkcache()
    assert "x * 3" in inspect.getsource(module.f)


def test_a_traceback_shows_the_lines_that_run(file):
    assert linecache.getlines(str(file))
    module = executed(file, INSTEAD)
    try:
        module.fails()
    except ValueError:
        shown = traceback.format_exc()
    assert f'File "{file}", line 9' in shown
    assert "    raise ValueError" in shown


def test_what_is_in_the_file_runs_without_another_text(file):
    assert executed(file, None).f(1) == -1
    assert file.read_text() == IN_FILE


def test_a_build_is_that_of_the_other_text_and_not_of_the_bytecode(file):
    spec = importlib.util.spec_from_file_location("train", file)
    spec.loader.exec_module(importlib.util.module_from_spec(spec))  # leaves bytecode
    target = {"file": str(file), "name": "build", "paths": []}
    try:
        assert child.load(dict(target))() == "in the file"
        assert child.load({**target, "source": INSTEAD})() == "instead"
    finally:
        sys.modules.pop("train", None)


def test_a_script_has_no_future_of_ours(file):
    source = "x: int = 1\n"
    module = executed(file, source)
    assert module.__annotations__ == {"x": int}
    file.write_text(source)
    assert executed(file, None).__annotations__ == {"x": int}


@pytest.mark.parametrize("build", ["package.module:build", lambda: None])
def test_what_is_in_no_file_cannot_be_replaced(build):
    with pytest.raises(ArgumentError, match="Expected source= for a file"):
        run.audit(build, source="x = 1")
