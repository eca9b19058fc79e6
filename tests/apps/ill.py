"""An application with one defect for each path. A byte in the FIFO that KEEPER names ends the ones that keep the GIL."""

import ctypes
import os
import signal
import sys
import threading
import tracemalloc

LOCK = threading.Lock()
OTHER = threading.Lock()
FIRST_IS_HELD = threading.Event()
OTHER_IS_HELD = threading.Event()
LEAKED = []


def pay():
    with LOCK:
        FIRST_IS_HELD.set()
        OTHER_IS_HELD.wait()
        with OTHER:
            pass


def refund():
    with OTHER:
        OTHER_IS_HELD.set()
        FIRST_IS_HELD.wait()
        with LOCK:
            pass


def keep_the_gil(first=lambda: None):
    fifo = os.open(os.environ["KEEPER"], os.O_RDWR)
    # PyDLL, unlike CDLL, does not release the GIL during a call.
    libc = ctypes.PyDLL(None)
    # No other thread gets the GIL between the lines of this function.
    interval = sys.getswitchinterval()
    sys.setswitchinterval(60)
    first()
    libc.read(fifo, ctypes.create_string_buffer(1), 1)
    sys.setswitchinterval(interval)
    os.close(fifo)


def leak():
    # Other threads can have the GIL after each MiB.
    for _ in range(300):
        LEAKED.append(bytearray(b"x") * (1 << 20))


def leak_untraced():
    tracemalloc.stop()
    leak()


def wait_for_ever():
    threading.Event().wait()


DEFECTS = {
    "/pay": pay,
    "/refund": refund,
    "/keep": keep_the_gil,
    "/leak": leak,
    "/leak-untraced": leak_untraced,
    "/leak-and-keep": lambda: keep_the_gil(leak),
    "/crash": lambda: signal.raise_signal(signal.SIGSEGV),
    "/exit": lambda: os._exit(7),
    "/forever": wait_for_ever,
}


def application(environ, start_response):
    defect = DEFECTS.get(environ["PATH_INFO"])
    if defect:
        defect()
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", "4")])
    return [b"well"]
