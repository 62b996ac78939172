"""Child processes of the audit: started, asked, timed, and never left behind.

Loads neither TensorFlow nor the user's code.
"""

from __future__ import annotations

import contextlib
import json
import os
import pathlib
import re
import selectors
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from distloss._errors import AuditError
from distloss._log import Log
from distloss._package import FOLDER
from distloss._printable import printable

_SETTINGS = {
    "TF_CPP_MIN_LOG_LEVEL": "2",
    "KERAS_BACKEND": "tensorflow",
    "DISTLOSS_AUDIT": "child",
    "PYTHONUNBUFFERED": "1",  # what was printed last stands last
    # Large tensors go back to the system at once: several children share its memory.
    "MALLOC_MMAP_THRESHOLD_": "1048576",
    "MALLOC_TRIM_THRESHOLD_": "16777216",
}


@dataclass(frozen=True)
class Limits:
    """Seconds that a child may take for one thing, by what it does."""

    start: float = 120.0
    load: float = 60.0
    build: float = 120.0
    trace: float = 400.0
    run: float = 300.0

    @classmethod
    def all(cls, seconds: float | None) -> Limits:
        """The same for everything but starting; the defaults for None."""
        if seconds is None:
            return cls()
        return cls(max(seconds, 60.0), seconds, seconds, seconds, seconds)

    def of(self, name: str) -> float:
        """The limit of one question."""
        return getattr(self, name, self.run)


# What it logs by itself on any machine.
_OF_TENSORFLOW = re.compile(r"[EIW]0000 |WARNING: All log messages|To enable the follo")

_DOING = {
    "start": "loading TensorFlow",
    "load": "importing the file of build",
    "build": "calling build()",
    "deal": "taking the first batch of dataset()",
    "trace": "tracing the training step",
    "run": "running the training step",
}


class Child:
    """One configuration: one process, or one for each Horovod rank.

    Args:
      replicas: how many.
      process: what was started for it, maybe for others too.
      own: its settings.
      logs: of all configurations by their path, each read whenever one is waited for.
    """

    def __init__(
        self, replicas: int, process: Any, own: dict[str, Any], logs: dict[str, Log]
    ) -> None:
        self.replicas, self.process = replicas, process
        self._logs = logs
        self._log, self._first_log = logs[own["log"]], logs[own["first_log"]]
        self._end = pathlib.Path(own["ended"])
        self.sockets: list[Any] = []
        self._buffers: list[bytes] = []
        self.limits = Limits()
        self._asked: tuple[str, str, float] = ("", "", 0.0)

    def connect(self, listener: socket.socket, count: int) -> None:
        """Waits until its processes have called."""
        self._asked = ("start", "", time.monotonic())
        found: dict[int, Any] = {}
        while len(found) < count:
            self._wait([listener])
            accepted, _ = listener.accept()
            rank = json.loads(accepted.makefile().readline())["rank"]
            found[rank] = accepted
        self.sockets = [found[rank] for rank in sorted(found)]
        self._buffers = [b"" for _ in self.sockets]

    def ask(self, name: str, about: str = "", **arguments: Any) -> None:
        """Sends a question; `answers` waits for what comes back."""
        self._asked = (name, about, time.monotonic())
        line = json.dumps({"ask": name, **arguments}).encode() + b"\n"
        for one in self.sockets:
            with contextlib.suppress(OSError):  # `answers` finds out that it is gone
                one.sendall(line)

    def answers(self) -> list[Any]:
        """What each process answers.

        Raises:
          ChildError: one raised, died, or took too long.
        """
        found = [self._answer(i) for i in range(len(self.sockets))]
        for reply in found:
            if "error" in reply:
                raise ChildError(self._failed(reply["error"]), reply["error"])
        return [reply["answer"] for reply in found]

    def _answer(self, index: int) -> Any:
        while b"\n" not in self._buffers[index]:
            self._wait([self.sockets[index]])
            try:
                data = self.sockets[index].recv(1 << 16)
            except OSError:
                data = b""
            if not data:
                raise ChildError(self._ended())
            self._buffers[index] += data
        line, self._buffers[index] = self._buffers[index].split(b"\n", 1)
        return json.loads(line)

    def _wait(self, sources: Sequence[Any]) -> None:
        with selectors.DefaultSelector() as selector:
            for source in (*sources, *self._logs.values()):
                selector.register(source, selectors.EVENT_READ)
            while not _is_ready(selector, sources):
                self._check()

    def _check(self) -> None:
        """Raises a ChildError if it is late, or has ended."""
        name, _, since = self._asked
        limit = self.limits.of(name)
        if time.monotonic() - since > limit:
            raise ChildError(
                f"{self._doing()} took longer than the limit of {limit:g} s. If it "
                f"needs more, raise --timeout.{self._tail()}"
            )
        if self.process.poll() is not None:
            raise ChildError(self._ended())

    def _doing(self) -> str:
        name, about, _ = self._asked
        where = "1 replica" if self.replicas == 1 else f"{self.replicas} replicas"
        return f"On {where}, {_DOING.get(name, name)}{about}"

    def _failed(self, error: dict[str, Any]) -> str:
        if error["is_ours"]:
            return printable(error["message"])
        kind = printable(error["type"])
        message = _first_lines(error["message"])
        at = f" (at {printable(error['where'])})" if error["where"] else ""
        if kind == "SystemExit":
            # Of a code alone, the reason is what was printed before, as argparse does.
            return f"{self._doing()} called sys.exit({message}){at}.{self._tail()}"
        return f"{self._doing()} raised {kind}: {message}{at}"

    def _ended(self) -> str:
        code = self._code()
        how = "how is not known" if code is None else f"exit code {code}"
        if code is not None and code < 0:
            how = f"signal {signal.Signals(-code).name}"
        return f"{self._doing()} ended its process ({how}).{self._tail()}"

    def _tail(self) -> str:
        said = self.last_words()
        return f" It said last: {said}" if said else ""

    def _code(self) -> int | None:
        """How the process ended; a fork's parent needs a moment to say so."""
        for _ in range(30):
            if self._end.exists() and self._end.read_text():
                return int(self._end.read_text())
            if self.process.poll() is not None:
                return int(self.process.poll())
            time.sleep(0.1)
        return None

    def last_words(self) -> str:
        """The end of what it printed, or of what was printed before there was it."""
        for log in (self._log, self._first_log):
            lines = [line for line in log.lines() if not _OF_TENSORFLOW.match(line)]
            if lines or self.sockets:
                return printable(" / ".join(lines[-2:])[-300:])
        return ""

    def stop(self) -> None:
        """Waits until it has ended, with all that it started."""
        for one in self.sockets:
            with contextlib.suppress(OSError):
                one.close()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self.process.pid, signal.SIGKILL)


def _is_ready(selector: selectors.BaseSelector, sources: Sequence[Any]) -> bool:
    """Whether one of `sources` has something; logs are read meanwhile."""
    ready = [key.fileobj for key, _ in selector.select(0.2)]
    for log in ready:
        if isinstance(log, Log):
            log.read()
    return any(source in ready for source in sources)


class ChildError(AuditError):
    """A child raised, died, or took too long."""

    def __init__(self, message: str, error: Any = None) -> None:
        super().__init__(message)
        self.error = error


# What TensorFlow puts before the words that matter.
_BEFORE_WORDS = ("Graph execution error", "Detected at node", "File ", "Node: ")


def _first_lines(message: str) -> str:
    lines = [line.strip() for line in message.splitlines() if line.strip()]
    if message.lstrip().startswith("in user code"):  # AutoGraph's: the cause is last
        words = lines[-3:]
    else:
        words = [line for line in lines if not line.startswith(_BEFORE_WORDS)] or lines
    return printable(" ".join(words[:3]).replace("\t", " ")[:600])


@contextlib.contextmanager
def folder() -> Iterator[str]:
    """A folder for all files of an audit, removed afterwards with what is in it."""
    # The address of a socket has at most 107 characters, also of the user's below it.
    try:
        place = None if len(tempfile.gettempdir()) < 50 else "/tmp"
        made = tempfile.TemporaryDirectory(
            prefix="distloss-", dir=place, ignore_cleanup_errors=True
        )
    except OSError as error:
        raise AuditError(
            "Expected a folder for temporary files, which the environment variable "
            f"TMPDIR may name. Got {error}."
        ) from error
    with _interrupted_by_sigterm(), made as path:
        _temporary(path).mkdir()
        yield path


def _temporary(path: str) -> pathlib.Path:
    """What children find in TMPDIR: AutoGraph, for one, leaves its files behind."""
    return pathlib.Path(path) / "tmp"


@contextlib.contextmanager
def children(
    counts: Sequence[int], settings: dict[str, Any], engine: str
) -> Iterator[dict[int, Child]]:
    """A child for each number of replicas; all are ended afterwards, come what may.

    Args:
      counts: the numbers of replicas.
      settings: what children are told; "folder" is that of `folder()`.
      engine: "strategy", or "horovod".
    """
    with contextlib.ExitStack() as stack:
        every = {n: _own_settings(settings, n, engine) for n in counts}
        listeners = {n: _listener(own, n, stack) for n, own in every.items()}
        logs: dict[str, Log] = {}
        for path in sorted({own[k] for own in every.values() for k in _LOGS}):
            logs[path] = Log(pathlib.Path(path))
            stack.callback(logs[path].close)
        started: dict[int, Child] = {}
        stack.callback(_stop, started)
        lifeline = _lifeline(stack)
        if engine == "horovod":
            for count, own in every.items():
                command = [_horovodrun(), "-np", str(count), "--gloo"]
                command += _python([own])
                process = _process(command, own["first_log"], settings, lifeline)
                started[count] = Child(count, process, own, logs)
        else:
            first = every[counts[0]]["first_log"]
            command = _python(list(every.values()))
            process = _process(command, first, settings, lifeline)
            for count, own in every.items():
                started[count] = Child(count, process, own, logs)
        for count, child in started.items():
            child.connect(listeners[count], count if engine == "horovod" else 1)
        yield started


_LOGS = ("log", "first_log")


def _stop(started: dict[int, Child]) -> None:
    for child in started.values():
        child.stop()


def _lifeline(stack: contextlib.ExitStack) -> int:
    """What processes hold on to: they end when `stack` closes it, or this one ends."""
    lifeline, ours = os.pipe()
    stack.callback(os.close, lifeline)
    stack.callback(os.close, ours)
    return lifeline


def _listener(
    own: dict[str, Any], count: int, stack: contextlib.ExitStack
) -> socket.socket:
    listener = socket.socket(socket.AF_UNIX)
    stack.callback(listener.close)
    listener.bind(own["socket"])
    listener.listen(count)
    return listener


def _own_settings(settings: dict[str, Any], count: int, engine: str) -> dict[str, Any]:
    name = f"on{count}" + "-float64" * settings["float64"]
    folder = pathlib.Path(settings["folder"]) / name
    folder.mkdir(exist_ok=True)
    # Those of one strategy are forks of one process, which prints before there are any.
    first = folder if engine == "horovod" else folder.parent
    return settings | {
        "replicas": count,
        "folder": str(folder),
        "socket": str(folder / "s"),
        "log": str(folder / "log"),
        "first_log": str(first / "log"),
        "ended": str(folder / "ended"),
    }


# Without the folder that it is called in, where anything may be called `random.py`.
_MAIN = (
    "import sys; sys.path[:] = [path for path in sys.path if path]; "
    "from distloss._child import main; main()"
)


def _python(every: list[dict[str, Any]]) -> list[str]:
    """The command of a child; its settings would be too long for one."""
    path = pathlib.Path(every[0]["folder"]) / "settings"
    path.write_text(json.dumps(every))
    target = every[0]["target"]
    what = target.get("file") or target["name"]  # for whoever lists processes
    return [sys.executable, "-c", _MAIN, str(path), what]


def _process(
    command: list[str], log: str, settings: dict[str, Any], lifeline: int
) -> Any:
    """A process that ends, with all that it started, when `lifeline` is closed."""
    keeper = [sys.executable, "-I", "-S", str(FOLDER / "_keeper.py")]
    keeper += [str(os.getpid()), settings["folder"]]
    with open(log, "ab", buffering=0) as output:
        return subprocess.Popen(
            [*keeper, *command],
            stdin=lifeline,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=_environment(settings),
            start_new_session=True,
        )


def _horovodrun() -> str:
    beside = pathlib.Path(sys.executable).parent / "horovodrun"
    found = str(beside) if beside.exists() else shutil.which("horovodrun")
    if found is None:
        raise AuditError(
            "Expected horovodrun for --engine horovod. It was not found. Install "
            "Horovod (README, 'Horovod'), or use --engine strategy."
        )
    return found


def _environment(settings: dict[str, Any]) -> dict[str, str]:
    # What a launcher of this process has set is not meant for its children.
    environment = {
        name: value
        for name, value in os.environ.items()
        if name != "TF_CONFIG" and not name.startswith("HOROVOD_")
    }
    paths = [str(FOLDER.parent), environment.get("PYTHONPATH", "")]
    environment["PYTHONPATH"] = os.pathsep.join(p for p in paths if p)
    environment["TMPDIR"] = str(_temporary(settings["folder"]))
    if settings["devices"] == "cpu":
        environment["CUDA_VISIBLE_DEVICES"] = "-1"
    return environment | _SETTINGS


@contextlib.contextmanager
def _interrupted_by_sigterm() -> Iterator[None]:
    """Makes a polite kill of the audit end its children as Ctrl-C does."""

    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    try:
        before = signal.signal(signal.SIGTERM, interrupt)
    except ValueError:  # not the main thread, which alone may say this
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before or signal.SIG_DFL)
