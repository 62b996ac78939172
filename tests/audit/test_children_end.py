"""Forks of one process are all told to end before that process is waited for."""

import socket

from distloss._audit import processes
from distloss._audit.conversation import Child


class OneProcess:
    """Ends when all that it serves have been told to, as the parent of forks does."""

    def __init__(self, theirs):
        self._theirs = theirs

    def wait(self, seconds):
        for one in self._theirs:
            one.settimeout(0)
            assert one.recv(1) == b"", f"would wait {seconds} s"


def child(ours, process):
    made = Child.__new__(Child)
    made.sockets, made.process = [ours], process
    return made


def test_nobody_waits_for_a_process_that_others_keep():
    pairs = [socket.socketpair() for _ in range(3)]
    process = OneProcess([theirs for _, theirs in pairs])
    started = {n: child(ours, process) for n, (ours, _) in enumerate(pairs, 1)}
    processes._stop(started)
    for _, theirs in pairs:
        theirs.close()
