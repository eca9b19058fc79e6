"""HTTP/2 against clients that cost more than they ask for. Each test sends what a published attack sends."""

import time

import h2.settings
import pytest

from client import Closed
from http2 import (
    CANCEL, CONTINUATION, DATA, ENHANCE_YOUR_CALM, HEADERS, PING, PREFACE, PRIORITY, PROTOCOL_ERROR, REFUSED_STREAM,
    RST_STREAM, SETTINGS, WINDOW_UPDATE, Http2Client, frame)

#: The block of `GET /` for `localhost`, without compression by a table that changes.
GET = b"\x82\x86\x84\x41\x09localhost"
POST = b"\x83\x86\x84\x41\x09localhost"


@pytest.fixture(scope="module")
def running(module_server):
    return module_server("probe", "--http2-max-concurrent-streams", "20")


def flood(client, data, times=1000):
    """Sends the same bytes again and again until the server has had enough. Returns its last GOAWAY."""
    try:
        for _ in range(times):
            client.raw(data)
    except OSError:
        pass
    return client.end()


def assert_serves(running):
    with Http2Client(running) as client:
        assert client.get("/").status == 200


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(frame(PING, 0, 0, b"12345678"), id="ping"),
        pytest.param(frame(PING, 1, 0, b"12345678"), id="ping-ack"),
        pytest.param(frame(SETTINGS), id="settings"),
        pytest.param(frame(SETTINGS, 0, 0, b"\0\4\0\0\xff\xff" * 100), id="settings-with-many-values"),
        pytest.param(frame(PRIORITY, 0, 1, b"\0\0\0\3\0"), id="priority"),
        pytest.param(frame(WINDOW_UPDATE, 0, 0, b"\0\0\0\1"), id="window-update"),
        pytest.param(frame(99, 0, 0, b"x"), id="unknown-type"),
    ],
)
def test_frames_without_a_request_have_a_budget(running, data):
    """CVE-2019-9512, CVE-2019-9513, CVE-2019-9515."""
    with Http2Client(running) as client:
        client.get("/")
        assert flood(client, data * 100) == (ENHANCE_YOUR_CALM, 1)
    running.err.wait(r"the HTTP/2 connection is closed: (too many frames|connection error|.*)")
    assert_serves(running)


def test_empty_data_has_a_budget(running):
    """CVE-2019-9518."""
    with Http2Client(running) as client:
        stream = client.request("/echo", method="POST", end=False)
        code, _ = flood(client, frame(DATA, 0, stream) * 100)
        assert code == ENHANCE_YOUR_CALM
    assert_serves(running)


def test_continuation_without_an_end_is_refused(running):
    """VU#421644."""
    with Http2Client(running) as client:
        client.get("/")
        client.raw(frame(HEADERS, 0, 3, GET))
        code, _ = flood(client, frame(CONTINUATION, 0, 3, b"") * 100)
        assert code == ENHANCE_YOUR_CALM
    with Http2Client(running) as client:
        client.get("/")
        client.raw(frame(HEADERS, 0, 3, GET))
        field = b"\0\x01x\x7f\x81\x7e" + b"y" * 16_000
        code, _ = flood(client, frame(CONTINUATION, 0, 3, field[:16_000]), 200)
        assert code in (ENHANCE_YOUR_CALM, PROTOCOL_ERROR, 9)
    assert_serves(running)


def test_head_that_does_not_end_has_a_time_limit(server):
    running = server("probe", "--header-timeout", "300ms")
    for begun in (frame(HEADERS, 0, 1, GET), frame(HEADERS, 4, 1, GET)[:12], frame(PING, 0, 0, b"12345678")[:10]):
        with Http2Client(running) as client:
            client.ping()
            client.raw(begun)
            assert client.end()[0] == ENHANCE_YOUR_CALM
    running.err.wait(r"the rest of a head or of a short frame has not come in time \(--header-timeout\)")


def test_preface_that_does_not_end_has_a_time_limit(server):
    running = server("probe", "--header-timeout", "300ms")
    with running.client() as client:
        client.send(PREFACE[:20])
        assert client.response().status == 408
        client.assert_closed()


def test_head_that_grows_by_its_compression_is_refused(running):
    """CVE-2016-6581: one long field in the table, and many references to it."""
    with Http2Client(running) as client:
        client.get("/")
        long = b"\x40\x01x\x7f\x81\x1e" + b"y" * 4000
        client.raw(frame(HEADERS, 5, 3, GET + long + b"\xbe" * 8000))
        client.raw(frame(PING, 0, 0, b"12345678"))
        code, _ = client.end() if not client_has(client, 3) else (None, None)
        assert code in (ENHANCE_YOUR_CALM, PROTOCOL_ERROR, 9, None)
    assert_serves(running)


def client_has(client, stream):
    """Returns whether the server refuses this stream and keeps the connection."""
    data = b""
    try:
        while b"12345678" not in data:
            data += client.client.socket.recv(65536) or closed()
    except (Closed, OSError):
        return False
    assert b"Hello" not in data
    return True


def closed():
    raise Closed(b"")


def test_streams_that_are_reset_at_once_have_a_budget(running):
    """CVE-2023-44487. The calls do not pile up, either."""
    with Http2Client(running) as client:
        client.get("/")
        pairs = [frame(HEADERS, 5, n, GET) + frame(RST_STREAM, 0, n, CANCEL.to_bytes(4)) for n in range(3, 20_003, 2)]
        try:
            for start in range(0, len(pairs), 100):
                client.raw(b"".join(pairs[start : start + 100]))
        except OSError:
            pass
        code, last = client.end()
        assert code == ENHANCE_YOUR_CALM and last < 1000
    assert_serves(running)


def test_stream_counts_until_its_call_has_ended(running):
    """A client that opens and resets streams gets no more calls at once than one that waits."""
    with Http2Client(running) as client:
        for n in range(20):
            stream = client.request("/hold/ghosts")
            assert running.get(f"/held/ghosts?n={n + 1}").body == b"yes"
            client.reset(stream)
        assert client.get("/").reset == REFUSED_STREAM
        assert running.get("/release/ghosts").status == 200
        stream = None
        end = time.monotonic() + 20
        while stream is None or client.response(stream).reset == REFUSED_STREAM:
            assert time.monotonic() < end
            stream = client.request("/")
        assert client.response(stream).status == 200


@pytest.mark.parametrize(
    "fault",
    [
        pytest.param(lambda n: frame(WINDOW_UPDATE, 0, n, bytes(4)), id="window-of-zero"),
        pytest.param(lambda n: frame(WINDOW_UPDATE, 0, n, b"\x7f\xff\xff\xff"), id="window-overflow"),
        pytest.param(lambda n: frame(DATA, 0, n, b"x"), id="data-after-the-end"),
    ],
)
def test_streams_that_the_server_has_to_reset_have_a_budget(running, fault):
    """CVE-2025-8671."""
    with Http2Client(running) as client:
        client.get("/")
        try:
            for n in range(3, 4003, 2):
                client.raw(frame(HEADERS, 5, n, GET) + fault(n))
        except OSError:
            pass
        assert client.end()[0] != 0
    assert_serves(running)


def test_padding_counts_in_the_window_and_the_window_comes_back(running):
    with Http2Client(running) as client:
        stream = client.request("/sha", method="POST", end=False)
        for _ in range(2000):
            while client.state.local_flow_control_window(stream) < 300:
                client.take()
            client.state.send_data(stream, b"x", pad_length=200)
            client.flush()
        client.state.send_data(stream, b"", end_stream=True)
        client.flush()
        assert client.response(stream).body.split()[0] == b"2000"


def test_client_that_opens_no_window_is_given_up(server):
    """CVE-2019-9511, CVE-2019-9517."""
    running = server("probe", "--write-timeout", "500ms")
    settings = {h2.settings.SettingCodes.INITIAL_WINDOW_SIZE: 0}
    with Http2Client(running, settings=settings) as client:
        streams = [client.request("/whole?n=100000") for _ in range(3)]
        assert [client.response(stream).reset for stream in streams] == [CANCEL] * 3
        assert client.get("/status?s=204+No").status == 204
    running.err.wait(r"is cut off: the client took nothing for 500ms \(--write-timeout\)")


def test_client_that_opens_its_window_byte_by_byte_is_given_up(server):
    running = server("probe", "--min-rate", "1000")
    settings = {h2.settings.SettingCodes.INITIAL_WINDOW_SIZE: 1}
    with Http2Client(running, settings=settings, flow=False) as client:
        stream = client.request("/whole?n=100000")
        response = client.responses[stream]
        while response.reset is None:
            before = len(response.body)
            client.until(lambda: response.reset is not None or len(response.body) > before)
            if response.reset is None:
                client.state.increment_flow_control_window(1, stream)
                client.flush()
                client.ping()
        assert response.reset == CANCEL
    running.err.wait(r"which is less than 1000 bytes/s \(--min-rate\)")


def test_client_that_reads_nothing_is_given_up(server):
    running = server("probe", "--write-timeout", "500ms")
    with Http2Client(running, receive_buffer=4096) as client:
        client.state.increment_flow_control_window(2**31 - 70_000)
        for _ in range(3):
            stream = client.request("/endless?name=unread")
            client.state.increment_flow_control_window(2**31 - 70_000, stream)
            client.flush()
        running.err.wait(r"the HTTP/2 connection is closed: the client took nothing for 500ms \(--write-timeout\)")


def test_body_that_stops_or_drips_is_refused(server):
    running = server("probe", "--body-timeout", "300ms")
    with Http2Client(running) as client:
        stream = client.request("/echo", method="POST", end=False)
        client.send(stream, b"abc", end=False)
        assert client.response(stream).status == 408
        assert client.get("/").status == 200
    running.err.wait(r"408: a body of which 3 came and then nothing more, --body-timeout is 300ms")


def test_shorter_windows_for_open_streams_are_kept_to(running):
    """RFC 9113 §6.9.2: a window may become negative."""
    with Http2Client(running, flow=False) as client:
        stream = client.request("/whole?n=200000")
        response = client.responses[stream]
        client.until(lambda: len(response.body) == 65_535)
        client.state.update_settings({h2.settings.SettingCodes.INITIAL_WINDOW_SIZE: 100})
        client.flush()
        client.ping()
        client.state.increment_flow_control_window(2_000_000)
        client.state.increment_flow_control_window(1_000_000, stream)
        client.flush()
        assert len(client.response(stream).body) == 200_000


@pytest.mark.parametrize("flags", [0, 4])
def test_push_by_a_client_ends_the_connection(running, flags):
    with Http2Client(running) as client:
        client.get("/")
        client.raw(frame(5, flags, 1, bytes(4) + GET))
        assert client.end()[0] == PROTOCOL_ERROR
    assert_serves(running)


def test_idle_connection_is_closed_in_order(server):
    running = server("probe", "--http2-keep-alive", "300ms")
    with Http2Client(running) as client:
        assert client.get("/").status == 200
        assert client.end() == (0, 1)
