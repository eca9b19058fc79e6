"""The wait of a response's iterable: without a thread if the server can do that, else with the thread that iterates.

*Runs on*: `_rest` on the thread that iterates, `_wake` on any thread. *Source*: the environ's key `maypole.suspend`;
PEP 3333 "Buffering and Streaming" for the empty block.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from typing import Any, Union

#: A server's timer may be early by this much, in seconds.
EARLY = 0.05

Resume = Union[Callable[[], object], None]


class Parked:
    """What waits. A class that inherits it holds `_lock` for both functions, and has no lock of its own.

    *Invariants*: a function that `_wake` returns is called without the lock.
    """

    __slots__ = ("_condition", "_lock", "_resume", "_suspend", "_until")

    def __init__(self, environ: Mapping[str, Any]) -> None:
        # Reentrant: the interpreter may run a finalizer that sends, or a signal's handler, while this thread holds it.
        self._lock = threading.RLock()
        self._suspend: Callable[[float | None], Callable[[], object]] | None = environ.get("maypole.suspend")
        self._resume: Resume = None
        #: When the suspension times out, as `time.monotonic()` counts.
        self._until: float | None = None
        self._condition: threading.Condition | None = None

    def _rest(self, seconds: float | None) -> bool:
        """Waits until `_wake`, or for so long. Returns true if the caller has to yield an empty block for that: the
        server waits, and iterates again. Otherwise the wait is over.

        Raises BrokenPipeError if the response has to end.
        """
        now = time.monotonic()
        if self._resume is not None:
            if self._until is None or now < self._until - EARLY:
                return self._hold(seconds)
            self._resume = None
        if self._suspend is not None:
            self._until = None if seconds is None else now + seconds
            self._resume = self._suspend(seconds)
            return True
        if self._condition is None:
            self._condition = threading.Condition(self._lock)
        self._condition.wait(seconds)
        return False

    def _hold(self, seconds: float | None) -> bool:
        """Waits with the thread: nothing has happened, and here is the next iteration, so a middleware keeps empty blocks
        to itself. The server writes a line about that."""
        assert self._suspend is not None
        self._lock.release()
        try:
            # It waits until the suspension before it is over, and announces another one, which is not for use.
            self._suspend(seconds)()
        finally:
            self._lock.acquire()
            self._resume = None
        return False

    def _wake(self) -> Resume:
        """Ends the wait. Returns what the caller has to call afterwards, without the lock."""
        resume, self._resume = self._resume, None
        if self._condition is not None:
            self._condition.notify_all()
        return resume
