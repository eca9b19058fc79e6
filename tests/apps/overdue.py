"""Calls that take longer than their limit. A byte in the FIFO that GATE names ends one call that waits.

`/wait` waits; `/begun` and `/closed` send a block first; `/keep` keeps the GIL meanwhile. `/stubborn` waits again when it is
interrupted, and `/loop` runs Python code until it is interrupted. `/left` writes whether its deadline is past."""

import ctypes
import functools
import os
import sys
import time

FIFO = os.open(os.environ["GATE"], os.O_RDWR)


def wait():
    os.read(FIFO, 1)


def keep_the_gil():
    # PyDLL, unlike CDLL, does not release the GIL during a call.
    libc = ctypes.PyDLL(None)
    interval = sys.getswitchinterval()
    sys.setswitchinterval(60)
    libc.read(FIFO, ctypes.create_string_buffer(1), 1)
    sys.setswitchinterval(interval)


def loop():
    while True:
        sum(range(100))


def stubborn():
    try:
        loop()
    except BaseException as error:
        print(f"caught {type(error).__module__} {type(error).__name__}", file=sys.stderr, flush=True)
        wait()


def application(environ, start_response):
    path = environ["PATH_INFO"]
    if path == "/begun":
        start_response("200 OK", [("Content-Type", "text/plain")])
        return begun()
    if path == "/closed":
        start_response("200 OK", [("Content-Type", "text/plain")])
        return ClosedInC([b"begun"])
    {"/wait": wait, "/keep": keep_the_gil, "/loop": loop, "/stubborn": stubborn}.get(path, time.time)()
    left = environ["maypole.deadline"] - time.monotonic() if "maypole.deadline" in environ else None
    gone = environ["maypole.client_disconnected"]()
    print(f"ended {path}, client gone: {gone}", file=sys.stderr, flush=True)
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [repr(left).encode()]


class ClosedInC(list):
    """Its end waits in a function that is written in C, after the last step of Python code."""

    close = functools.partial(os.read, FIFO, 1)


def begun():
    yield b"begun"
    wait()
    try:
        yield b"never sent"
    finally:
        print("closed", file=sys.stderr, flush=True)
