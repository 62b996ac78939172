"""Prints the seconds and the peak memory in MB of a command, as JSON.

A small process of its own: a child counts the memory of what forked it as its own.
"""

import json
import resource
import subprocess
import sys
import time

started, nowhere = time.perf_counter(), subprocess.DEVNULL
subprocess.run(sys.argv[1:], stdout=nowhere, stderr=nowhere, check=False)
seconds = time.perf_counter() - started
kilobytes = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
print(json.dumps({"seconds": round(seconds, 2), "peak_mb": round(kilobytes / 1024)}))
