"""Suspended responses while a service is operated: workers are replaced, a process starts again, a server is stopped.

A client whose stream ends connects again, as a browser does, and is served by what has taken the old one's place.
"""

import contextlib
import importlib
import signal
import sys
import time

import pytest

from client import Client
from process import APPS, READY, eventually, run
from status import Status
from test_succession import succeed  # noqa: F401
from test_suspended import chunk, fire

SERVES = r"worker (\d+) \(pid (\d+)\) serves"
#: A time that no test waits for: what ends in time does not end because of it.
LONG = "100s"


@contextlib.contextmanager
def stream(server, name):
    """Gives a client whose stream of events is suspended."""
    with server.client() as client:
        client.request(f"GET /events?{name} HTTP/1.1")
        assert client.head().status == 200
        assert chunk(client) == b"begin\n"
        assert server.get(f"/seen?{name}").body == b"1"
        yield client


def check_serves(server):
    """Checks that a new stream gets its event."""
    with stream(server, "new") as client:
        assert fire(server, "new") == 1
        assert chunk(client) == b"0\n"


def pids(running):
    return [process["pid"] for process in Status(running).json()["processes"]]


def ask_often(running):
    for _ in range(60):
        assert running.get("/plain").body == b"plain"


def reload(running):
    done = run("reload", running.pid)
    assert done.returncode == 0, done.stderr


#: How a worker comes to be replaced: the options, and what is done.
REPLACEMENTS = {
    "max-requests": (["--max-requests", "60"], ask_often),
    "max-worker-memory": (["--max-worker-memory", "250MiB"], lambda running: running.get("/grows?300")),
    "preload": (["--preload"], lambda running: running.signal(signal.SIGHUP)),
    "reload": ([], reload),
}


@pytest.mark.parametrize("how", REPLACEMENTS)
def test_stream_does_not_hold_up_the_replacement_of_its_worker(server, how):
    options, replace = REPLACEMENTS[how]
    running = server("suspending", "--workers", "1", "--graceful-timeout", LONG, "--status-bind", "127.0.0.1:0", *options)
    (pid,) = pids(running)
    with stream(running, "old") as client:
        start = len(running.err.text())
        replace(running)
        # The stream ends as a whole one.
        assert chunk(client) == b""
        assert int(running.err.wait(SERVES, start=start)[2]) != pid
        eventually(lambda: pid not in pids(running), what="the end of the old worker")
    check_serves(running)


def test_stream_does_not_hold_up_the_end_of_a_workers_lifetime(server):
    options = ["--workers", "1", "--graceful-timeout", LONG, "--worker-lifetime", "2s", "--status-bind", "127.0.0.1:0"]
    running = server("suspending", *options)
    for number in range(2):
        with running.client() as client:
            client.request(f"GET /events?{number} HTTP/1.1")
            assert client.head().status == 200
            assert chunk(client) == b"begin\n"
            served_by = pids(running)
            assert chunk(client) == b""
            eventually(lambda: not set(served_by) & set(pids(running)), what="the end of the old worker")


@pytest.mark.parametrize("restart", [lambda running: running.signal(signal.SIGHUP), reload], ids=["sighup", "command"])
def test_stream_does_not_hold_up_a_process_that_starts_again(server, restart):
    running = server("suspending", "--graceful-timeout", LONG)
    with stream(running, "old") as client:
        start = len(running.err.text())
        restart(running)
        assert chunk(client) == b""
        running.err.wait(READY, start=start)
    check_serves(running)


def test_stream_does_not_hold_up_a_new_supervisor(server, succeed):  # noqa: F811
    running = server("suspending", "--workers", "1", "--graceful-timeout", LONG)
    with stream(running, "old") as client:
        succeed(running)
        assert chunk(client) == b""
        assert running.process.wait(20) == 0
    check_serves(running)


def test_stream_that_may_finish_ends_before_its_worker(server):
    options = ["--workers", "1", "--graceful-timeout", "3s", "--status-bind", "127.0.0.1:0", "--suspended-on-stop", "finish",
               "--log-level", "debug"]
    running = server("suspending", *options)
    with stream(running, "old") as client:
        start = len(running.err.text())
        running.signal(signal.SIGHUP)
        running.err.wait(SERVES, start=start)
        # The old worker accepts no more once it has been told to stop. The new one serves meanwhile.
        running.err.wait("SIGHUP: stopping; ", start=start)
        check_serves(running)
        assert chunk(client) == b""
        eventually(lambda: len(pids(running)) == 1, what="the end of the old worker")
    assert "cut off" not in running.err.text()


# --- a server inside a program ------------------------------------------------------------------------------------


class Embedded:
    """A server inside this process, as the helpers of these tests know servers."""

    def __init__(self, **settings):
        maypole = pytest.importorskip("maypole")
        sys.path.insert(0, str(APPS))
        try:
            application = importlib.import_module("suspending").application
        finally:
            sys.path.remove(str(APPS))
        self.server = maypole.Server(application, "127.0.0.1:0", **settings)

    def client(self):
        return Client(f"http://127.0.0.1:{self.server.port}")

    def get(self, path):
        with self.client() as client:
            return client.get(path)


@pytest.mark.parametrize("how, timeout", [("close", 100), ("finish", 2)])
def test_stop_of_an_embedded_server_closes_its_streams(how, timeout):
    embedded = Embedded(suspended_on_stop=how)
    for number in (1, 2):
        embedded.server.start()
        with stream(embedded, f"{how}{number}") as client:
            began = time.monotonic()
            assert embedded.server.stop(timeout=timeout)
            assert time.monotonic() - began < 50
            assert chunk(client) == b""
        assert embedded.server.stats()["suspended"] == 0
    embedded.server.close()


def test_embedded_server_that_stops_by_itself_at_the_end_of_its_block_closes_its_streams():
    embedded = Embedded(graceful_timeout=100)
    with contextlib.ExitStack() as clients:
        with embedded.server:
            client = clients.enter_context(stream(embedded, "block"))
        assert chunk(client) == b""
