"""Python runs this as it starts, if scripts/test has put it on PYTHONPATH.

Garbage is looked for less often: to look for it takes a quarter of the time in which
TensorFlow is imported, and a part of that in which steps are traced.

horovodrun does not ask whether Horovod was built with Gloo, as it was: to ask, it
imports TensorFlow, for seconds and at each start.
"""

import gc
import sys

gc.set_threshold(100_000, 50, 100)

if any(argument.endswith("/horovodrun") for argument in sys.orig_argv):
    from horovod.common import util

    util.gloo_built = lambda verbose=False: True
