"""With Gloo, a process that waits for another is never reported.

`GlooController::DoInitialization` of horovod/common/gloo/gloo_controller.cc writes
`global_ranks_.reserve(size_)` for `resize(size_)`: the list of ranks stays empty, and
the stall check finds none that is missing. With MPI the ranks are there.
https://github.com/horovod/horovod/blob/v0.28.1/horovod/common/gloo/gloo_controller.cc#L92
"""

import os
import pathlib
import sys
import tempfile

import horovod

os.environ["HOROVOD_STALL_CHECK_TIME_SECONDS"] = "1"


def said_while_waiting():
    import time

    import horovod.tensorflow as hvd
    import tensorflow as tf

    hvd.init()
    if hvd.rank() == 1:
        time.sleep(5)
    with tempfile.NamedTemporaryFile() as log:
        stderr = os.dup(2)
        os.dup2(log.fileno(), 2)
        hvd.allreduce(tf.constant(1.0))
        os.dup2(stderr, 2)
        return pathlib.Path(log.name).read_text()


if __name__ == "__main__":
    warned = "Missing ranks" in horovod.run(said_while_waiting, num_proc=2)[0]
    print("expected a warning: process 0 waits 5 seconds for process 1, 1 is allowed")
    print(f"got      {'one' if warned else 'none'}")
    sys.exit(not warned)
