"""Starts a program as several workers on this machine, told of each other.

TensorFlow is imported once, by a process that then forks into the workers.
"""

import contextlib
import json
import os
import runpy
import signal
import socket
import subprocess
import sys
import traceback

HANGS = "killed, since it did not end in time"


def free_addresses(count):
    """Addresses on this machine that nobody listens on."""
    with contextlib.ExitStack() as stack:
        listeners = [stack.enter_context(socket.socket()) for _ in range(count)]
        for listener in listeners:
            listener.bind(("localhost", 0))
        return [f"localhost:{one.getsockname()[1]}" for one in listeners]


def ended(program, workers, folder, timeout=600):
    """How each worker ended: its exit code, or `HANGS`. None outlives this.

    Args:
      program: path of a file to run, with `folder` as its argument.
      workers: how many.
      folder: gets what worker 1 prints as `1.log`.
      timeout: seconds.
    """
    process = subprocess.Popen(
        [sys.executable, __file__, program, str(workers), folder],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": "-1"},
        start_new_session=True,
    )
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(timeout)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    codes = [folder / f"{index}.code" for index in range(workers)]
    return [int(code.read_text()) if code.exists() else HANGS for code in codes]


def last_words(folder, index):
    return (folder / f"{index}.log").read_text(errors="replace")[-3000:]


def _fork(program, folder, addresses):
    """Runs the program in a process for each address; notes how each ended."""
    pids = {_forked(program, folder, addresses, i): i for i in range(len(addresses))}
    while pids:
        pid, status = os.wait()
        code = os.waitstatus_to_exitcode(status)
        with open(f"{folder}/{pids.pop(pid)}.code", "w") as file:
            file.write(str(code))


def _forked(program, folder, addresses, index):
    pid = os.fork()
    if pid:
        return pid
    log = os.open(f"{folder}/{index}.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(log, 1)
    os.dup2(log, 2)
    task = {"type": "worker", "index": index}
    config = {"cluster": {"worker": addresses}, "task": task}
    os.environ["TF_CONFIG"] = json.dumps(config)
    sys.argv = [program, folder]
    sys.path.insert(0, os.path.dirname(program))
    try:
        runpy.run_path(program, run_name="__main__")
        os._exit(0)  # TensorFlow would wait for a cluster that may have failed
    except BaseException:
        traceback.print_exc()
        os._exit(1)


if __name__ == "__main__":
    import tensorflow  # noqa: F401
    import tf_keras  # noqa: F401

    import distloss  # noqa: F401

    _fork(sys.argv[1], sys.argv[3], free_addresses(int(sys.argv[2])))
