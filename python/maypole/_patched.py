"""Refuses to serve if eventlet or gevent has replaced Python's threads.

Runs on: the thread that starts a server. This module imports neither library, because a library that is not imported
has replaced nothing.
"""

from __future__ import annotations

from . import _native


def patched_by() -> str | None:
    """Returns the name of the library that has replaced Python's threads, or None."""
    found = _native.patched_by()
    return found[0] if found is not None else None


def check_threads() -> None:
    """Raises RuntimeError if Python's threads are monkey-patched."""
    found = _native.patched_by()
    if found is not None:
        raise RuntimeError(found[1])
