"""Suspended responses in great number, whose generators hold nothing else, and numbers about them."""

import gc
import json
import os
import time
import weakref

try:
    from maypole import sse
except ImportError:
    # The path /events is then missing.
    sse = None

WAITING = []
GENERATORS = weakref.WeakSet()
CLOSED = []
BROADCAST = sse and sse.Broadcast(heartbeat=None)


def subscriber(suspend):
    try:
        yield b": open\n\n"
        while True:
            WAITING.append(suspend())
            yield b""
            yield b"data: event\n\n"
    finally:
        CLOSED.append(None)


def broadcast():
    resumes = WAITING[:]
    del WAITING[:len(resumes)]
    began = time.perf_counter()
    resumed = sum(resume() for resume in resumes)
    return {"resumed": resumed, "seconds": time.perf_counter() - began}


def forget():
    """Forgets the events of those that have left."""
    WAITING.clear()
    return {}


def numbers():
    gc.collect()
    with open("/proc/self/status") as file:
        status = dict(line.split(":\t", 1) for line in file)
    return {
        "threads": int(status["Threads"]),
        "memory": int(status["RssAnon"].split()[0]) * 1024,
        "descriptors": len(os.listdir("/proc/self/fd")),
        "generators": len(GENERATORS),
        "closed": len(CLOSED),
        "waiting": len(WAITING),
        "subscribers": BROADCAST.subscribers("news") if BROADCAST else 0,
        "objects": len(gc.get_objects()),
    }


def application(environ, start_response):
    path = environ["PATH_INFO"]
    if path == "/subscribe":
        start_response("200 OK", [("Content-Type", "text/event-stream")])
        generator = subscriber(environ["maypole.suspend"])
        GENERATORS.add(generator)
        return generator
    if path == "/events":
        stream = BROADCAST.subscribe(environ, "news", on_close=lambda: CLOSED.append(None))
        GENERATORS.add(stream)
        return stream(environ, start_response)
    body = b"hello"
    if path != "/":
        body = json.dumps({"/broadcast": broadcast, "/forget": forget, "/numbers": numbers}[path]()).encode()
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", str(len(body)))])
    return [body]
