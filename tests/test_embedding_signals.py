"""`serve_forever(handle_signals=True)`: SIGTERM and SIGINT stop a server inside a program gracefully."""

import json
import signal
import subprocess
import sys

import pytest

from client import PATIENCE
from process import PROGRAMS, clean_environment
from running import scenarios

pytestmark = pytest.mark.smoke

PROGRAM = str(PROGRAMS / "serves_forever.py")
ENDED = {"same": True, "state": "stopped"}


@pytest.fixture
def program():
    with scenarios(PROGRAM) as start:
        yield start


def last(running):
    return json.loads(running.out.wait_end().splitlines()[-1])


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_request_that_is_inside_is_answered(program, number):
    running = program("serves")
    with running.client() as client, running.client() as idle:
        assert idle.get("/").status == 200
        # The response comes only when the server is stopping.
        client.request("GET /until-stopping HTTP/1.1")
        running.out.wait("inside /until-stopping")
        running.signal(number)
        response = client.response()
        assert (response.status, response.body, response.get("Connection")) == (200, b"answered", "close")
        idle.assert_closed()
    assert running.wait() == 0, running.err.text()
    assert last(running) == ENDED
    assert f"{number.name}: stopping; 1 request may run for 60 s more (graceful_timeout)" in running.err.text()


def test_second_signal_cuts_off_what_runs(program):
    running = program("serves")
    with running.client() as client:
        client.request("GET /hang HTTP/1.1")
        running.out.wait("inside /hang")
        running.signal(signal.SIGTERM)
        running.err.wait("SIGTERM: stopping")
        # A second SIGTERM at once is an echo of the first.
        running.signal(signal.SIGTERM)
        assert client.quiet(0.2)
        running.signal(signal.SIGINT)
        assert client.rest() == b""
    assert running.wait() == 0, running.err.text()
    assert last(running) == ENDED
    assert "SIGINT again: cutting off the requests that still run" in running.err.text()


def test_request_that_does_not_end_is_cut_off_after_graceful_timeout(program):
    running = program("impatient")
    with running.client() as client:
        client.request("GET /hang HTTP/1.1")
        running.out.wait("inside /hang")
        running.signal(signal.SIGTERM)
        assert client.rest() == b""
    assert running.wait() == 0, running.err.text()
    assert last(running) == ENDED


def run(scenario):
    command = [sys.executable, PROGRAM, scenario]
    return subprocess.run(command, env=clean_environment(), capture_output=True, text=True, timeout=3 * PATIENCE)


def test_signal_before_the_start_is_not_lost():
    done = run("early")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == ENDED


def test_other_thread_than_the_main_thread_is_refused():
    done = run("thread")
    (sentence,) = json.loads(done.stdout)
    assert "main thread only" in sentence
