"""WebSockets that rest: the contract of `maypole.websocket`, with raw frames."""

import contextlib
import json
import os
import signal
import struct
import threading
import urllib.parse

import pytest

from client import Client
from process import eventually
from test_websocket import BINARY, CLOSE, PING, PONG, TEXT, WebSocket

CONTINUATION = 0
FIELDS = ("Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 13",
          "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==")


@pytest.fixture(scope="module")
def resting(module_server):
    return module_server("resting_sockets", "--access-logfile", "-", "--access-logformat", "%(m)s %(U)s %(s)s")


def connect(server, path="/echo", **keywords):
    return WebSocket(server.address, f"{path}?{urllib.parse.quote(json.dumps(keywords))}" if keywords else path)


def happened(server, what):
    return server.get(f"/wait?{urllib.parse.quote(what)}").body.decode()


def frame(first, content=b"", mask=b"\x01\x02\x03\x04", length=None):
    """A frame with these first eight bits. `length` is what it says of its length, if that is not the truth."""
    size = len(content) if length is None else length
    bit = 0x80 if mask else 0
    if size < 126:
        head = bytes([first, bit | size])
    elif size < 65536:
        head = bytes([first, bit | 126]) + struct.pack("!H", size)
    else:
        head = bytes([first, bit | 127]) + struct.pack("!Q", size)
    return head + mask + bytes(byte ^ mask[i % 4] if mask else byte for i, byte in enumerate(content))


def closing(socket):
    """Reads frames up to the close. Returns its code, and waits for the end of the connection."""
    while (got := socket.receive())[0] != CLOSE:
        pass
    code = struct.unpack("!H", got[1][:2])[0] if got[1] else None
    socket.client.assert_closed()
    return code


# --- the contract -------------------------------------------------------------------------------------------------


@pytest.mark.smoke
def test_messages_are_calls_and_the_close_is_the_last_event(resting):
    with connect(resting, "/named", name="first") as socket:
        assert socket.receive() == (TEXT, b"hello first")
        assert socket.send(TEXT, b"abc").receive() == (TEXT, b"cba")
        assert socket.send(TEXT, b"variable").receive() == (TEXT, b"first")
        assert socket.send(CLOSE, struct.pack("!H", 1000) + b"done").receive() == (CLOSE, b"\x03\xe8done")
        socket.client.assert_closed()
    assert happened(resting, "first closed") == "first closed 1000 done"
    resting.out.wait(r"GET /named 101")


def test_messages_of_a_socket_come_one_at_a_time_and_in_order(resting):
    with connect(resting) as socket:
        sent = [b"%d" % number for number in range(500)]
        socket.client.send(b"".join(frame(0x81, text) for text in sent))
        assert [socket.receive() for _ in sent] == [(TEXT, text) for text in sent]


@pytest.mark.parametrize("size", [0, 1, 125, 126, 127, 65535, 65536, 300_000, 1 << 20])
def test_any_length_comes_back(resting, size):
    content = os.urandom(size)
    with connect(resting) as socket:
        threading.Thread(target=socket.client.send, args=(frame(0x82, content),)).start()
        assert receive(socket) == (BINARY, content)


def receive(socket):
    """Returns the next frame, of any length."""
    first, size = socket.client.read_exactly(2)
    if size == 126:
        size, = struct.unpack("!H", socket.client.read_exactly(2))
    elif size == 127:
        size, = struct.unpack("!Q", socket.client.read_exactly(8))
    return first & 0x0F, socket.client.read_exactly(size)


def test_frames_with_the_request_are_not_lost(resting):
    with WebSocket(resting.address, "/echo", behind=frame(0x81, b"early")) as socket:
        assert socket.receive() == (TEXT, b"early")


def test_frame_in_single_bytes_arrives(resting):
    with connect(resting) as socket:
        for byte in frame(0x81, "slow \u00e9".encode()):
            socket.client.send(bytes([byte]))
        assert socket.receive() == (TEXT, "slow \u00e9".encode())


def test_send_from_other_threads_reaches_all(resting):
    names = [f"all{number}" for number in range(5)]
    sockets = [connect(resting, "/named", name=name) for name in names]
    for socket in sockets:
        socket.receive()
    assert int(resting.get("/broadcast?news").body) >= 5
    for socket in sockets:
        assert socket.receive() == (TEXT, b"news")
        socket.client.close()
    for name in names:
        assert happened(resting, f"{name} closed") == f"{name} closed 1006"


def test_close_from_another_thread(resting):
    with connect(resting, "/named", name="shut") as socket:
        socket.receive()
        assert resting.get("/shut?shut").status == 204
        assert socket.receive() == (CLOSE, struct.pack("!H", 1008) + b"by another")
        socket.send(CLOSE, struct.pack("!H", 1008))
        socket.client.assert_closed()
    assert happened(resting, "shut closed") == "shut closed 1008 by another"


@pytest.mark.parametrize("code", [1000, 1001, 1003, 1013, 3000, 4999])
def test_close_of_the_application_sends_what_was_sent_before(resting, code):
    name = f"close{code}"
    with connect(resting, "/named", name=name) as socket:
        socket.receive()
        socket.client.send(frame(0x81, b"many 3") + frame(0x81, b"close %d bye" % code) + frame(0x81, b"not handled"))
        assert [socket.receive() for _ in range(3)] == [(TEXT, b"0"), (TEXT, b"1"), (TEXT, b"2")]
        assert socket.receive() == (CLOSE, struct.pack("!H", code) + b"bye")
        socket.send(CLOSE, struct.pack("!H", code))
        socket.client.assert_closed()
    assert happened(resting, f"{name} closed") == f"{name} closed {code} bye"


def test_failing_on_message_closes_with_1011_and_its_traceback(resting):
    start = len(resting.err.text())
    with connect(resting, "/named", name="fails") as socket:
        socket.receive()
        socket.client.send(frame(0x81, b"raise") + frame(0x81, b"not handled"))
        assert socket.receive() == (CLOSE, struct.pack("!H", 1011))
        socket.send(CLOSE, struct.pack("!H", 1011))
        socket.client.assert_closed()
    assert happened(resting, "fails closed") == "fails closed 1011"
    resting.err.wait("on_message of the WebSocket failed", start=start)
    resting.err.wait("RuntimeError: the application fails", start=start)


def test_sockets_at_rest_hold_no_thread(resting):
    sockets = [connect(resting) for _ in range(50)]
    # On a busy machine, calls may look as if they waited, and get more threads for some time.
    eventually(lambda: resting.application_threads() < 10, 60, "few threads")
    for socket in sockets:
        assert socket.send(TEXT, b"still there").receive() == (TEXT, b"still there")
        socket.client.close()


def test_subprotocol_is_one_of_the_client(resting):
    with Client(resting.address) as client:
        client.request("GET /subprotocol HTTP/1.1", *FIELDS, "Sec-WebSocket-Protocol: a, b")
        assert client.head().get("Sec-WebSocket-Protocol") == "b"
        assert client.read_exactly(7) == b"\x81\x05b a b"


def test_wrong_calls_say_why(resting):
    with connect(resting, "/wrong") as socket:
        said = json.loads(receive(socket)[1])
    for sentence, part in zip(said, [
        "on_message must be callable", "unknown", "ping_interval must be", "max_rate must be", "twice", "taken over",
        "sends str or bytes, not int", "1005 is no code", "at most 123 bytes", "at most 125 bytes", "surrogates",
    ], strict=True):
        assert part in sentence


# --- refusals -----------------------------------------------------------------------------------------------------


def test_status_of_400_or_more_refuses_after_all(resting):
    with Client(resting.address) as client:
        client.request("GET /refused HTTP/1.1", *FIELDS)
        response = client.response()
        assert (response.status, response.body) == (403, b"not you")
        assert client.get("/key").body == b"False"


def test_function_of_a_refused_socket_may_have_a_finalizer(resting):
    with Client(resting.address) as client:
        client.request("GET /forgets HTTP/1.1", *FIELDS)
        assert client.response().status == 403
    assert happened(resting, "finalized") == "finalized False"


def test_failed_call_is_a_500(resting):
    start = len(resting.err.text())
    with Client(resting.address) as client:
        client.request("GET /fails HTTP/1.1", *FIELDS)
        assert client.response().status == 500
    resting.err.wait("RuntimeError: after the accept", start=start)


def test_accept_after_the_response_has_begun_says_so(resting):
    with Client(resting.address) as client:
        client.request("GET /late HTTP/1.1", *FIELDS)
        assert client.response().body == b"begun: a WebSocket cannot be accepted after the response has begun"


@pytest.mark.parametrize("changed", [
    ("Connection: Upgrade", "Connection: keep-alive"), ("Upgrade: websocket", "Upgrade: h2c"),
    ("Sec-WebSocket-Version: 13", "Sec-WebSocket-Version: 8"), (FIELDS[3], "Sec-WebSocket-Key: short")])
def test_request_that_breaks_a_rule_has_no_key(resting, changed):
    with Client(resting.address) as client:
        client.request("GET /key HTTP/1.1", *(changed[1] if field == changed[0] else field for field in FIELDS))
        assert client.response().body == b"False"


@pytest.mark.parametrize("line", ["POST /key HTTP/1.1", "GET /key HTTP/1.0"])
def test_other_methods_and_versions_have_no_key(resting, line):
    with Client(resting.address) as client:
        client.request(line, *FIELDS)
        assert client.response().body == b"False"


# --- limits -------------------------------------------------------------------------------------------------------


def test_server_pings_and_gives_up_a_silent_client(resting):
    with connect(resting, "/named", name="silent", ping_interval=1.5) as socket:
        socket.receive()
        assert socket.receive() == (PING, b"")
        assert socket.send(PONG).receive() == (PING, b"")
        socket.client.assert_closed()
    assert happened(resting, "silent closed") == "silent closed 1006"


def test_idle_socket_is_closed(resting):
    with connect(resting, "/named", name="idle", idle_timeout=0.2) as socket:
        socket.receive()
        assert socket.receive()[1][:2] == struct.pack("!H", 1001)
    assert happened(resting, "idle closed").startswith("idle closed 1001")


def test_too_many_messages_close_with_1008(resting):
    with connect(resting, max_rate=5) as socket:
        socket.client.send(frame(0x81, b"x") * 20)
        assert closing(socket) == 1008


def test_slow_client_raises_at_the_mark_and_gets_what_was_queued(resting):
    with connect(resting, "/named", name="slow", max_waiting=1 << 20) as socket:
        socket.receive()
        socket.send(TEXT, b"fill")
        sent = int(happened(resting, "slow full").split()[2])
        assert sent > 900_000
        for _ in range(sent // 65536):
            assert receive(socket) == (BINARY, b"x" * 65536)
        assert socket.send(TEXT, b"on").receive() == (TEXT, b"no")


def test_client_that_takes_no_pong_cannot_send_pings_for_ever(resting):
    pings, most = frame(0x80 | PING, b"p" * 125) * 1000, 64 << 20
    with connect(resting) as socket:
        connection = socket.client.socket
        patience, sent = connection.gettimeout(), 0
        connection.settimeout(2)
        with contextlib.suppress(TimeoutError):
            while sent < most:
                sent += connection.send(pings)
        connection.settimeout(patience)
        # The buffers of the kernel take some MB in each direction.
        assert sent < most, "the server has taken all of them"
        for _ in range(sent // 131):
            assert receive(socket) == (PONG, b"p" * 125)


def test_busy_application_stops_the_reading(resting):
    with connect(resting, "/named", name="busy") as socket:
        socket.receive()
        assert socket.send(TEXT, b"hold go").receive() == (TEXT, b"holding")
        flood = frame(0x82, b"y" * 60_000)
        socket.client.socket.setblocking(False)
        sent = 0
        with pytest.raises(BlockingIOError):
            while sent < 1 << 30:
                sent += socket.client.socket.send(flood)
        assert sent < 64 << 20
        resting.get("/happen?go")
    assert happened(resting, "busy closed")


# --- the end of the server ----------------------------------------------------------------------------------------


@pytest.mark.smoke
def test_stop_closes_with_1001_and_calls_on_close(server):
    started = server("resting_sockets", "--graceful-timeout", "20s")
    socket = connect(started, "/named", name="last")
    socket.receive()
    started.signal(signal.SIGTERM)
    assert socket.receive()[1][:2] == struct.pack("!H", 1001)
    socket.send(CLOSE, struct.pack("!H", 1001))
    socket.client.assert_closed()
    assert started.wait() == 0


def test_stop_does_not_wait_for_ever_for_a_client(server):
    started = server("resting_sockets", "--graceful-timeout", "1s")
    socket = connect(started, "/named", name="deaf")
    socket.receive()
    started.signal(signal.SIGTERM)
    assert socket.receive()[1][:2] == struct.pack("!H", 1001)
    assert started.wait() == 0


def test_descriptors_are_given_back(resting):
    before = resting.descriptors()
    for _ in range(20):
        connect(resting).client.reset()
    eventually(lambda: resting.descriptors() <= before + 2, what="the descriptors are closed")
