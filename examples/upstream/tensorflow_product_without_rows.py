"""A product with ones of no rows ends the process: Grappler divides by their number.

`ReplaceMulWithBroadcastByTile` of arithmetic_optimizer.cc divides each size of the ones
by that of the other factor, which is 0 where a replica has no rows (SIGFPE).
https://github.com/tensorflow/tensorflow/blob/master/tensorflow/core/grappler/optimizers/arithmetic_optimizer.cc
"""

import subprocess
import sys

PROGRAM = """
import tensorflow as tf

@tf.function
def weighed(weights):
    return tf.reshape(weights, [0, 1]) * tf.ones([0, 6])

print(weighed(tf.zeros([0, 1])).shape)
"""

done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True)
print("expected the shape (0, 6)")
print(f"got      {done.stdout.strip() or f'no shape, and exit code {done.returncode}'}")
sys.exit(done.returncode != 0)
