"""Refuses to serve where threads are not threads.

Runs on: the thread that starts a server. Neither eventlet nor gevent is imported: what is not loaded patches nothing.
"""

from __future__ import annotations

from . import _native


def patched_by() -> str | None:
    """The name of the library that has replaced the standard library's threads, if one has."""
    found = _native.patched_by()
    return found[0] if found is not None else None


def check_threads() -> None:
    """Raises RuntimeError where the standard library's threads are monkey-patched."""
    found = _native.patched_by()
    if found is not None:
        raise RuntimeError(found[1])
