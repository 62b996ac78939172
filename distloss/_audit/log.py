"""What a child prints: its end is kept, however much it is."""

from __future__ import annotations

import os
import pathlib

LIMIT = 1 << 16  # bytes
_AT_ONCE = 1 << 20  # bytes, so that a child that never stops does not keep us here


class Log:
    """A named pipe that children open to write, and the end of what came out of it.

    A child that prints faster than we read waits, so neither memory nor a disk fills.
    """

    def __init__(self, path: pathlib.Path) -> None:
        self.path = str(path)
        os.mkfifo(path, 0o600)
        # For writing, too: else a read meets the end whenever no child has it open.
        self._descriptor = os.open(path, os.O_RDWR | os.O_NONBLOCK)
        self._tail = b""

    def fileno(self) -> int:
        """For `select`."""
        return self._descriptor

    def read(self) -> None:
        """Takes what is there."""
        for _ in range(_AT_ONCE // LIMIT):
            try:
                data = os.read(self._descriptor, LIMIT)
            except BlockingIOError:
                return
            self._tail = (self._tail + data)[-LIMIT:]

    def lines(self) -> list[str]:
        """The last lines so far; of the first of them maybe only the end."""
        self.read()
        return self._tail.decode(errors="replace").strip().splitlines()

    def close(self) -> None:
        """Ends it: no child can write any more."""
        os.close(self._descriptor)
        os.unlink(self.path)
