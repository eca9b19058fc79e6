"""Shows what a worker sees of its place."""

import collections
import itertools
import json
import os
import subprocess


def send(start_response, body):
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", str(len(body)))])
    return [body]


def environment(environ, start_response):
    """Sends the environment variables of a child process."""
    return send(start_response, subprocess.run(["env"], capture_output=True, check=True).stdout)


def process(environ, start_response):
    """Sends the number of the process."""
    return send(start_response, str(os.getpid()).encode())


def keep_gil(environ, start_response):
    """Runs a function in C that never ends and keeps the GIL."""
    collections.deque(itertools.repeat(None), maxlen=0)


KEPT = []


def keep_memory(environ, start_response):
    """Keeps as much memory as the query says."""
    KEPT.append(b"x" * (int(environ["QUERY_STRING"].removeprefix("MiB=")) << 20))
    return send(start_response, b"kept")


def leak(environ, start_response):
    """Keeps some memory for each request."""
    KEPT.append(b"x" * (64 << 10))
    return send(start_response, b"kept")


def described(environ, start_response):
    """Sends what the application knows of its place."""
    import maypole

    worker = maypole.worker()
    place = {
        "environ": environ.get("maypole.worker"),
        "variable": os.environ.get("MAYPOLE_WORKER"),
        "multiprocess": environ["wsgi.multiprocess"],
        "worker": worker and worker._asdict(),
    }
    return send(start_response, json.dumps(place).encode())
