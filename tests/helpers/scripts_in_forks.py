"""Runs scripts as forks of one process that has Keras loaded, which takes five seconds.

python scripts_in_forks.py SCRIPT ...    # prints [exit code, stdout, stderr] of each
"""

import json
import os
import runpy
import sys
import tempfile
import traceback


def exit_code(script):
    """With which a script ends that is run as it would be from a shell."""
    sys.argv = [script]
    try:
        runpy.run_path(script, run_name="__main__")
    except SystemExit as end:
        return int(end.code or 0)
    except BaseException:
        traceback.print_exc()
        return 1
    return 0


def in_fork(script):
    with tempfile.TemporaryFile("w+") as output, tempfile.TemporaryFile("w+") as errors:
        child = os.fork()
        if child == 0:
            os.dup2(output.fileno(), 1)
            os.dup2(errors.fileno(), 2)
            code = exit_code(script)
            sys.stdout.flush()
            os._exit(code)
        _, status = os.waitpid(child, 0)
        for file in (output, errors):
            file.seek(0)
        return os.waitstatus_to_exitcode(status), output.read(), errors.read()


def main():
    import keras  # noqa: F401

    print(json.dumps([in_fork(script) for script in sys.argv[1:]]))


if __name__ == "__main__":
    main()
