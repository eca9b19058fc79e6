"""The applications that every server in a comparison serves. They use the standard library, and Flask only if asked for."""

import ctypes
import json
import os
import time

HELLO = b"Hello, World!"
HELLO_FIELDS = [("Content-Type", "text/plain"), ("Content-Length", "13")]
KIB = b"x" * 1024
MIB = b"y" * (1 << 20)
MIB8 = MIB * 8
FILE = os.environ.get("BENCH_FILE", "")
# About 1 ms of Python 3.11 on the machine of the first runs. The number is fixed, so every server does the same work.
SPIN = int(os.environ.get("BENCH_SPIN", "31000"))


def hello(environ, start_response):
    start_response("200 OK", list(HELLO_FIELDS))
    return [HELLO]


def echo(environ, start_response):
    body = environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
    start_response("200 OK", [("Content-Type", "application/octet-stream"), ("Content-Length", str(len(body)))])
    return [body]


def stream(environ, start_response):
    """Returns 100 blocks of 1 KiB without Content-Length."""
    start_response("200 OK", [("Content-Type", "text/plain")])
    return (KIB for _ in range(100))


def json_environ(environ, start_response):
    body = json.dumps({key: value for key, value in environ.items() if isinstance(value, str)}).encode()
    start_response("200 OK", [("Content-Type", "application/json"), ("Content-Length", str(len(body)))])
    return [body]


def sleep_10ms(environ, start_response):
    time.sleep(0.010)
    return hello(environ, start_response)


def sleep_query(environ, start_response):
    """Waits for the number of milliseconds in the query."""
    time.sleep(float(environ.get("QUERY_STRING") or 0) / 1000)
    return hello(environ, start_response)


def cpu_1ms(environ, start_response):
    total = 0
    for number in range(SPIN):
        total += number & 7
    return hello(environ, start_response)


def keep_gil(environ, start_response):
    """Keeps the GIL for the number of seconds in the query, as a function in C can."""
    if environ["QUERY_STRING"]:
        ctypes.PyDLL(None).sleep(int(environ["QUERY_STRING"]))
    return hello(environ, start_response)


def file(environ, start_response):
    opened = open(FILE, "rb")
    size = os.fstat(opened.fileno()).st_size
    start_response("200 OK", [("Content-Type", "application/octet-stream"), ("Content-Length", str(size))])
    wrapper = environ.get("wsgi.file_wrapper")
    return wrapper(opened, 65536) if wrapper else iter(lambda: opened.read(65536), b"")


def mixed(environ, start_response):
    """Returns 1 MiB for /big, 8 MiB for /big8, and hello for any other path."""
    block = {"/big": MIB, "/big8": MIB8}.get(environ["PATH_INFO"])
    if block is None:
        return hello(environ, start_response)
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", str(len(block)))])
    return [block]


if os.environ.get("BENCH_FLASK"):
    from flask import Flask

    flask_app = Flask(__name__)

    @flask_app.route("/hello")
    def _hello():
        return "Hello, World!"
