"""What a server counts of HTTP/2: the lines of the access log, the numbers of streams, and how they end."""

import json
import signal

import pytest

from http2 import ENHANCE_YOUR_CALM, HEADERS, PING, PROTOCOL_ERROR, REFUSED_STREAM, Http2Client, frame
from process import eventually
from status import Status

JSON = ("--access-logfile", "-", "--access-logformat", "json")


def lines(running, path):
    """Returns the lines of the access log for a path."""
    # The last line may not be whole yet.
    found = [json.loads(line) for line in running.out.text().split("\n")[:-1] if line.startswith("{")]
    return [line for line in found if line["path"] == path]


def line(running, path):
    """Waits for the line of the only request for a path."""
    eventually(lambda: lines(running, path), what=f"a line for {path}")
    (found,) = lines(running, path)
    return found


@pytest.mark.parametrize("path", ["/", "/whole?n=50000", "/status?s=204+No", "/none"])
def test_line_has_the_bytes_that_were_sent(server, path):
    running = server("probe", *JSON)
    with Http2Client(running) as client:
        response = client.get(path)
    found = line(running, path.partition("?")[0])
    assert (found["complete"], found["status"], found["bytes"]) == (True, response.status, len(response.body))


def test_line_comes_when_the_client_has_the_response(server):
    """A response that the server holds for a client that does not read is not counted as sent."""
    running = server("probe", *JSON)
    with Http2Client(running, receive_buffer=4096) as client:
        late = client.request("/hold/late")
        assert running.get("/held/late").body == b"yes"
        window = 2**31 - 70_000
        client.state.increment_flow_control_window(window)
        flood = client.request("/endless?name=flood")
        client.state.increment_flow_control_window(window, flood)
        client.flush()
        # The socket is full once the application is no longer asked for more.
        seen = []
        eventually(lambda: is_still(running, seen), what="a full socket")
        assert running.get("/release/late").status == 200
        eventually(lambda: "/hold/late" not in "\n".join(running.report()), what="the end of the call")
        assert running.get("/pid").status == 200
        assert line(running, "/pid")["complete"] is True
        assert not lines(running, "/hold/late"), "the client has nothing of it"
        client.reset(flood)
        response = client.response(late)
        assert response.body == b"held late"
        found = line(running, "/hold/late")
        assert (found["complete"], found["bytes"]) == (True, len(b"held late"))
    found = line(running, "/endless")
    assert (found["complete"], found["status"]) == (False, 200)


def is_still(running, seen):
    """Returns whether the flood has made no piece since the last look."""
    seen.append(json.loads(running.get("/progress/flood").body))
    return len(seen) > 3 and seen[-1]["blocks"] > 0 and seen[-1] == seen[-3]


def test_line_of_a_client_that_leaves_has_what_it_got(server):
    running = server("probe", *JSON)
    with Http2Client(running, flow=False) as client:
        stream = client.request("/whole?n=200000")
        client.until(lambda: len(client.responses[stream].body) == 65_535)
    found = line(running, "/whole")
    assert (found["complete"], found["status"], found["bytes"]) == (False, 200, 65_535)


def process(status):
    """Returns the numbers of the only process."""
    (found,) = status.json()["processes"]
    return found


@pytest.mark.parametrize("workers", [(), ("--workers", "1")])
def test_connections_streams_and_requests_are_counted(server, workers):
    running = server("probe", "--status-bind", "0", *workers)
    status = Status(running)

    def numbers():
        return [process(status)[name] for name in ("http2_connections", "http2_streams")]

    def metrics(*names):
        return [status.metric(f"maypole_{name}") for name in names]

    gauges = ['http2_connections{worker="1"}', 'http2_streams{worker="1"}']
    assert metrics(*gauges, "http2_requests_total") == [0, 0, 0]
    with Http2Client(running) as client, Http2Client(running) as idle:
        assert idle.get("/").status == client.get("/").status == 200
        streams = [client.request("/hold/counted") for _ in range(3)]
        assert running.get("/held/counted?n=3").body == b"yes"
        eventually(lambda: numbers() == [2, 3], what="the numbers")
        assert metrics(*gauges) == [2, 3]
        if not workers:
            assert "; 2 connections with 3 streams of HTTP/2" in running.report()[0]
        # The row of the question for them stays a moment longer than its response takes.
        eventually(lambda: [row["request"] for row in status.json("/requests.json")["requests"]]
                   == ["GET /hold/counted HTTP/2.0"] * 3, what="the rows")
        assert running.get("/release/counted").status == 200
        assert {client.response(stream).status for stream in streams} == {200}
        eventually(lambda: numbers() == [2, 0], what="the end of the streams")
    eventually(lambda: numbers() == [0, 0], what="the end of the connections")
    assert metrics("http2_requests_total") == [5]
    assert "<th scope=\"col\">HTTP/2</th>" in status.text("/")[1]


def test_resets_and_goodbyes_are_counted_by_their_codes(server):
    running = server("probe", "--status-bind", "0", "--pool-size", "1", "--queue-timeout", "100ms", "--http2-max-connections", "2")
    status = Status(running)

    def await_counts(kind, *expected):
        """Waits until the counts are so: a client may learn of an end before it is counted."""
        codes = ("protocol_error", "internal_error", "refused_stream", "cancel", "enhance_your_calm", "no_error")
        names = [f'maypole_http2_{kind}_total{{code="{code}"}}' for code in codes]
        eventually(lambda: [status.metric(name) for name in names] == [*expected], what=f"{kind}: {expected}")

    for kind in ("resets", "goaways"):
        await_counts(kind, 0, 0, 0, 0, 0, 0)
    with Http2Client(running) as client:
        assert client.get("/", ("connection", "close")).reset == PROTOCOL_ERROR
        assert client.get("/", ("x-space", " a")).reset == PROTOCOL_ERROR
        held = client.request("/hold/coded")
        assert client.get("/").reset == REFUSED_STREAM
        assert client.get("/").reset == REFUSED_STREAM
        client.reset(held)
        client.ping()
        # A reset of the client is none of the server's.
        await_counts("resets", 2, 0, 2, 0, 0, 0)
        with Http2Client(running) as second, Http2Client(running) as third:
            second.ping()
            assert third.end() == (ENHANCE_YOUR_CALM, 0)
        await_counts("goaways", 0, 0, 0, 0, 1, 0)
        with Http2Client(running) as flooding:
            try:
                for _ in range(1000):
                    flooding.raw(frame(PING, 0, 0, b"12345678") * 100)
            except OSError:
                pass
            assert flooding.end()[0] == ENHANCE_YOUR_CALM
        await_counts("goaways", 0, 0, 0, 0, 2, 0)
        with Http2Client(running) as wrong:
            wrong.raw(frame(HEADERS, 5, 2, b"\x82"))
            assert wrong.end()[0] == PROTOCOL_ERROR
        await_counts("goaways", 1, 0, 0, 0, 2, 0)
    running.kill()


def test_reset_of_a_response_that_breaks_off_is_counted(server):
    running = server("secured", "--status-bind", "0")
    status = Status(running)
    with Http2Client(running) as client:
        assert client.get("/cut").reset == 2
        name = 'maypole_http2_resets_total{code="internal_error"}'
        eventually(lambda: status.metric(name) == 1, what="the count of the reset")
        assert client.get("/").status == 200


def test_goodbye_counts_once_for_each_connection(server):
    running = server("probe", "--workers", "1", "--status-bind", "0")
    status = Status(running)
    clients = [Http2Client(running) for _ in range(3)]
    for client in clients:
        assert client.get("/").status == 200
    running.signal(signal.SIGHUP)
    for client in clients:
        assert client.end()[0] == 0 and len(client.goaways) == 2
        client.client.close()
    name = 'maypole_http2_goaways_total{code="no_error"}'
    eventually(lambda: status.metric(name) == 3, what="the sum of a worker that has ended")
