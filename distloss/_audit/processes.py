"""Child processes of the audit: started, asked, timed, and never left behind.

Loads neither TensorFlow nor the user's code.
"""

from __future__ import annotations

import contextlib
import json
import os
import pathlib
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from typing import Any

from distloss._audit.conversation import Child
from distloss._audit.log import Log
from distloss._errors import AuditError
from distloss._package import FOLDER

_SETTINGS = {
    "TF_CPP_MIN_LOG_LEVEL": "2",
    "KERAS_BACKEND": "tensorflow",
    "DISTLOSS_AUDIT": "child",
    "PYTHONUNBUFFERED": "1",  # or a process that dies takes its last words along
    # Large tensors go back to the system at once: several children share its memory.
    "MALLOC_MMAP_THRESHOLD_": "1048576",
    "MALLOC_TRIM_THRESHOLD_": "16777216",
}


@contextlib.contextmanager
def folder() -> Iterator[str]:
    """A folder for all files of an audit, removed afterwards with what is in it."""
    # Linux allows 107 characters for the address of a socket: of ours, and of those
    # that the user's code makes in its TMPDIR below.
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
    # One process may serve several of them, and ends when all are told to.
    for child in started.values():
        child.hang_up()
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


# Nothing is imported from the current folder, where a file may be called `random.py`.
_MAIN = (
    "import sys; sys.path[:] = [path for path in sys.path if path]; "
    "from distloss._audit.child.child import main; main()"
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
    keeper = [sys.executable, "-I", "-S", str(FOLDER / "_audit" / "keeper.py")]
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
    """Makes SIGTERM end the children of the audit, as Ctrl-C does."""

    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    try:
        before = signal.signal(signal.SIGTERM, interrupt)
    except ValueError:  # only the main thread may set handlers of signals
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before or signal.SIG_DFL)
