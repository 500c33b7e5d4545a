"""The command line as a module: `python -m effopd`."""

import sys

from effopd.cli import main

if __name__ == "__main__":
    sys.exit(main())
