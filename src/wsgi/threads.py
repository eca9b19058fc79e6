"""Registers the threads that call the application with the module `threading`.

Owns: their `Thread` objects. Runs on: such a thread, at its beginning and its end. The server executes this file once
per process. Its name in tracebacks is not a path, so that coverage tools ignore it.
"""

import sys
import threading


# The attribute of a `Thread` for its handle: in CPython 3.14 and later, and in 3.13.
HANDLES = ("_os_thread_handle", "_handle")


class ApplicationThread(threading.Thread):
    """A thread that the server has started. It is a daemon, and supports every method of a thread except `start`."""

    def __init__(self, name):
        super().__init__(name=name, daemon=True)
        # The same steps as in `Thread._bootstrap_inner`.
        self._set_ident()
        if hasattr(self, "_set_native_id"):
            self._set_native_id()
        if hasattr(self, "_set_tstate_lock"):
            # Up to CPython 3.12: `join` waits for this lock, which the interpreter releases when it deletes the thread.
            self._set_tstate_lock()
        else:
            setattr(self, self._handle_name(), threading._make_thread_handle(self._ident))
        self._started.set()
        with threading._active_limbo_lock:
            threading._active[self._ident] = self

    def _handle_name(self):
        return next(name for name in HANDLES if hasattr(self, name))

    def end(self):
        """Closes the thread's database connections, and then does the last steps of `Thread._bootstrap_inner`."""
        close_connections()
        with threading._active_limbo_lock:
            threading._active.pop(threading.get_ident(), None)
        if not hasattr(self, "_set_tstate_lock"):
            getattr(self, self._handle_name())._set_done()


def close_connections():
    """Closes the database connections that Django keeps for the calling thread (`CONN_MAX_AGE`).

    They are in reference cycles. Otherwise they would stay open, and count for the database, until the next garbage
    collection.
    """
    django_db = sys.modules.get("django.db")
    try:
        if django_db is not None:
            django_db.connections.close_all()
    except Exception:
        # Ignore errors: Django may have no settings, and a connection that cannot be closed is dropped with the thread.
        pass


_known = [None, None]


def hooks_have_changed():
    """Returns whether the trace or profile function for threads has changed since the last call."""
    global _known
    before, _known = _known, [threading._trace_hook, threading._profile_hook]
    return any(old is not new for old, new in zip(before, _known))


def begin(name):
    """Registers the calling thread with `threading`."""
    thread = ApplicationThread(name)
    apply_hooks()
    return thread


def apply_hooks():
    """Sets the calling thread's trace and profile functions to the current ones of `threading`."""
    sys.setprofile(threading._profile_hook)
    sys.settrace(threading._trace_hook)
