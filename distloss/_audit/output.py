"""Where the command writes: a file, a device, a terminal, and what if it cannot."""

from __future__ import annotations

import contextlib
import errno
import os
import pathlib
import secrets
import stat
import sys
from collections.abc import Iterable
from typing import Any

from distloss._audit.report.printable import printable
from distloss._audit.target import place_and_name
from distloss._errors import ArgumentError, DistlossError

# Errors of a folder in which no file can be made: it is read-only, or the file that
# is there is a mount.
_NO_NEW_FILE = (errno.EACCES, errno.EPERM, errno.EROFS, errno.EBUSY)


def check(path: pathlib.Path | None, targets: Iterable[str]) -> None:
    """Refuses a path that cannot be written, before minutes of work.

    Leaves no trace.

    Args:
      path: None for the terminal.
      targets: the addresses of what is audited, whose files must not be overwritten.

    Raises:
      ArgumentError: it cannot be written.
    """
    if path is None:
        return
    try:
        _check(path)
        is_source = any(_is_same(path, target) for target in targets)
        why = "it is a file that is audited" if is_source else ""
    except OSError as error:
        why = str(error.strerror)
    if why:
        raise ArgumentError(
            "Expected --output to be a file that can be written, in a folder that "
            f"exists. Got {path}: {why}."
        )


def _check(path: pathlib.Path) -> None:
    mode = _mode(path)
    if mode is None:
        descriptor, name = _new_beside(_target(path))
        os.close(descriptor)
        os.unlink(name)
    elif stat.S_ISREG(mode):
        os.close(os.open(path, os.O_WRONLY))
    elif stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
    elif stat.S_ISSOCK(mode):
        raise OSError(errno.ENXIO, "it is a socket")
    elif not os.access(path, os.W_OK):
        # Not opened: a pipe would wait for its reader, a device may do something.
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))


def _is_same(path: pathlib.Path, target: str) -> bool:
    with contextlib.suppress(OSError, ValueError):
        return os.path.samefile(path, place_and_name(target)[0])
    return False


def _mode(path: pathlib.Path) -> int | None:
    """What is there, behind links; None for nothing."""
    try:
        return os.stat(path).st_mode
    except FileNotFoundError:
        return None


def _target(path: pathlib.Path) -> pathlib.Path:
    """The file itself: a link to it stays."""
    return pathlib.Path(os.path.realpath(path))


def write(text: str, path: pathlib.Path) -> None:
    """Writes a file as a whole or not at all; a device, or a pipe, directly.

    Raises:
      OSError: it cannot be written.
    """
    data = text.encode("utf-8")
    mode = _mode(path)
    if mode is not None and not stat.S_ISREG(mode):
        path.write_bytes(data)
        return
    try:
        _replace(_target(path), data)
    except OSError as error:
        if mode is None or error.errno not in _NO_NEW_FILE:
            raise
        path.write_bytes(data)


def _replace(target: pathlib.Path, data: bytes) -> None:
    descriptor, name = _new_beside(target)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
        if target.exists():
            _become(name, target)
        os.replace(name, target)
    except BaseException:
        os.unlink(name)
        raise


def _new_beside(target: pathlib.Path) -> tuple[int, str]:
    """A new file in the same folder; its name is short, whatever that of `target`."""
    name = str(target.parent / f".distloss-{secrets.token_hex(8)}")
    return os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666), name


def _become(name: str, target: pathlib.Path) -> None:
    """Gives a file the owner, if we may, and the mode of another."""
    old = os.stat(target)
    with contextlib.suppress(PermissionError):
        os.chown(name, old.st_uid, old.st_gid)
    os.chmod(name, stat.S_IMODE(old.st_mode))


def encoding() -> str:
    """That of the terminal."""
    return getattr(sys.stdout, "encoding", None) or "utf-8"


def show(text: str) -> None:
    """Writes to stdout. A reader that has gone had enough, which is no error.

    Raises:
      OSError: it cannot be written.
    """
    if sys.stdout is None:
        raise OSError(errno.EBADF, "stdout is closed")
    shown = text.encode(encoding(), "backslashreplace").decode(encoding())
    try:
        print(shown, end="", flush=True)
    except OSError as error:
        _give_up(sys.stdout)
        if not isinstance(error, BrokenPipeError):
            raise


def say(message: str) -> None:
    """Writes a line to stderr, if there is one."""
    if sys.stderr is None:
        return
    try:
        print(printable(message), file=sys.stderr, flush=True)
    except OSError:
        _give_up(sys.stderr)


def told(error: Exception) -> str:
    """What went wrong, in a sentence."""
    if isinstance(error, DistlossError):
        return str(error)
    if isinstance(error, OSError):
        return f"the system refused: {error}"
    kind = type(error).__name__
    return f"distloss itself failed, please report it: {kind}: {error}"


def flush() -> None:
    """Brings out what others have written to stderr, as far as it can be."""
    try:
        if sys.stderr is not None:
            sys.stderr.flush()
    except OSError:
        _give_up(sys.stderr)


def _give_up(stream: Any) -> None:
    # Python writes what is left when it ends, and then makes the exit code 120.
    with contextlib.suppress(OSError, ValueError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)
