"""`python -m tutelage`: the command line, which torchrun starts by this name."""

import sys

from tutelage.cli import main

if __name__ == "__main__":
    sys.exit(main())
