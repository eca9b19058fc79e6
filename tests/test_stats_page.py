"""Checks docs/reference/stats.md against the counters of a running server."""

import re
import threading

import pytest

from client import Client
from process import ROOT, eventually

maypole = pytest.importorskip("maypole")

PAGE = (ROOT / "docs" / "reference" / "stats.md").read_text()
TABLE = PAGE.partition("<!-- stats:")[2].partition("\n\n")[0]
KEYS = dict(re.findall(r"^\| `(\w+)` \| (\w+) \|", TABLE, re.M))
# Numbers that are above 0 without a request.
ALWAYS = {"state", "pool_size"}


def test_keys_and_types_are_those_of_the_page():
    def application(environ, start_response):
        start_response("200 OK", [])
        return []

    server = maypole.Server(application, "127.0.0.1:0")
    assert {key: type(value).__name__ for key, value in server.stats().items()} == KEYS
    assert not {key for key, value in server.stats().items() if value} - ALWAYS
    with server:
        assert {key: type(value).__name__ for key, value in server.stats().items()} == KEYS
        # The docstring also names them.
        assert not set(KEYS) - set(re.findall(r"\w+", maypole.Server.stats.__doc__))


def test_numbers_count_what_the_page_says():
    inside, go = threading.Barrier(2), threading.Event()

    def application(environ, start_response):
        if environ["PATH_INFO"] == "/wait":
            inside.wait(20)
            go.wait(20)
        start_response("200 OK", [("Content-Length", "0")])
        return []

    with maypole.Server(application, "127.0.0.1:0", threads=1, pool_size=7) as server:
        address = server.addresses[0]
        with Client(address) as idle, Client(address) as waiting, Client(address) as queued:
            assert idle.get().status == 200
            waiting.request("GET /wait HTTP/1.1")
            inside.wait(20)
            queued.request("GET / HTTP/1.1")
            seen = eventually(lambda: server.stats() if server.stats()["queued"] == 1 and server.stats()["idle"] == 1 else None)
            go.set()
            assert waiting.response().status == queued.response().status == 200
    expected = {
        "state": "running", "connections": 3, "idle": 1, "requests": 2, "pool_size": 7, "pool_taken": 2, "queued": 1,
        "threads_running": 1, "served": 3, "abandoned": 0, "late": 0, "hijacked": 0, "hijacked_total": 0,
    }  # fmt: skip
    assert {key: seen[key] for key in expected} == expected
    assert seen["threads"] >= 1 and seen["coroutines"] >= 2
    assert server.stats()["state"] == "closed"


@pytest.mark.parametrize(("settings", "expected"), [({}, b"shared"), ({"threads": 256}, b"its own")])
def test_servers_share_threads_unless_they_set_their_number(settings, expected):
    def seen():
        return b"shared" if other.stats()["threads_running"] else b"its own"

    def application(environ, start_response):
        # A thread of the other server may run a chore for a moment.
        body = eventually(lambda: seen() == b"its own" and b"its own") if settings else seen()
        start_response("200 OK", [("Content-Length", str(len(body)))])
        return [body]

    other = maypole.Server(application, "127.0.0.1:0")
    with other, maypole.Server(application, "127.0.0.1:0", **settings) as server, Client(server.addresses[0]) as client:
        assert client.get().body == expected
