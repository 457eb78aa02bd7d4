"""`python -m branchmerge` is the program `branchmerge`."""

import sys

from branchmerge.cli import main

if __name__ == "__main__":
    sys.exit(main())
