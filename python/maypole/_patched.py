"""Whether somebody has replaced Python's threads by green ones.

The server's threads are real threads that take turns on the GIL. Where eventlet or gevent has patched `threading`, locks
and thread-locals belong to their own loop instead, and a real thread that waits on one waits for ever. So nothing starts
there. *Runs on*: the thread that starts a server. It only looks at what is imported already and imports nothing.
"""

import sys


def patched_by():
    """The name of the library that has patched threads, or None."""
    patcher = sys.modules.get("eventlet.patcher")
    if patcher is not None and patcher.is_monkey_patched("thread"):
        return "eventlet"
    monkey = sys.modules.get("gevent.monkey")
    if monkey is not None and any(map(monkey.is_module_patched, ("threading", "_thread", "thread"))):
        return "gevent"
    return None


def refuse_patched_threads():
    """Raises RuntimeError where threads are not real ones."""
    library = patched_by()
    if library is not None:
        raise RuntimeError(
            f"{library} has monkey-patched this process's threads, and Maypole runs the application on real ones: "
            f"remove the call of {library}'s monkey_patch / patch_all, or leave threads out of it (thread=False)"
        )
