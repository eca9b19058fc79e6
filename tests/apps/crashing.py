"""Ends its process in the ways in which a library in C does: by a signal, or by an exit."""

import ctypes
import mmap
import os
import signal
import tempfile
import threading

#: Makes the import end the process: `CRASHING_AT_IMPORT=SIGSEGV`.
AT_IMPORT = os.environ.get("CRASHING_AT_IMPORT")


def touch_nothing():
    ctypes.string_at(0)


def touch_beyond_the_end():
    with tempfile.TemporaryFile() as file:
        file.truncate(mmap.PAGESIZE)
        memory = mmap.mmap(file.fileno(), mmap.PAGESIZE)
        file.truncate(0)
        memory[0]


def crash(how):
    if how == "SIGSEGV":
        touch_nothing()
    if how == "SIGBUS":
        touch_beyond_the_end()
    if how.startswith("SIG"):
        os.kill(os.getpid(), getattr(signal, how))
        # Another thread may have received the signal, and its handler needs a moment.
        threading.Event().wait()
    os._exit(int(how))


if AT_IMPORT:
    crash(AT_IMPORT)


def application(environ, start_response):
    """Ends the process as the path says, such as `/SIGSEGV` or `/7`."""
    how = environ["PATH_INFO"].strip("/")
    if how:
        crash(how)
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", "5")])
    return [b"alive"]
