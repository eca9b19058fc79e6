"""WebSockets in great number that send each message back and hold nothing else, and numbers about them."""

import ctypes
import gc
import json
import os
import threading
import weakref

OPEN = weakref.WeakSet()
CLOSES = {}
LOCK = threading.Lock()


def on_message(ws, message):
    ws.send(message)


def on_close(ws, code, reason):
    with LOCK:
        CLOSES[code] = CLOSES.get(code, 0) + 1


def anonymous_kib():
    """Returns the memory of the process that no file backs, after freed memory has gone back to the system."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    with open("/proc/self/status") as file:
        return int(file.read().partition("RssAnon:")[2].split()[0])


def application(environ, start_response):
    if environ["PATH_INFO"] == "/numbers":
        body = json.dumps({
            "open": len(OPEN), "closes": CLOSES, "kib": anonymous_kib(), "descriptors": len(os.listdir("/proc/self/fd")),
            "threads": len(os.listdir("/proc/self/task")),
        }).encode()  # fmt: skip
        start_response("200 OK", [("Content-Type", "application/json"), ("Content-Length", str(len(body)))])
        return [body]
    pings = environ["QUERY_STRING"]
    ws = environ["maypole.websocket"].accept(on_message, on_close, ping_interval=float(pings) if pings else 30)
    OPEN.add(ws)
    return []
