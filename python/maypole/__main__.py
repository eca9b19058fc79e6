"""The command line: `maypole` and `python -m maypole`, the same as the stand-alone program.

Runs on: the main thread.
"""

import sys
from typing import NoReturn

from . import _native


def main() -> NoReturn:
    """Runs the command line and exits with its exit code."""
    sys.exit(_native.main(["maypole", *sys.argv[1:]]))


if __name__ == "__main__":
    main()
