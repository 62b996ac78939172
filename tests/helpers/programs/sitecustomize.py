"""Python runs this as it starts, if scripts/test has put it on PYTHONPATH.

Garbage is looked for less often: to look for it takes a quarter of the time in which
TensorFlow is imported, and a part of that in which steps are traced.
"""

import gc

gc.set_threshold(100_000, 50, 100)
