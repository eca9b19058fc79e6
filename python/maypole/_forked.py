"""Processes of a service inside a program: `serve(app, workers=4)`.

Runs on: the main thread, before the fork and in the child. Invariants: what a program has prepared for its own end
happens in the program alone, not in its workers.
"""

from __future__ import annotations

import atexit
import contextlib
import logging
import os
import signal
import subprocess
import sys

# A service manager speaks to the program with these, not to its workers.
_OF_SERVICE_MANAGER = ("LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES", "NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID")


def flush() -> None:
    """Writes what the program has printed. Otherwise, each child would write it again."""
    for stream in (sys.stdout, sys.stderr):
        # A closed stream has nothing to flush.
        with contextlib.suppress(AttributeError, OSError, ValueError):
            stream.flush()


def begin() -> None:
    """Separates a child from the program: its exit functions, its signals, its own children."""
    atexit._clear()
    atexit.register(logging.shutdown)
    signal.set_wakeup_fd(-1)
    for name in _OF_SERVICE_MANAGER:
        os.environ.pop(name, None)
    process, util = (sys.modules.get(f"multiprocessing.{name}") for name in ("process", "util"))
    if process is not None and util is not None:
        # As in a child of multiprocessing: the children of the program are not this process's.
        process._children = set()  # type: ignore[attr-defined]
        atexit.register(util._exit_function)


def command() -> tuple[str, list[str]]:
    """Returns the interpreter, and the command line that runs the package's command with the modules of the program."""
    code = f"import sys; sys.path[:] = {[str(place) for place in sys.path]!r}; from maypole.__main__ import main; main()"
    # The options of the interpreter. CPython's own modules use the function, but typeshed does not know it.
    flags: list[str] = subprocess._args_from_interpreter_flags()  # type: ignore[attr-defined]
    return sys.executable, [sys.executable, *flags, "-c", code]
