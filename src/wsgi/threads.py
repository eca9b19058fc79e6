"""The threads that call the application, as the module `threading` has them.

Owns: their `Thread` objects. Runs on: such a thread, at its beginning and its end. The server executes this file once per
process. Its name in tracebacks is no path, so that tools that measure files leave it alone.
"""

import sys
import threading


# Where a `Thread` has its handle: from CPython 3.14 on, and in 3.13.
HANDLES = ("_os_thread_handle", "_handle")


class ApplicationThread(threading.Thread):
    """A thread that the server has started: a daemon, of which everything but `start` works as of any thread."""

    def __init__(self, name):
        super().__init__(name=name, daemon=True)
        # What `Thread._bootstrap_inner` does.
        self._set_ident()
        if hasattr(self, "_set_native_id"):
            self._set_native_id()
        if hasattr(self, "_set_tstate_lock"):
            # Until CPython 3.12: released when the interpreter forgets the thread, for which `join` waits.
            self._set_tstate_lock()
        else:
            setattr(self, self._handle_name(), threading._make_thread_handle(self._ident))
        self._started.set()
        with threading._active_limbo_lock:
            threading._active[self._ident] = self

    def _handle_name(self):
        return next(name for name in HANDLES if hasattr(self, name))

    def end(self):
        """What `Thread._bootstrap_inner` does at its end; before it, the thread's connections are closed."""
        close_connections()
        with threading._active_limbo_lock:
            threading._active.pop(threading.get_ident(), None)
        if not hasattr(self, "_set_tstate_lock"):
            getattr(self, self._handle_name())._set_done()


def close_connections():
    """Closes the calling thread's connections to databases that Django keeps for it (`CONN_MAX_AGE`).

    Nothing else would: they are parts of cycles, which stay until the garbage collector comes, and the database counts them.
    """
    django_db = sys.modules.get("django.db")
    try:
        if django_db is not None:
            django_db.connections.close_all()
    except Exception:
        # Django may have no settings, and a connection that cannot be closed is dropped with the thread.
        pass


_known = [None, None]


def hooks_have_changed():
    """Whether threads are to be traced or profiled with something else than when this was asked last."""
    global _known
    before, _known = _known, [threading._trace_hook, threading._profile_hook]
    return any(old is not new for old, new in zip(before, _known))


def begin(name):
    """Makes the calling thread one of `threading`."""
    thread = ApplicationThread(name)
    apply_hooks()
    return thread


def apply_hooks():
    """Traces and profiles the calling thread as `threading` says now."""
    sys.setprofile(threading._profile_hook)
    sys.settrace(threading._trace_hook)
