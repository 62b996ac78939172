"""What is asked of a child process, and its answers, in time or not.

Loads neither TensorFlow nor the user's code.
"""

from __future__ import annotations

import contextlib
import json
import os
import pathlib
import re
import selectors
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from distloss._audit.log import Log
from distloss._audit.report.printable import printable
from distloss._errors import AuditError


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
    "rebuild": "calling build() again",
    "sharding": "taking the first batch of dataset()",
    "trace": "tracing the training step",
    "run": "running the training step",
}

_DOING_SCRIPT = {
    "load": "looking for the script",
    "build": "running the script up to its first training step",
    "rebuild": "running the script again",
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
        self._words = _DOING | (_DOING_SCRIPT if "script" in own["target"] else {})
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

    def doing(self) -> str:
        """What it was asked for, in a few words."""
        name, about, _ = self._asked
        return f"{self._words.get(name, name)}{about}"

    def _doing(self) -> str:
        where = "1 replica" if self.replicas == 1 else f"{self.replicas} replicas"
        return f"On {where}, {self.doing()}"

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
        """The end of what it printed, or of what was printed before it was forked."""
        for log in (self._log, self._first_log):
            lines = [line for line in log.lines() if not _OF_TENSORFLOW.match(line)]
            if lines or self.sockets:
                return printable(" / ".join(lines[-2:])[-300:])
        return ""

    def hang_up(self) -> None:
        """Tells it to end."""
        for one in self.sockets:
            with contextlib.suppress(OSError):
                one.close()

    def stop(self) -> None:
        """Waits until it has ended, with all that it started."""
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


class Children:
    """A child for each number of replicas, asked together or one alone.

    Args:
      children: by the number of replicas.
      progress: called with what is being done.

    Attributes:
      failed: why some cannot be asked any more, by the number of replicas.
    """

    def __init__(
        self, children: dict[int, Child], progress: Callable[[str], None]
    ) -> None:
        self._children, self.progress = children, progress
        self.failed: dict[int, str] = {}

    def __iter__(self) -> Iterator[int]:
        """The numbers of replicas, 1 is the first."""
        return iter(sorted(self._children))

    def ask_all(
        self, name: str, fatal: Sequence[int] | None = None, **about: Any
    ) -> dict[int, list[Any]]:
        """What each child answers, all at work at the same time.

        Raises:
          ChildError: one of `fatal` failed (all, if it is None); others are noted.
        """
        asked = {n: c for n, c in self._children.items() if n not in self.failed}
        for child in asked.values():
            child.ask(name, **about)
            self.progress(child.doing())
        answers = {}
        for count, child in asked.items():
            try:
                answers[count] = child.answers()
            except ChildError as error:
                if fatal is None or count in fatal:
                    raise
                self.failed[count] = str(error)
        return answers

    def ask(self, count: int, name: str, about: str = "", **more: Any) -> list[Any]:
        """What each process of one child answers.

        Raises:
          ChildError: it raised, died, or took too long.
        """
        child = self._children[count]
        child.ask(name, about, **more)
        return child.answers()


# What TensorFlow puts before the words that matter.
_BEFORE_WORDS = ("Graph execution error", "Detected at node", "File ", "Node: ")


def _first_lines(message: str) -> str:
    lines = [line.strip() for line in message.splitlines() if line.strip()]
    if message.lstrip().startswith("in user code"):  # AutoGraph's: the cause is last
        words = lines[-3:]
    else:
        words = [line for line in lines if not line.startswith(_BEFORE_WORDS)] or lines
    return printable(" ".join(words[:3]).replace("\t", " ")[:600])
