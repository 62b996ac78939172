"""A child process of the audit: does what it is asked, and answers.

Started with the path of its settings, which name a socket for questions and answers,
so that whatever the user's code prints does no harm. It ends when the socket does.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import importlib.util
import json
import os
import pathlib
import socket
import sys
import threading
import traceback
from collections.abc import Callable
from typing import Any

from distloss._audit.child.module_paths import find_modules_in
from distloss._audit.child.sources import code_of
from distloss._audit.keeper import die_with_parent
from distloss._errors import DistlossError
from distloss._package import FOLDER

_LONG = 20_000  # characters of an error's message


class Connection:
    """Questions come, answers go, one JSON text per line."""

    def __init__(self, path: str, hello: Any) -> None:
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.connect(path)
        self._lines: list[str] = []
        self._arrived = threading.Semaphore(0)
        threading.Thread(target=self._listen, daemon=True).start()
        self.answer(hello)

    def _listen(self) -> None:
        # A parent that died before it read what we sent makes this an OSError.
        with (
            contextlib.suppress(OSError),
            self._socket.makefile(encoding="utf-8") as lines,
        ):
            for line in lines:
                self._lines.append(line)
                self._arrived.release()
        os._exit(1)  # the parent is gone, or wants us gone

    def question(self) -> Any:
        """The next one; waits for it."""
        self._arrived.acquire()
        return json.loads(self._lines.pop(0))

    def answer(self, value: Any) -> None:
        """Sends one."""
        self._socket.sendall(json.dumps(value).encode() + b"\n")


def load(target: dict[str, Any]) -> Callable[[], Any]:
    """The `build` that `target` describes: of a file, a module, or pickled."""
    find_modules_in(target["paths"])
    if "pickle" in target:
        import cloudpickle

        return cloudpickle.loads(pathlib.Path(target["pickle"]).read_bytes())
    found: Any = _module(target)
    for name in target["name"].split("."):
        found = getattr(found, name)
    if not callable(found):
        raise TypeError(f"{target['name']} is a {type(found).__name__}, no function")
    return found


def _module(target: dict[str, Any]) -> Any:
    if "file" not in target:
        return importlib.import_module(target["module"])
    path = pathlib.Path(target["file"])
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None:
        raise ImportError(f"{path} is no Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module
    if "source" in target:  # and not what is in the file, nor its bytecode
        exec(code_of(path, target["source"]), vars(module))
    else:
        spec.loader.exec_module(module)
    return module


class Server:
    """Does what is asked, one question after the other."""

    def __init__(self, settings: dict[str, Any]) -> None:
        self._settings = settings
        self._process: Any = None  # what is the same for all steps in this process
        self._build: Any = None
        self._step: Any = None

    def start(self) -> None:
        """Loads TensorFlow, and takes its devices."""
        _load_tensorflow()
        from distloss._audit.child.measure import Process

        self._process = Process.started(self._settings)

    def load(self) -> None:
        """Imports the user's file; a script runs when it is to build something."""
        target = self._settings["target"]
        if "script" in target:
            from distloss._audit.child.script import Script

            process = self._process
            self._build = Script(target, process.devices, process.instruments.places)
        else:
            self._build = load(target)

    def build(self) -> Any:
        """Calls the build function of the user."""
        from distloss._audit.child.measure import StepUnderTest

        self._step = StepUnderTest(self._build, self._process)
        return self._step.about()

    def rebuild(self, told: int | None = None) -> Any:
        """Calls it again, for a model and a step that are traced anew.

        Args:
          told: how many replicas a script is told that there are.
        """
        self._step.restore()
        if told is not None:
            self._build.told = told
        return self.build()

    def answer(self, question: dict[str, Any]) -> Any:
        """The answer to one question."""
        name = question.pop("ask")
        if name in ("start", "load", "build", "rebuild"):
            return getattr(self, name)(**question)
        return getattr(self._step, name)(**question)


def _error(error: BaseException) -> dict[str, Any]:
    frames = traceback.extract_tb(error.__traceback__)
    theirs = [f for f in frames if not f.filename.startswith(str(FOLDER))]
    local = [f for f in theirs if "site-packages" not in f.filename] or theirs
    where = f"{local[-1].filename}:{local[-1].lineno}" if local else ""
    return {
        "type": type(error).__name__,
        "message": _message(error),
        "where": where,
        "is_ours": isinstance(error, DistlossError),
        "trace": "".join(traceback.format_exception(error))[-8000:],
    }


def _message(error: BaseException) -> str:
    """What it says; the beginning and the end, if that is long."""
    try:
        text = str(error).strip() or repr(error)
    except Exception as other:
        return f"(its message cannot be had: {type(other).__name__})"
    half = _LONG // 2
    return text if len(text) <= _LONG else f"{text[:half]}\n...\n{text[-half:]}"


def main() -> None:
    """Serves until the socket is closed; several configurations from forks."""
    every = json.loads(pathlib.Path(sys.argv[1]).read_text())
    if len(every) == 1:
        die_with_parent()
        serve(every[0])
        return
    _load_tensorflow()  # once for all
    gc.freeze()  # forks share its objects, until somebody looks at them for garbage
    forks: dict[int, str] = {}
    for settings in every:
        fork = os.fork()
        if fork == 0:
            die_with_parent()
            log = os.open(settings["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
            os.dup2(log, 1)
            os.dup2(log, 2)
            serve(settings)
            os._exit(0)
        forks[fork] = settings["ended"]
    while forks:
        fork, status = os.wait()
        text = str(os.waitstatus_to_exitcode(status))
        pathlib.Path(forks.pop(fork)).write_text(text)


def _load_tensorflow() -> None:
    """Without looking for garbage meanwhile, which takes a quarter of that time."""
    gc.disable()
    try:
        importlib.import_module("distloss._audit.child.measure")
    finally:
        gc.enable()


def serve(settings: dict[str, Any]) -> None:
    """Answers questions until the socket is closed."""
    settings["rank"] = _rank()
    folder = pathlib.Path(settings["folder"]) / f"process{settings['rank'] or 0}"
    folder.mkdir()
    settings["folder"] = str(folder)
    connection = Connection(settings["socket"], {"rank": settings["rank"] or 0})
    server, own = Server(settings), os.getpid()
    while True:
        question = connection.question()
        try:
            answer = {"answer": server.answer(question)}
        except BaseException as error:  # sys.exit of the user's code, too
            answer = {"error": _error(error)}
            _flush()
        if os.getpid() != own:  # a fork of the user's code, which came back here
            os._exit(0)
        connection.answer(answer)


def _flush() -> None:
    """Brings out what the user's code has printed, which may say why it failed."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(Exception):  # it may have been replaced, or closed
            stream.flush()


def _rank() -> int | None:
    """Which Horovod process this is, or None."""
    rank = os.environ.get("HOROVOD_RANK")
    return None if rank is None else int(rank)
