"""Handles SIGTERM in a framework's command that serves.

*Runs on*: the main thread.
"""

from __future__ import annotations

import signal
import sys
import threading


def end_on_sigterm() -> None:
    """Makes SIGTERM end the command gracefully: running requests finish, and queued log lines are written.

    Without this the kernel ends the process at once. An existing handler, such as a reloader's, stays.
    """
    if threading.current_thread() is threading.main_thread() and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
        signal.signal(signal.SIGTERM, _end)


def _end(*_: object) -> None:
    sys.exit(0)
