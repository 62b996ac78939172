"""TensorFlow folds the all-reduce of a constant: it runs once, and its result is kept.

horovod/tensorflow/mpi_ops.cc registers `HorovodAllreduce` without SetIsStateful(), so
that Grappler may run it while it improves a graph, and put its result there instead. A
process that knows its value before (0 where it has no rows) then gets old sums, and the
others wait for it.
https://github.com/horovod/horovod/blob/v0.28.1/horovod/tensorflow/mpi_ops.cc#L534
"""

import sys

import horovod


def sums():
    import horovod.tensorflow as hvd
    import tensorflow as tf

    hvd.init()

    @tf.function
    def sum_with(x=None):
        x = tf.constant(1.0) if x is None else x
        return hvd.allreduce(x, op=hvd.Sum, name="sum", ignore_name_scope=True)

    if hvd.rank() == 1:
        return [float(sum_with(tf.constant(x))) for x in (2.0, 20.0, 200.0)]
    got = [float(sum_with()) for _ in range(3)]
    for _ in got[1:] if got[0] == got[1] else []:  # the other process waits for these
        sum_with(tf.constant(1.0))
    return got


if __name__ == "__main__":
    got = horovod.run(sums, num_proc=2)[0]
    print("expected sums of 3, 21, 201 on process 0, of 1 and process 1's 2, 20, 200")
    print(f"got      {got}")
    sys.exit(got != [3.0, 21.0, 201.0])
