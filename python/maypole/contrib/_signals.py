"""What SIGTERM does to a command that serves.

*Runs on*: the main thread.
"""

from __future__ import annotations

import signal
import sys
import threading


def end_on_sigterm() -> None:
    """Has SIGTERM end the command in an orderly way: requests that run are answered, and queued log lines are written.

    Without this the kernel ends the process at once. A handler that is there already stays, such as a reloader's.
    """
    if threading.current_thread() is threading.main_thread() and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
        signal.signal(signal.SIGTERM, _end)


def _end(*_: object) -> None:
    sys.exit(0)
