"""Suspended responses of frameworks, and through middleware."""

import zlib

import pytest

from process import eventually


@pytest.fixture(scope="module")
def narrow(module_server):
    """A server with one thread: a response that held it would keep the event from coming."""
    return module_server("suspending_frameworks", "--threads", "1")


def stream(server, path):
    """Returns the body of a response that waits for two events."""
    with server.client() as client:
        client.request(f"GET {path} HTTP/1.1")
        for _ in range(2):
            eventually(lambda: server.get("/waiting").body == b"1", what="the response waits")
            assert server.get("/fire").body == b"1"
        return client.response().body


@pytest.mark.parametrize(
    "path, told",
    [
        ("/werkzeug/?name=w", b"w"),
        ("/webob/?name=o", b"o"),
        ("/flask/?name=f", b"f=f"),
        ("/django/?name=d", b"d"),
        ("/bare", b"told"),
        ("/validated", b"told"),
    ],
)
def test_response_of_a_framework_is_suspended_without_a_thread(narrow, path, told):
    start = len(narrow.err.text())
    assert stream(narrow, path) == b"begin %s %s " % (told, told)
    assert "Traceback" not in narrow.err.text()[start:] and "middleware" not in narrow.err.text()[start:]


def test_compressing_middleware_that_passes_empty_blocks_on_needs_no_thread(narrow):
    assert zlib.decompress(stream(narrow, "/gzip"), 31) == b"begin told told "


def test_compressing_middleware_that_keeps_empty_blocks_holds_the_thread(server):
    server = server("suspending_frameworks")
    with server.client() as client:
        client.request("GET /django/gzip/?name=z HTTP/1.1", "Accept-Encoding: gzip")
        for _ in range(2):
            eventually(lambda: server.get("/waiting").body == b"1", what="the response waits")
            assert server.get("/fire").body == b"1"
        response = client.response()
    assert b"begin z z " in (zlib.decompress(response.body, 31) if response.get("Content-Encoding") else response.body)
