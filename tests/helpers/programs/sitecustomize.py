"""Python runs this as it starts, if scripts/test has put it on PYTHONPATH.

Garbage is looked for less often: to look for it takes a quarter of the time in which
TensorFlow is imported, and a part of that in which steps are traced. At the end of a
process it is not looked for at all, which takes another fifth: all goes anyway.

Keras is imported without what only its wrappers and its pictures need, which takes a
quarter of its import; who imports that himself gets it.

horovodrun does not ask whether Horovod was built with Gloo, as it was: to ask, it
imports TensorFlow, for seconds and at each start.
"""

import atexit
import gc
import sys

gc.set_threshold(100_000, 50, 100)
atexit.register(gc.freeze)  # the first that is registered is the last that is called


class NotForKeras:
    """Finds nothing of some packages while Keras is being imported."""

    packages = ("sklearn", "matplotlib")

    @classmethod
    def find_spec(cls, name, _path=None, _target=None):
        spec = getattr(sys.modules.get("keras"), "__spec__", None)
        if name in cls.packages and getattr(spec, "_initializing", False):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)


sys.meta_path.insert(0, NotForKeras)

if any(argument.endswith("/horovodrun") for argument in sys.orig_argv):
    from horovod.common import util

    util.gloo_built = lambda verbose=False: True
