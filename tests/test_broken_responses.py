"""Responses that break off: the access log has what was sent of them, and a line of the error log names the file."""

import json
import re

import pytest

from client import Client
from http2 import Http2Client
from process import eventually
from tls import TLS, TlsClient

JSON = ("--access-logfile", "-", "--access-logformat", "json")
PLANNED = 64 << 20


def line(running, path):
    """Waits for the line of the only request for a path. Returns its members."""

    def found():
        # The last line may not be whole yet.
        lines = [json.loads(line) for line in running.out.text().split("\n")[:-1] if line.startswith("{")]
        return [line for line in lines if line["path"] == path]

    eventually(found, what=f"a line for {path}")
    (members,) = found()
    return members


def body_of(head, rest):
    """Returns the bytes of a body that have arrived, without its framing."""
    if head.get("Transfer-Encoding") is None:
        return rest
    body = b""
    while (part := re.match(rb"([0-9a-f]+)\r\n", rest)) and part[1] != b"0":
        size, rest = int(part[1], 16), rest[part.end():]
        body, rest = body + rest[:size], rest[size:].removeprefix(b"\r\n")
    return body


@pytest.fixture
def site(tmp_path):
    (tmp_path / "site").mkdir()
    with (tmp_path / "site" / "long.bin").open("wb") as file:
        file.truncate(PLANNED)
    return tmp_path / "site"


@pytest.mark.parametrize("request_line", [
    f"GET /blocks?n={PLANNED} HTTP/1.1", f"GET /blocks?n={PLANNED} HTTP/1.0", f"GET /big?n={PLANNED} HTTP/1.1",
    f"GET /whole?n={PLANNED} HTTP/1.1", "GET /static/long.bin HTTP/1.1",
])
def test_line_has_what_was_sent_to_a_client_that_stops_reading(server, site, tmp_path, request_line):
    """What a server sends on a unix socket is what the client can read: no network holds a part of it."""
    running = server("probe", *JSON, "--bind", f"unix:{tmp_path}/socket", "--static", f"/static={site}",
                     "--write-timeout", "1s", bind=False)
    with running.client() as client:
        head = client.request(request_line).head()
        found = line(running, re.split("[ ?]", request_line)[1])
        got = len(body_of(head, client.rest()))
    assert 0 < got < PLANNED
    assert (found["status"], found["complete"], found["bytes"]) == (200, False, got)


def test_line_has_what_was_sent_to_a_client_that_leaves(server, site):
    running = server("probe", *JSON, "--static", f"/static={site}")
    with running.client(receive_buffer=4096) as client:
        client.request("GET /static/long.bin HTTP/1.1").head()
        got = len(client.read_exactly(10_000))
        client.reset()
    found = line(running, "/static/long.bin")
    assert found["complete"] is False and got <= found["bytes"] < PLANNED


def test_line_has_what_was_sent_before_the_application_failed(server):
    running = server("probe", *JSON)
    with running.client() as client:
        head = client.request("GET /fail?late=1 HTTP/1.1").head()
        assert body_of(head, client.rest()) == b"first"
    found = line(running, "/fail")
    assert (found["complete"], found["bytes"]) == (False, 5)


@pytest.mark.parametrize("protocol", ["HTTP/1.1", "HTTP/2.0"])
def test_response_that_is_shorter_than_it_said_has_one_line(server, protocol):
    running = server("probe", *JSON)
    if protocol == "HTTP/2.0":
        with Http2Client(running) as client:
            assert client.get("/short").body == b"first"
    else:
        with running.client() as client:
            client.request("GET /short HTTP/1.1").head()
            assert client.rest() == b"first"
    found = line(running, "/short")
    assert (found["complete"], found["bytes"]) == (False, 5)
    running.err.wait("is shorter than its Content-Length\n")
    assert running.err.text().count("is shorter") == 1


@pytest.mark.parametrize("protocol", ["HTTP/1.1", "HTTP/1.1, TLS", "HTTP/2.0", "HTTP/2.0, TLS"])
def test_file_that_becomes_shorter_is_named_with_its_request(server, site, protocol):
    tls = "TLS" in protocol
    running = server("probe", *JSON, "--static", f"/static={site}", "--request-id-header", "X-Request-ID", *(TLS if tls else ()))
    file, named = site / "long.bin", ("x-request-id", "seven")
    if protocol.startswith("HTTP/2"):
        with Http2Client(running, tls=tls, receive_buffer=4096) as client:
            response = client.responses[client.request("/static/long.bin", named)]
            client.until(lambda: response.body)
            file.write_bytes(b"")
            client.until(lambda: response.reset is not None)
            got, port = len(response.body), client.client.socket.getsockname()[1]
    else:
        with (TlsClient if tls else Client)(running.address, receive_buffer=4096) as client:
            client.request("GET /static/long.bin HTTP/1.1", ": ".join(named)).head()
            file.write_bytes(b"")
            got, port = len(client.rest()), client.socket.getsockname()[1]
    found = line(running, "/static/long.bin")
    assert (found["complete"], found["bytes"]) == (False, got) and 0 < got < PLANNED
    running.err.wait(rf'127\.0\.0\.1:{port}: the response to "GET /static/long\.bin {protocol[:8]}" \(request seven\) is cut off: '
                     rf"{re.escape(str(file))} became shorter while it was sent\n")
    assert running.err.text().count("became shorter") == 1
