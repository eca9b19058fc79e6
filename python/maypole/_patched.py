"""Refuses to serve where threads are not threads.

Runs on: the thread that starts a server. Neither eventlet nor gevent is imported: what is not loaded patches nothing.
"""

from __future__ import annotations

import sys


def patched_by() -> str | None:
    """The name of the library that has replaced the standard library's threads, if one has."""
    eventlet = sys.modules.get("eventlet.patcher")
    if eventlet is not None and eventlet.is_monkey_patched("thread"):
        return "eventlet"
    gevent = sys.modules.get("gevent.monkey")
    if gevent is not None and gevent.is_module_patched("threading"):
        return "gevent"
    return None


def check_threads() -> None:
    """Raises RuntimeError where the standard library's threads are monkey-patched."""
    library = patched_by()
    if library is not None:
        raise RuntimeError(
            f"{library} has monkey-patched `thread` in this process, so that the threads of the server would not be real "
            "ones: do not patch it (maypole needs nothing patched), or patch everything but it"
        )
