"""`python -m mlssl` is the command `mlssl`."""

import sys

from mlssl.cli import main

if __name__ == "__main__":
    sys.exit(main())
