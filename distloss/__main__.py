"""`python -m distloss` is the command `distloss`."""

import sys

from distloss.cli import main

if __name__ == "__main__":
    sys.exit(main())
