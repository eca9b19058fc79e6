"""The application of most tests, with one route for each observation or effect that a test needs."""

import hashlib
import json
import os
import threading
import time
from urllib.parse import parse_qs

SERVED = []
GATES = {}
GATES_CHANGED = threading.Condition()
BLOCK = bytes(range(256)) * 256


def pattern(count):
    """Yields `count` bytes in blocks of 64 KiB, the same each time."""
    while count > 0:
        block = BLOCK[:count]
        count -= len(block)
        yield block


def read_all(environ, size=65536):
    while piece := environ["wsgi.input"].read(size):
        yield piece


def application(environ, start_response):
    path = environ["PATH_INFO"]
    SERVED.append(path)
    query = {k: v[0] for k, v in parse_qs(environ["QUERY_STRING"]).items()}
    route = ROUTES.get(path.strip("/").partition("/")[0], not_found)
    return route(environ, start_response, query)


def reply(start_response, body, status="200 OK", fields=()):
    if isinstance(body, str):
        body = body.encode()
    start_response(status, [("Content-Type", "text/plain"), ("Content-Length", str(len(body))), *fields])
    return [body]


def not_found(environ, start_response, query):
    return reply(start_response, "no such route", "404 Not Found")


def hello(environ, start_response, query):
    return reply(start_response, "Hello, World!\n")


def environ_json(environ, start_response, query):
    """Returns the environ as JSON, with the type's name for values that are not plain, and the body as latin-1."""
    body = b"".join(read_all(environ)).decode("latin-1")
    said = {k: v if isinstance(v, (str, bool, tuple)) else type(v).__name__ for k, v in environ.items()}
    return reply(start_response, json.dumps({"environ": said, "body": body}))


def pid(environ, start_response, query):
    return reply(start_response, str(os.getpid()))


def echo(environ, start_response, query):
    return reply(start_response, b"".join(read_all(environ)))


def crumbs(environ, start_response, query):
    """Sends the body back. Reads a few bytes at a time, in changing numbers."""
    pieces, size = [], 1
    while piece := environ["wsgi.input"].read(size):
        pieces.append(piece)
        size = size * 7 % 4099 + 1
    return reply(start_response, b"".join(pieces))


def sha(environ, start_response, query):
    digest, count = hashlib.sha256(), 0
    for piece in read_all(environ):
        digest.update(piece)
        count += len(piece)
    return reply(start_response, f"{count} {digest.hexdigest()} {environ.get('CONTENT_LENGTH')}")


def big(environ, start_response, query):
    """Sends `n` bytes with a Content-Length, block by block."""
    count = int(query["n"])
    start_response("200 OK", [("Content-Type", "application/octet-stream"), ("Content-Length", str(count))])
    return pattern(count)


def blocks(environ, start_response, query):
    """Sends `n` bytes without a Content-Length."""
    start_response("200 OK", [("Content-Type", "application/octet-stream")])
    return pattern(int(query["n"]))


def whole(environ, start_response, query):
    """Sends `n` bytes as one block."""
    return reply(start_response, b"".join(pattern(int(query["n"]))))


PROGRESS = {}


def endless(environ, start_response, query):
    """Sends `n` blocks of 64 KiB. /progress/NAME returns how many the server has taken, and whether it closed it."""
    name, count = query["name"], int(query.get("n", 1 << 30))
    progress = PROGRESS[name] = {"blocks": 0, "closed": 0}
    start_response("200 OK", [("Content-Type", "application/octet-stream")])
    return Counted(progress, count)


class Counted:
    def __init__(self, progress, count):
        self.progress, self.count = progress, count

    def __iter__(self):
        return self

    def __next__(self):
        if self.progress["blocks"] == self.count:
            raise StopIteration
        self.progress["blocks"] += 1
        return BLOCK

    def close(self):
        self.progress["closed"] += 1


def progress(environ, start_response, query):
    return reply(start_response, json.dumps(PROGRESS.get(environ["PATH_INFO"].split("/")[2])))


def sleep(environ, start_response, query):
    if "log" in query:
        print(f"called {query['log']}", file=environ["wsgi.errors"])
    time.sleep(float(query["s"]))
    return reply(start_response, "slept")


def compute(environ, start_response, query):
    end = time.perf_counter() + float(query["s"])
    while time.perf_counter() < end:
        sum(range(100))
    return reply(start_response, "computed")


def hold(environ, start_response, query):
    """Waits for a request to /release/NAME."""
    name = environ["PATH_INFO"].split("/")[2]
    with GATES_CHANGED:
        gate = GATES.setdefault(name, {"held": 0, "open": False})
        gate["held"] += 1
        GATES_CHANGED.notify_all()
        GATES_CHANGED.wait_for(lambda: gate["open"], 60)
        gate["held"] -= 1
        GATES_CHANGED.notify_all()
    return reply(start_response, "held " + name)


def held(environ, start_response, query):
    """Responds when `n` requests are inside /hold/NAME."""
    name = environ["PATH_INFO"].split("/")[2]
    with GATES_CHANGED:
        gate = GATES.setdefault(name, {"held": 0, "open": False})
        ok = GATES_CHANGED.wait_for(lambda: gate["held"] >= int(query.get("n", 1)), 20)
    return reply(start_response, "yes" if ok else "no")


def release(environ, start_response, query):
    name = environ["PATH_INFO"].split("/")[2]
    with GATES_CHANGED:
        GATES.setdefault(name, {"held": 0, "open": False})["open"] = True
        GATES_CHANGED.notify_all()
    return reply(start_response, "released")


def served(environ, start_response, query):
    """Returns the number of requests for the path `p`."""
    return reply(start_response, str(SERVED.count(query["p"])))


def status(environ, start_response, query):
    """Sends the status `s` with a short body, or with none for 204 and 304."""
    line = query["s"]
    if line[:3] in ("204", "304"):
        start_response(line, [("X-Probe", "1")])
        return []
    return reply(start_response, "a body", line)


def unread(environ, start_response, query):
    return reply(start_response, "not read")


def firstline(environ, start_response, query):
    return reply(start_response, environ["wsgi.input"].readline())


def close(environ, start_response, query):
    return reply(start_response, "bye", fields=[("Connection", "close")])


def fail(environ, start_response, query):
    """Raises an error, after a block with `late`."""
    if "late" not in query:
        raise ValueError("made to fail")
    start_response("200 OK", [("Content-Type", "text/plain")])
    return fail_late()


def short(environ, start_response, query):
    """Sends less than its Content-Length says."""
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", "9")])
    return iter([b"first"])


def fail_late():
    yield b"first"
    raise ValueError("made to fail")


def drip(environ, start_response, query):
    """Yields one block, then waits for the gate, then the rest."""
    name = environ["PATH_INFO"].split("/")[2]

    def body():
        yield b"first"
        with GATES_CHANGED:
            gate = GATES.setdefault(name, {"held": 0, "open": False})
            gate["held"] += 1
            GATES_CHANGED.notify_all()
            GATES_CHANGED.wait_for(lambda: gate["open"], 60)
        yield b"second"

    start_response("200 OK", [("Content-Type", "text/plain")])
    return body()


ROUTES = {
    "": hello, "environ": environ_json, "pid": pid, "echo": echo, "crumbs": crumbs, "sha": sha, "big": big, "blocks": blocks, "whole": whole,
    "endless": endless, "progress": progress, "sleep": sleep, "compute": compute, "hold": hold, "held": held,
    "release": release, "served": served, "status": status, "unread": unread, "firstline": firstline, "close": close,
    "fail": fail, "short": short, "drip": drip, "x": hello, "smuggled": hello,
}
