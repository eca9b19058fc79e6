"""WebSockets whose client begins a message and does not end it in time: they have the time of a request body."""

import os
import struct

import pytest

from test_resting_websocket import CONTINUATION, frame, receive
from test_websocket import CLOSE, PING, PONG, TEXT, WebSocket
from test_websocket_tls import APP, connect
from tls import TLS, TlsClient

SLOW = struct.pack("!H", 1008) + b"the message comes too slowly"
HALF = frame(0x81, b"half", length=8)
# A part of a record: its head says that 64 bytes follow.
RECORD = b"\x17\x03\x03\x00\x40"
LINE = r"\[INFO\] 127\.0\.0\.1:\d+: the WebSocket is closed \(1008\): "
UNFINISHED = {
    "first byte": b"\x81",
    "head": frame(0x81, b"x" * 200)[:4],
    "frame": HALF,
    "fragment": frame(0x01, b"begun"),
    "empty fragment": frame(0x02),
    "later fragment": frame(0x01, b"a") + frame(CONTINUATION, b"b"),
    "control frame": frame(0x80 | PING, b"pi", length=4),
    "after a message": frame(0x81, b"whole") + HALF,
}


def closed_as_slow(websocket):
    while (got := receive(websocket))[0] != CLOSE:
        pass
    websocket.client.assert_closed()
    return got[1] == SLOW


@pytest.mark.smoke
@pytest.mark.parametrize("sent", UNFINISHED.values(), ids=UNFINISHED)
def test_message_that_stops_closes_with_1008(server, sent):
    running = server(APP, "--body-timeout", "200ms")
    websocket = connect(running)
    websocket.client.send(sent)
    assert closed_as_slow(websocket)
    running.err.wait("on_close 1008 the message comes too slowly")
    running.err.wait(LINE + r"\d+ bytes? of a message came and then nothing more, --body-timeout is 200ms\n")


def test_control_frames_are_no_progress_of_a_message(server):
    running = server(APP, "--body-timeout", "300ms", env={"PINGS": "0.05"})
    with connect(running) as websocket:
        websocket.client.send(frame(0x01, b"begun"))
        while (got := receive(websocket))[0] == PING:
            websocket.send(PONG, got[1])
        assert got == (CLOSE, SLOW)


def test_part_of_a_record_has_the_time_of_a_message(server):
    running = server(APP, "--body-timeout", "200ms", *TLS)
    client = TlsClient(running.address)
    websocket = connect(running, client=client)
    # Past the library, which sends whole records only.
    os.write(client.socket.fileno(), RECORD)
    assert receive(websocket) == (CLOSE, SLOW)


def test_slow_message_is_closed_by_its_rate(server):
    # 5 s of grace, although each byte would be in time.
    running = server(APP, "--body-timeout", "1h", "--min-rate", "1000")
    with connect(running) as websocket:
        websocket.client.send(HALF)
        assert receive(websocket) == (CLOSE, SLOW)
    running.err.wait(LINE + r"10 bytes of a message came too slowly, --min-rate is 1000 bytes/s\n")


def test_socket_between_messages_has_no_such_time(server):
    running = server(APP, "--body-timeout", "100ms")
    with connect(running) as silent, connect(running) as slow:
        silent.client.send(frame(0x81, b"one"))
        assert receive(silent)[0] == TEXT
        slow.client.send(HALF)
        assert closed_as_slow(slow)
        silent.client.send(frame(0x81, b"two"))
        assert receive(silent)[1].endswith(b" two")


def test_time_does_not_run_while_the_application_is_slow(server, tmp_path):
    running = server(APP, "--body-timeout", "200ms")
    with connect(running) as websocket:
        websocket.send(TEXT, f"hold {tmp_path}/go".encode())
        assert receive(websocket) == (TEXT, b"holding")
        # As many messages wait as may, and a part of the next one.
        websocket.client.send(frame(0x81, b"next") * 40 + HALF)
        with connect(running) as other:
            other.client.send(HALF)
            assert closed_as_slow(other)
        # The rest of it is there before the server receives again.
        websocket.client.send(frame(0x81, b"xxxxhalf")[-4:])
        (tmp_path / "go").touch()
        assert receive(websocket) == (TEXT, b"held")
        assert [receive(websocket)[1].split()[1] for _ in range(41)][:40] == [b"next"] * 40
