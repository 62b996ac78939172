"""Runs the scripts for Horovod one after the other on the processes of this launch.

Process 0 writes [exit code, stdout, stderr] of each as JSON to the file named first.
"""

import contextlib
import io
import json
import pathlib
import sys

import horovod
import horovod.tensorflow as hvd
import tensorflow as tf
from scripts_in_forks import exit_code


def on_these_processes(function, num_proc):
    """In place of `horovod.run`, which would start processes: what each returns."""
    assert num_proc == hvd.size()
    return hvd.allgather_object(function())


def ending(script):
    """How a script ends, and what it prints."""
    output, errors = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(output), contextlib.redirect_stderr(errors):
        code = exit_code(script)
    return code, output.getvalue(), errors.getvalue()


def main(path, *scripts):
    hvd.init()
    horovod.run = on_these_processes
    endings = [ending(script) for script in scripts]
    if hvd.rank() == 0:
        pathlib.Path(path).write_text(json.dumps(endings))
    hvd.allreduce(tf.zeros([]))  # a process that ends ends Horovod for all


if __name__ == "__main__":
    main(*sys.argv[1:])
