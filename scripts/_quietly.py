"""Runs a script without the lines that TensorFlow prints while it is loaded.

    python scripts/_quietly.py SCRIPT [ARGS]

They tell how it was built, and come before TF_CPP_MIN_LOG_LEVEL is heeded:
https://github.com/tensorflow/tensorflow/issues/100442. What else is said is passed on.
"""

import os
import pathlib
import re
import runpy
import sys
import tempfile

_LINES = re.compile(
    rb"WARNING: All log messages before absl::InitializeLog\(\) .*\n"
    rb"|[IW]\d{4} .*\.cc:\d+\] .*\n(To enable the following instructions: .*\n)?"
)


def load_tensorflow() -> None:
    """Imports it while what it prints to stderr goes into a file, and then on."""
    with tempfile.TemporaryFile() as said:
        stderr = os.dup(2)
        os.dup2(said.fileno(), 2)
        try:
            import tensorflow  # noqa: F401
        finally:
            os.dup2(stderr, 2)
            os.close(stderr)
            said.seek(0)
            os.write(2, _LINES.sub(b"", said.read()))


if __name__ == "__main__":
    load_tensorflow()
    del sys.argv[0]
    sys.path[0] = str(pathlib.Path(sys.argv[0]).parent)
    runpy.run_path(sys.argv[0], run_name="__main__")
