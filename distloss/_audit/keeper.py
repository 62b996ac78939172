"""Runs a program, and ends all that it has started when its own parent ends.

Started by its path, with none but the standard library, so that it is there at once,
whatever the program does: one that holds Python's lock cannot watch anybody.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import pathlib
import resource
import select
import shutil
import signal
import subprocess
import sys
import time

# Of linux/prctl.h.
_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER = 1, 36

POLL = 0.1  # seconds
PATIENCE = 5.0  # seconds for processes to end that were killed


def die_with_parent() -> None:
    """Has Linux kill this process when the thread that forked it ends."""
    _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def _prctl(option: int, value: int) -> None:
    with contextlib.suppress(AttributeError, OSError):  # not on Linux
        ctypes.CDLL(None).prctl(option, value, 0, 0, 0)


def main() -> None:
    """`keeper.py PARENT FOLDER COMMAND...`; stdin is closed when it shall end."""
    parent, folder, *command = sys.argv[1:]
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    # What leaves its group and its parent becomes a child of this process.
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)
    process = None
    try:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            start_new_session=True,
            preexec_fn=die_with_parent,
        )
        status = _status(process.pid, int(parent))
    finally:
        if process:
            _end(process.pid)
        if os.getppid() != int(parent):  # which would have removed it
            shutil.rmtree(folder, ignore_errors=True)
    _exit_as(status)


def _status(pid: int, parent: int) -> int | None:
    """How the program ended; None if it is to be ended."""
    while os.getppid() == parent:
        ended = _reaped()
        if pid in ended:
            return ended[pid]
        if select.select([0], [], [], POLL)[0]:
            return None
    return None


def _reaped() -> dict[int, int]:
    """The exit codes of children that have ended."""
    ended: dict[int, int] = {}
    with contextlib.suppress(ChildProcessError):  # there are no more
        while True:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if pid == 0:
                break
            ended[pid] = os.waitstatus_to_exitcode(status)
    return ended


def _end(pid: int) -> None:
    """Kills the program's group, and all that it started, wherever it went."""
    _kill(-pid)
    until = time.monotonic() + PATIENCE
    while time.monotonic() < until:
        _reaped()
        found = _descendants()
        if not found:
            return
        for one in found:
            _kill(one)
        time.sleep(0.01)


def _kill(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.kill(pid, signal.SIGKILL)


def _descendants() -> set[int]:
    """The children of this process, theirs, and so on; none where there is no /proc."""
    parents: dict[int, int] = {}
    for path in pathlib.Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):  # it has ended meanwhile
            # After the name, which may hold anything, come the state and the parent.
            state, parent = path.read_bytes().rpartition(b")")[2].split()[:2]
            if state not in (b"Z", b"X"):
                parents[int(path.parent.name)] = int(parent)
    found, new = set[int](), {os.getpid()}
    while new:
        new = {pid for pid, parent in parents.items() if parent in new} - found
        found |= new
    return found


def _exit_as(status: int | None) -> None:
    """Ends as the program did, by a signal or with a code."""
    if status is not None and status < 0:
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        with contextlib.suppress(OSError):  # SIGKILL has no other meaning
            signal.signal(-status, signal.SIG_DFL)
        os.kill(os.getpid(), -status)
    sys.exit(status or 0)


if __name__ == "__main__":
    main()
