"""Starts tests/programs/eventlet_app.py on `maypole.eventlet` and on the real `eventlet.wsgi`.

Owns: the fixtures. `both` runs a test on each of the two libraries, so that eventlet itself confirms what the test
expects. `shared` and `own` start scripts with arguments, for the tests of a file or for one test.
"""

import contextlib
import json
import re
import sys

import pytest

from process import PROGRAMS, RUNNING, Server, eventually

UP = re.compile(r"\((\d+)\) wsgi starting up on (http:\S+)")


class Script(Server):
    """A running tests/programs/eventlet_app.py, on one of the two libraries."""

    def __init__(self, library, script="eventlet_app.py", args=(), **arguments):
        self.library = library
        words = [sys.executable, "-W", "ignore::DeprecationWarning", script, library, *args, json.dumps(arguments)]
        super().__init__(None, (), None, PROGRAMS, command=words)

    def wait_ready(self):
        match = self.err.wait(UP)
        address = match[2]
        self.addresses = [address if address.startswith("http://") else f"unix:{address[len('http:'):]}"]
        return self

    def json(self, path, *fields, body=None, method="POST"):
        with self.client() as client:
            response = client.get(path, *fields) if body is None else client.post(path, body, *fields, method=method)
            assert response.status == 200, response
            return json.loads(response.body)

    def events(self, event):
        return self.json(f"/events?e={event.replace(' ', '%20')}")

    def logged(self, pattern, start=0):
        return self.err.wait(pattern, start=start)


@contextlib.contextmanager
def scripts():
    started = {}

    def start(library="maypole", **arguments):
        """Returns the running script with these arguments, or starts one."""
        key = (library, json.dumps(arguments, sort_keys=True))
        if key not in started or started[key].process.poll() is not None:
            started[key] = Script(library, **arguments)
        return started[key].wait_ready()

    try:
        yield start
        for script in started.values():
            script.stop()
    finally:
        for script in started.values():
            if script.process.poll() is None:
                script.kill()
            RUNNING.remove(script)


@pytest.fixture(scope="module")
def shared():
    """Returns scripts that the tests of a file share, by their arguments."""
    with scripts() as start:
        yield start


@pytest.fixture
def own():
    """Starts scripts for one test."""
    with scripts() as start:
        yield start


@pytest.fixture(params=["maypole", "eventlet"])
def library(request):
    return request.param


@pytest.fixture
def both(shared, library):
    """Starts scripts on each of the two libraries."""
    return lambda **arguments: shared(library, **arguments)


@pytest.fixture
def maypole(shared):
    return shared()


def chunked(*pieces):
    return b"".join(b"%x\r\n%s\r\n" % (len(piece), piece) for piece in pieces)


LAST = b"0\r\n\r\n"


def wait_for_event(server, beginning):
    """Waits until the application has reported an event that begins with this text."""
    eventually(lambda: any(event.startswith(beginning) for event in server.json("/events")), what=beginning)


def test_body_and_response_may_run_at_once(both):
    with both().client() as client:
        client.request("PUT /duplex HTTP/1.1", "Transfer-Encoding: chunked")
        client.send(chunked(b"one\n"))
        lines = client.chunks(client.head())
        assert next(lines) == b"ONE\n"
        client.send(chunked(b"two\n"))
        assert next(lines) == b"TWO\n"
        client.send(LAST)
        assert list(lines) == []
        client.assert_open()
