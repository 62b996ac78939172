"""Starts a program as several workers on this machine, told of each other."""

import contextlib
import json
import os
import socket
import subprocess
import sys
import time


def free_addresses(count):
    """Addresses on this machine that nobody listens on."""
    with contextlib.ExitStack() as stack:
        listeners = [stack.enter_context(socket.socket()) for _ in range(count)]
        for listener in listeners:
            listener.bind(("localhost", 0))
        return [f"localhost:{one.getsockname()[1]}" for one in listeners]


def environment_of(addresses, index):
    """The environment of a worker, in which TensorFlow finds its cluster."""
    task = {"type": "worker", "index": index}
    config = {"cluster": {"worker": addresses}, "task": task}
    quiet = {"TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": "-1"}
    return {**os.environ, **quiet, "TF_CONFIG": json.dumps(config)}


@contextlib.contextmanager
def running(program, workers, folder, *arguments):
    """The processes of a program; what they print is in `folder`. None outlives it."""
    addresses = free_addresses(workers)
    processes = []
    try:
        for index in range(workers):
            with (folder / f"{index}.log").open("wb") as log:
                processes.append(
                    subprocess.Popen(
                        [sys.executable, program, folder, *arguments],
                        stdin=subprocess.DEVNULL,
                        stdout=log,
                        stderr=subprocess.STDOUT,
                        env=environment_of(addresses, index),
                    )
                )
        yield processes
    finally:
        for process in processes:
            process.kill()
            process.wait()


def ended(program, workers, folder, *arguments, timeout=200):
    """How each process ended: its exit code, or None if it had to be killed.

    As soon as one fails the others have 30 seconds, unless that is what is tested.
    """
    stop = time.monotonic() + timeout
    with running(program, workers, folder, *arguments) as processes:
        while time.monotonic() < stop:
            if all(process.poll() is not None for process in processes):
                break
            time.sleep(0.1)
        return [process.poll() for process in processes]


def last_words(folder, index):
    return (folder / f"{index}.log").read_text(errors="replace")[-3000:]
