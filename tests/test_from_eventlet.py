"""The programs of docs/from-eventlet.md: the old one runs on eventlet, and the new one stops gracefully."""

import re
import signal
import subprocess
import sys

import pytest

from process import ROOT, RUNNING, Server

pytest.importorskip("eventlet")

UP = r"wsgi starting up on (http://(127\.0\.0\.1:\d+))"


def program(number):
    """Starts a program of the page on a free port."""
    text = (ROOT / "docs/from-eventlet.md").read_text()
    return re.findall(r"^```python\n(.*?)^```", text, re.M | re.S)[number].replace('"127.0.0.1", 8000', '"127.0.0.1", 0')


@pytest.fixture
def started(tmp_path):
    servers = []

    def start(source):
        (tmp_path / "shop.py").write_text(source)
        server = Server(None, (), None, tmp_path, command=[sys.executable, "shop.py"], stdin=subprocess.PIPE)
        servers.append(server)
        server.addresses = [server.err.wait(UP)[2]]
        return server

    yield start
    for server in servers:
        server.process.stdin.close()
        if server.process.poll() is None:
            server.kill()
        if server in RUNNING:
            RUNNING.remove(server)


def test_program_before_runs_on_eventlet(started):
    server = started(program(0))
    assert server.get("/").body == b"Hello\n"


def test_program_after_stops_gracefully(started):
    server = started(program(1))
    assert server.get("/").body == b"Hello\n"
    server.signal(signal.SIGTERM)
    assert server.wait() == 0


def test_program_after_finishes_the_request_that_runs(started):
    source = program(1)
    slow = source.replace('    return [b"Hello', '    print("called", flush=True)\n    input()\n    return [b"Hello')
    assert slow != source
    server = started(slow)
    with server.client() as client:
        client.send(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        server.out.wait("called")
        server.signal(signal.SIGTERM)
        server.err.wait("wsgi exiting")
        server.process.stdin.write(b"\n")
        server.process.stdin.flush()
        response = client.response()
    assert response.status == 200 and response.body == b"Hello\n"
    assert server.wait() == 0
