"""An application that keeps the GIL for a minute in a C function, as `/keep` asks."""

import ctypes

LIBC = ctypes.PyDLL(None)


def application(environ, start_response):
    if environ["PATH_INFO"] == "/keep":
        LIBC.usleep(60_000_000)
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", "4")])
    return [b"free"]
