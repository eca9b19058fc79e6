"""The command line: `maypole` and `python -m maypole`, the same as the stand-alone program.

Owns: `sys.argv` of the process. Runs on: the main thread.
"""

import sys
from typing import NoReturn

from . import _native


def main() -> NoReturn:
    """Runs the command line and exits with its status."""
    arguments = sys.argv[1:]
    # The application sees a command line of its own, as in the stand-alone program.
    sys.argv[1:] = []
    sys.exit(_native.main(["maypole", *arguments]))


if __name__ == "__main__":
    main()
