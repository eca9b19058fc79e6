"""Starts Python programs that serve with the package, for the tests, like the fixture `server` for the binary.

*Runs on*: the test's thread. *Invariants*: a program is ready when it has printed its address, as a URL or a port.
"""

import contextlib
import os
import re
import sys
import time

from client import PATIENCE, Client
from process import APPS, Server, eventually

#: The output of a program that is ready: a URL, or a port at the end of a line.
URL = r"(?:https?://[\w.\[\]:]*?:|port |ready on )(\d+)"


def program(server, *command, cwd, env=None, ready=URL, out=False, **more):
    """Starts `command` with the Python that runs the tests, and waits until it is ready."""
    command = [sys.executable, *map(str, command)]
    more.setdefault("bind", False)
    started = server("", command=command, ready=False, cwd=cwd, env={"PYTHONUNBUFFERED": "1", **(env or {})}, **more)
    if ready:
        see(started, ready, out)
    return started


@contextlib.contextmanager
def scenarios(path):
    """Gives a function that starts a scenario of the program `path` and waits until it is ready. Kills at the end what
    still runs."""
    started = []

    def start(scenario, *arguments, **more):
        running = Server(None, [], None, APPS, command=[sys.executable, path, scenario, *arguments], **more)
        started.append(running)
        return running.wait_ready()

    yield start
    for running in started:
        if not running.stopped:
            running.kill()


def see(started, ready=URL, out=False, start=0):
    """Waits until the program prints its address (again). Returns the position in its output after that line."""
    match = (started.out if out else started.err).wait(ready, 3 * PATIENCE, start=start)
    started.addresses = [f"http://127.0.0.1:{match[1]}"]
    return match.end()


def tool(name):
    """Returns the path of a command in the tests' environment."""
    return os.path.join(os.path.dirname(sys.executable), name)


def get(port, path="/", *fields):
    with Client(f"http://127.0.0.1:{port}") as client:
        return client.get(path, *fields)


def rewrite(path, old, new):
    """Changes a file like an editor."""
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def change(started, path, old, new, noticed):
    """Changes a source file, and saves it again until the program reports the change: reloaders poll, and their first
    look only records the file. Returns the position in the program's log after that report."""
    began = len(started.err.text())
    stamp = path.stat().st_mtime_ns
    rewrite(path, old, new)

    def seen():
        nonlocal stamp
        match = re.compile(noticed).search(started.err.text(), began)
        if match is None:
            # A file written within the same tick of the clock would look unchanged.
            stamp += 1_000_000_000
            os.utime(path, ns=(stamp, stamp))
            time.sleep(0.2)
        return match

    return eventually(seen, what="the reloader").end()
