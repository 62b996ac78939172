"""Child processes of the audit: started, asked, timed, and never left behind.

Loads neither TensorFlow nor the user's code.
"""

from __future__ import annotations

import contextlib
import json
import os
import pathlib
import re
import select
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from distloss._errors import AuditError

_SETTINGS = {
    "TF_CPP_MIN_LOG_LEVEL": "2",
    "KERAS_BACKEND": "tensorflow",
    "DISTLOSS_AUDIT": "child",
    # Large tensors go back to the system at once: several children share its memory.
    "MALLOC_MMAP_THRESHOLD_": "1048576",
    "MALLOC_TRIM_THRESHOLD_": "16777216",
    "TF_ENABLE_ONEDNN_OPTS": "0",  # its blocked sums differ more between batch sizes
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
    """One configuration: one process, or one for each Horovod rank."""

    def __init__(self, replicas: int, process: Any, own: dict[str, Any]) -> None:
        self.replicas, self.process = replicas, process
        self._log, self._end = pathlib.Path(own["log"]), pathlib.Path(own["ended"])
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
        name, _, since = self._asked
        limit = self.limits.of(name)
        while True:
            ready, _, _ = select.select(sources, [], [], 0.2)
            if ready:
                return
            if time.monotonic() - since > limit:
                raise ChildError(
                    f"{self._doing()} took longer than the limit of {limit:g} s. If it "
                    "needs more, raise --timeout."
                )
            if self.process.poll() is not None:
                raise ChildError(self._ended())

    def _doing(self) -> str:
        name, about, _ = self._asked
        where = "1 replica" if self.replicas == 1 else f"{self.replicas} replicas"
        return f"On {where}, {_DOING.get(name, name)}{about}"

    def _failed(self, error: dict[str, Any]) -> str:
        if error["is_ours"]:
            return str(error["message"])
        kind = error["type"]
        message = _first_lines(error["message"])
        at = f" (at {error['where']})" if error["where"] else ""
        if kind == "SystemExit":
            return f"{self._doing()} called sys.exit({message}){at}."
        return f"{self._doing()} raised {kind}: {message}{at}"

    def _ended(self) -> str:
        code = self._code()
        how = "how is not known" if code is None else f"exit code {code}"
        if code is not None and code < 0:
            how = f"signal {signal.Signals(-code).name}"
        said = self.last_words()
        tail = f" It said last: {said}" if said else ""
        return f"{self._doing()} ended its process ({how}).{tail}"

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
        """The end of what it printed."""
        if not self._log.exists():
            return ""
        lines = self._log.read_text(errors="replace").strip().splitlines()
        lines = [line for line in lines if not _OF_TENSORFLOW.match(line)]
        return _printable(" / ".join(lines[-2:]))[-300:]

    def stop(self) -> None:
        """Ends it and all that it started."""
        for one in self.sockets:
            with contextlib.suppress(OSError):
                one.close()
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.process.pid, signal.SIGKILL)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(10)


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
        return _printable(" ".join(lines[-3:]))[:600]
    words = [line for line in lines if not line.startswith(_BEFORE_WORDS)]
    return _printable(" ".join((words or lines)[:3]))[:600]


def _printable(text: str) -> str:
    return "".join(c if c.isprintable() else " " for c in text)


@contextlib.contextmanager
def children(
    counts: Sequence[int], settings: dict[str, Any], engine: str
) -> Iterator[dict[int, Child]]:
    """A child for each number of replicas; all are ended afterwards, come what may."""
    with _interrupted_by_sigterm(), contextlib.ExitStack() as stack:
        listeners = {n: _listener(settings, n, stack) for n in counts}
        every = [_own_settings(settings, n) for n in counts]
        started: dict[int, Child] = {}
        stack.callback(_stop, started)
        if engine == "horovod":
            for count, own in zip(counts, every, strict=True):
                command = [_horovodrun(), "-np", str(count), "--gloo"]
                process = _process([*command, *_python([own])], own["log"], settings)
                started[count] = Child(count, process, own)
        else:
            log = str(pathlib.Path(settings["folder"]) / "log")
            process = _process(_python(every), log, settings)
            for count, own in zip(counts, every, strict=True):
                started[count] = Child(count, process, own)
        for count, child in started.items():
            child.connect(listeners[count], count if engine == "horovod" else 1)
        yield started


def _stop(started: dict[int, Child]) -> None:
    for child in started.values():
        child.stop()


def _listener(
    settings: dict[str, Any], count: int, stack: contextlib.ExitStack
) -> socket.socket:
    listener = socket.socket(socket.AF_UNIX)
    stack.callback(listener.close)
    listener.bind(_own_settings(settings, count)["socket"])
    listener.listen(count)
    return listener


def _own_settings(settings: dict[str, Any], count: int) -> dict[str, Any]:
    name = f"on{count}" + "-float64" * settings["float64"]
    folder = pathlib.Path(settings["folder"]) / name
    folder.mkdir(exist_ok=True)
    return settings | {
        "replicas": count,
        "folder": str(folder),
        "socket": str(folder / "s"),
        "log": str(folder / "log"),
        "ended": str(folder / "ended"),
    }


def _python(every: list[dict[str, Any]]) -> list[str]:
    return [sys.executable, "-m", "distloss._child", json.dumps(every)]


def _process(command: list[str], log: str, settings: dict[str, Any]) -> Any:
    with open(log, "ab") as output:
        return subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
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
    package = str(pathlib.Path(__file__).parent.parent)
    paths = [package, environment.get("PYTHONPATH", "")]
    environment["PYTHONPATH"] = os.pathsep.join(p for p in paths if p)
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
        signal.signal(signal.SIGTERM, before)
