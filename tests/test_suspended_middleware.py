"""Middleware that is in use: which lets a suspended response give its thread back, and which holds the thread.

docs/howto/suspend.md has the same table.
"""

import re
import zlib

import pytest

from process import ROOT, eventually

for _needed in ("django", "opentelemetry.instrumentation.wsgi", "paste", "sentry_sdk", "webob", "werkzeug", "whitenoise"):
    pytest.importorskip(_needed)

APPLICATION = "suspending_middleware"
PASSES = ["proxy_fix", "shared_data", "dispatcher", "http_proxy", "webob", "paste_registry", "paste_recursive", "paste_cascade",
          "paste_translogger", "whitenoise", "sentry", "opentelemetry", "lint", "validator", "own_start_response", "own_closing",
          "django/all", "django/conditional"]  # fmt: skip
HOLDS = ["joins", "skips_empty", "profiler", "paste_gzip", "django/gzip"]
LAPSE = "middleware keeps the block"


def body(server, path):
    """Returns the body of a response that waits for two events."""
    with server.client() as client:
        client.request(f"GET /{path} HTTP/1.1", "Accept-Encoding: gzip")
        for _ in range(2):
            eventually(lambda: server.get("/waiting").body == b"1", what="the response waits")
            assert server.get("/fire").body == b"1"
        response = client.response()
    return zlib.decompress(response.body, 31) if response.get("Content-Encoding") else response.body


@pytest.fixture(scope="module")
def narrow(module_server):
    """A server with one thread: a response that held it would keep the event from coming."""
    return module_server(APPLICATION, "--threads", "1")


@pytest.mark.parametrize("path", PASSES)
def test_middleware_that_passes_empty_blocks_holds_no_thread(narrow, path):
    start = len(narrow.err.text())
    assert body(narrow, path) == b"begin told told "
    assert not re.search(f"Traceback|{LAPSE}", narrow.err.text()[start:])


@pytest.mark.parametrize("path", HOLDS)
def test_middleware_that_keeps_empty_blocks_holds_the_thread_and_the_log_says_so(server, path):
    running = server(APPLICATION, "--threads", "3")
    for _ in range(2):
        assert body(running, path) == b"begin told told "
    running.err.wait(LAPSE)
    running.stop()
    assert running.err.text().count(LAPSE) == 1
    assert "Traceback" not in running.err.text()
