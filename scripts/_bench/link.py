"""Two network namespaces of this machine, joined by a link with a limit.

Needs root, and `ip` and `tc` (Debian: iproute2). `tbf` limits the rate; the queue that
adds latency (`netem`) is not in every kernel.
"""

import contextlib
import os
import pathlib
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import time

ADDRESSES = ("10.77.0.1", "10.77.0.2")  # in the namespaces, where nothing else is
DEVICE = "wire"  # what the end of the link is called in each of them
_NAME = re.compile(r"^distloss-(\d+)-[ab]$")
_FILES = pathlib.Path("/etc/netns")  # of each namespace, instead of those of /etc
_LAST_LINES = 12
# More than the 64 KB of the largest packet. Smaller bursts cut each of them up, which
# for 25 MB at 1 Gbit/s took 200 ms of both cores: nobody computes meanwhile.
_BURST = "1mbit"
_POLL_SECONDS = 0.1


def problem_here():
    """Why no link can be made on this machine, in a sentence; None if one can."""
    missing = [tool for tool in ("ip", "tc") if not shutil.which(tool)]
    if missing:
        return f"needs {' and '.join(missing)} (Debian: apt-get install iproute2)."
    if os.geteuid() != 0:
        return "needs root, to make network namespaces (or a container with NET_ADMIN)."
    with contextlib.suppress(subprocess.SubprocessError, OSError), link():
        return None
    return "needs network namespaces and a link with a rate (ip netns, tc ... tbf)."


@contextlib.contextmanager
def link(megabits=0):
    """The names of two namespaces, joined at `megabits` per second; 0: no limit.

    They are taken away at the end, also by a signal, with all that runs in them.
    """
    _remove_left_over()
    names = [f"distloss-{os.getpid()}-{end}" for end in "ab"]
    with _signals_raise():
        try:
            _make(names, megabits)
            yield names
        finally:
            for name in names:
                _remove(name)


def run_in(names, commands, seconds):
    """Runs a command in each namespace, and returns what the first has printed.

    Args:
      names: of namespaces.
      commands: for each, its arguments and environment.
      seconds: after which all are ended. They end together too where one fails: it
        would leave the others waiting.

    Raises:
      RuntimeError: one has failed, or time was up: with the last lines that it said.
    """
    with contextlib.ExitStack() as stack:
        files = [stack.enter_context(tempfile.TemporaryFile("w+")) for _ in names]
        outputs = [stack.enter_context(tempfile.TemporaryFile("w+")) for _ in names]
        running = []
        stack.callback(lambda: _end(running))
        for name, (command, env), out, said in zip(
            names, commands, outputs, files, strict=True
        ):
            inside = ["ip", "netns", "exec", name, *map(str, command)]
            running.append(
                subprocess.Popen(inside, env=env, stdout=out, stderr=said, text=True)
            )
        problem = _wait(running, seconds)
        if problem:
            raise RuntimeError(f"{problem}\n" + "\n".join(map(_last_lines, files)))
        outputs[0].seek(0)
        return outputs[0].read()


def _wait(running, seconds):
    """What went wrong, if anything."""
    ends = time.monotonic() + seconds
    while any(process.poll() is None for process in running):
        if any(process.poll() for process in running):
            break
        if time.monotonic() > ends:
            return f"not done after {seconds:.0f} seconds"
        time.sleep(_POLL_SECONDS)
    codes = [process.poll() for process in running]
    return f"exit codes {codes}" if any(codes) else None


def _end(running):
    for process in running:
        if process.poll() is None:
            process.kill()
            process.wait()


def _last_lines(file):
    file.seek(0)
    return "".join(file.readlines()[-_LAST_LINES:])


def _make(names, megabits):
    for name, address in zip(names, ADDRESSES, strict=True):
        # Gloo finds its own address by the name of the host.
        (_FILES / name).mkdir(parents=True)
        hosts = f"127.0.0.1 localhost\n{address} {socket.gethostname()}\n"
        (_FILES / name / "hosts").write_text(hosts)
        _do(f"ip netns add {name}")
    first, second = names
    # born in its namespace, so that no device of this machine has its name
    _do(f"ip -n {first} link add {DEVICE} type veth peer {DEVICE} netns {second}")
    for name, address in zip(names, ADDRESSES, strict=True):
        _do(f"ip -n {name} addr add {address}/24 dev {DEVICE}")
        for device in ("lo", DEVICE):
            _do(f"ip -n {name} link set {device} up")
        if megabits:
            limit = f"tbf rate {megabits}mbit burst {_BURST} latency 50ms"
            _do(f"tc -n {name} qdisc add dev {DEVICE} root {limit}")


def _do(command):
    subprocess.run(
        command.split(), check=True, capture_output=True, timeout=20, text=True
    )


def _remove_left_over():
    """Namespaces of a run that was killed."""
    listed = subprocess.run(
        ["ip", "netns", "list"], capture_output=True, text=True, timeout=20, check=True
    )
    for line in listed.stdout.splitlines():
        found = _NAME.match(line.partition(" ")[0])
        if found and not os.path.exists(f"/proc/{found[1]}"):
            _remove(found[0])


def _remove(name):
    """A namespace of ours, if it is there, and what still runs in it."""
    pids = subprocess.run(
        ["ip", "netns", "pids", name],
        capture_output=True,
        text=True,
        timeout=20,
        check=False,
    )
    for pid in pids.stdout.split():
        with contextlib.suppress(ProcessLookupError):
            os.kill(int(pid), signal.SIGKILL)
    subprocess.run(
        ["ip", "netns", "del", name], capture_output=True, timeout=20, check=False
    )
    shutil.rmtree(_FILES / name, ignore_errors=True)


@contextlib.contextmanager
def _signals_raise():
    """In which SIGTERM and SIGHUP unwind the stack, as Ctrl-C does."""

    def leave(number, _frame):
        raise SystemExit(128 + number)

    numbers = (signal.SIGTERM, signal.SIGHUP)
    before = [signal.signal(number, leave) for number in numbers]
    try:
        yield
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)
