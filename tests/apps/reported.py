"""Calls that wait in separate functions (`/first`, `/second`, `/third`), and one that keeps the GIL (`/keep`).

SIGUSR1 ends the waits of the first three. A byte in the FIFO that KEEPER names ends the last."""

import ctypes
import os
import signal
import sys
import threading
import time

OPEN = threading.Event()


def tick():
    OPEN.wait()


signal.signal(signal.SIGUSR1, lambda *_: OPEN.set())
threading.Thread(target=tick, name="ticker", daemon=True).start()


def wait_in_first():
    OPEN.wait()


def wait_in_second():
    OPEN.wait()


def wait_in_third():
    OPEN.wait()


def keep_the_gil():
    """Keeps the GIL as a C extension that computes for a long time."""
    fifo = os.open(os.environ["KEEPER"], os.O_RDWR)
    # PyDLL, unlike CDLL, does not release the GIL during a call.
    libc = ctypes.PyDLL(None)
    said = b"keeps the GIL\n"
    # No other thread gets the GIL between the two calls.
    interval = sys.getswitchinterval()
    sys.setswitchinterval(60)
    libc.write(2, said, len(said))
    libc.read(fifo, ctypes.create_string_buffer(1), 1)
    sys.setswitchinterval(interval)
    os.close(fifo)


ACTIONS = {
    "/first": wait_in_first,
    "/second": wait_in_second,
    "/third": wait_in_third,
    "/keep": keep_the_gil,
}


def application(environ, start_response):
    path = environ["PATH_INFO"]
    print(f"called {path}", file=sys.stderr, flush=True)
    ACTIONS.get(path, time.time)()
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [path.encode()]
