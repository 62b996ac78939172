"""Programs, and children of the audit, as forks of a process with TensorFlow loaded.

Halves the time of an audit, and shows the same.
"""

import multiprocessing
import os
import pathlib
import runpy
import subprocess
import sys
import tempfile
from multiprocessing import forkserver

import pytest

from distloss._audit import processes
from distloss._audit.child import child

OUTPUTS = ("out", "err")


def serve(arguments, log):
    """A child of the audit, but without a keeper."""
    os.setsid()
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(output, 1)
    os.dup2(output, 2)
    sys.argv = arguments
    child.main()


class Forked:
    """What the audit wants to know of a child."""

    def __init__(self, command, log, *_):
        context = multiprocessing.get_context("forkserver")
        self._process = context.Process(target=serve, args=(command[2:], str(log)))
        self._process.start()
        self.pid = self._process.pid

    def poll(self):
        return self._process.exitcode

    def wait(self, seconds):
        self._process.join(seconds)
        if self.poll() is None:
            raise subprocess.TimeoutExpired("a fork", seconds)


def ensure_running():
    """The process whose forks all are."""
    multiprocessing.get_context("forkserver").set_forkserver_preload(
        ["distloss._audit.child.measure"]
    )
    with pytest.MonkeyPatch.context() as environment:
        for name, value in processes._SETTINGS.items():
            environment.setenv(name, value)
        forkserver.ensure_running()


def fork_children(monkeypatch):
    """From now on, until `monkeypatch` is undone."""
    monkeypatch.setattr(processes, "_process", Forked)
    ensure_running()


def run(arguments, environment, folder):
    """What `python` does with these arguments, but for importing TensorFlow."""
    for number, name in enumerate(OUTPUTS, 1):
        os.dup2(os.open(f"{folder}/{name}", os.O_WRONLY | os.O_CREAT), number)
    os.environ.clear()
    os.environ.update(environment)
    paths = environment.get("PYTHONPATH", "").split(os.pathsep)
    sys.path[:0] = [path for path in paths if path]
    what, *sys.argv = arguments
    if what == "-c":
        exec(compile(sys.argv[0], "<string>", "exec"), {"__name__": "__main__"})
    elif what == "-m":
        runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
    else:
        sys.argv = arguments
        sys.path.insert(0, os.path.dirname(what))
        runpy.run_path(what, run_name="__main__")


class Program:
    """`python` with these arguments.

    Of what is set before TensorFlow is imported it gets that of the audit's children.
    """

    def __init__(self, *arguments, **environment):
        ensure_running()
        self._folder = tempfile.TemporaryDirectory()
        arguments = [*map(str, arguments)]
        context = multiprocessing.get_context("forkserver")
        environment = {**os.environ, **environment}
        given = (arguments, environment, self._folder.name)
        self._process = context.Process(target=run, args=given)
        self._process.start()

    def ended(self, timeout=250):
        """How it ended, and what it printed."""
        self._process.join(timeout)
        if self._process.exitcode is None:
            self._process.kill()
        self._process.join()
        with self._folder as folder:
            printed = [(pathlib.Path(folder) / name).read_text() for name in OUTPUTS]
        return subprocess.CompletedProcess([], self._process.exitcode, *printed)
