"""A program whose interpreter ends while a call runs Python code from inside the server: `exit_inside.py PLACE`.

PLACE names the application's code that the server calls. This code takes and releases the GIL until the process ends.
"""

import io
import logging
import os
import sys
import time

import maypole

PLACE = sys.argv[1]


def stall(*_):
    """Takes the GIL repeatedly, also while the interpreter ends."""
    os.write(1, b"inside\n")
    while True:
        time.sleep(0.001)


class Stalls:
    """An iterable of one block that stalls in one of its methods."""

    def __len__(self):
        return stall() if PLACE == "len" else 1

    def __iter__(self):
        return stall() if PLACE == "iter" else self

    def __next__(self):
        if PLACE == "next":
            stall()
        raise StopIteration

    def close(self):
        if PLACE == "close":
            stall()

    def __getattribute__(self, name):
        if PLACE == "getattribute" and name == "close":
            stall()
        return object.__getattribute__(self, name)

    def __del__(self):
        if PLACE == "del":
            stall()


class File(io.BytesIO):
    """A file for the file wrapper that has no descriptor."""

    read = stall


class FileWithDescriptor(io.FileIO):
    """A file for the file wrapper that is sent by its descriptor."""

    fileno = stall


class Text(str):
    """A value that stalls as text."""

    def __str__(self):
        return stall()


class Failure(Exception):
    """An exception that stalls as text."""

    def __str__(self):
        return stall() if PLACE == "traceback" else "failure"


def hints():
    stall()
    yield


def application(environ, start_response):
    if PLACE == "call":
        stall()
    if PLACE == "early hints":
        environ["wsgi.early_hints"](hints())
    if PLACE == "traceback":
        raise Failure
    if PLACE == "errors":
        environ["wsgi.errors"].writelines(hints())
    if PLACE == "environ":
        environ["exit.value"] = Text("text")
    start_response("200 OK", [("Content-Type", "text/plain")])
    if PLACE == "read":
        return environ["wsgi.file_wrapper"](File())
    if PLACE == "fileno":
        return environ["wsgi.file_wrapper"](FileWithDescriptor(__file__))
    if PLACE in ("access", "access line", "environ"):
        return [b"hello"]
    return Stalls()


class TakesLong:
    """An object whose deletion takes a while. The interpreter ends during that time."""

    def __del__(self, sleep=time.sleep):
        sleep(0.4)


TAKES_LONG = sys.takes_long = TakesLong()
options = {"graceful_timeout": "100ms"}
if PLACE == "access":
    options["on_access"] = stall
if PLACE == "access line":
    # A handler would hold its lock, and the exit function of logging waits for that lock.
    logging.getLogger("maypole.access").addFilter(stall)
    logging.getLogger("maypole.access").setLevel(logging.INFO)
    options["access_logfile"] = "-"
if PLACE == "environ":
    options.update(access_logfile="/dev/null", access_logformat="%({exit.value}e)s")
server = maypole.Server(application, "127.0.0.1:0", **options)
server.start()
print(f"listening on {server.addresses[0]}, pool size 1000", file=sys.stderr, flush=True)
sys.stdin.read()
sys.exit(3)
