"""WebSockets that rest in the numbers: the status, the metrics, the requests, a report."""

import signal
import struct

import pytest

from client import Client
from process import eventually, run
from status import Status
from test_resting_websocket import FIELDS, connect, frame, happened, receive
from test_websocket import CLOSE, TEXT


@pytest.fixture
def shown(server):
    return server("resting_sockets", "--status-bind", "127.0.0.1:0")


def closes(status, closer, code):
    return status.metric(f'maypole_websockets_closed_total{{closed_by="{closer}",code="{code}"}}')


def counted(status, name):
    return status.metric(f"maypole_{name}_total")


def await_counts(status, **expected):
    """Waits until counters have these values. A message is counted a moment later than its client has it."""
    eventually(lambda: {name: counted(status, name) for name in expected} == expected, what=f"the counts {expected}")


def test_messages_and_bytes_are_counted(shown):
    status = Status(shown)
    with connect(shown) as socket:
        for text in (b"one", b"three"):
            assert socket.send(TEXT, text).receive() == (TEXT, text)
        # Six bytes before each text of the client, two before each of the server.
        await_counts(
            status, websockets_opened=1, websocket_messages_received=2, websocket_messages_sent=2,
            websocket_received_bytes=20, websocket_sent_bytes=12, websocket_messages_unsent=0)
        process = eventually(lambda: next(p for p in status.json()["processes"] if p["websockets"]), what="it is shown")
        assert (process["websockets"], process["websockets_total"], process["connections"]) == (1, 1, 1)
        assert (process["websocket_messages_received"], process["websocket_messages_sent"]) == (2, 2)
        assert status.metric('maypole_websockets{worker="1"}') == 1
        assert [asked["websockets"] for asked in status.json("/requests.json")["processes"]] == [1]
        assert "\n1 WebSocket\n" in run("status", f"{shown.pid}").stdout
        shown.signal(signal.SIGQUIT)
        shown.err.wait("; 1 WebSocket is open\n")
        page = status.text("/")[1]
        assert '<th scope="col">WebSockets</th>' in page
    eventually(lambda: status.json()["processes"][0]["websockets"] == 0, what="it is not counted any more")


def test_bytes_with_the_handshake_are_counted(shown):
    status = Status(shown)
    with Client(shown.address) as client:
        client.send(b"GET /echo HTTP/1.1\r\nHost: a\r\n" + "".join(f"{f}\r\n" for f in FIELDS).encode() + b"\r\n"
                    + frame(0x81, b"early"))
        assert client.head().status == 101
        assert client.read_exactly(7) == b"\x81\x05early"
    await_counts(status, websocket_received_bytes=11, websocket_messages_received=1)


@pytest.mark.parametrize(("closer", "code"), [("client", "1000"), ("client", "4xxx"), ("client", "1006"),
                                              ("application", "3xxx"), ("application", "1011"), ("server", "1002"),
                                              ("server", "1008"), ("server", "1001")])
def test_close_is_counted_by_its_side_and_its_code(shown, closer, code):
    status = Status(shown)
    keywords = {"idle_timeout": 0.1} if (closer, code) == ("server", "1001") else {"max_rate": 3}
    with connect(shown, "/named", name="it", **keywords) as socket:
        socket.receive()
        if closer == "client" and code != "1006":
            socket.send(CLOSE, struct.pack("!H", 1000 if code == "1000" else 4321))
        elif code == "1006":
            socket.client.close()
        else:
            socket.client.send({"3xxx": frame(0x81, b"close 3210 x"), "1011": frame(0x81, b"raise"), "1002": frame(0x83, b"x"),
                                "1008": frame(0x81, b"x") * 9, "1001": b""}[code])
            while receive(socket)[0] != CLOSE:
                pass
            socket.client.close()
        eventually(lambda: closes(status, closer, code) == 1, what="the close is counted")
    text = status.text("/metrics")[1]
    assert sum(float(line.split()[-1]) for line in text.splitlines() if line.startswith("maypole_websockets_closed_")) == 1


def test_pings_that_find_no_client_are_closes_of_the_server(shown):
    status = Status(shown)
    with connect(shown, ping_interval=0.1) as socket:
        eventually(lambda: closes(status, "server", "1006") == 1, what="the client is given up")
        socket.client.close()


def test_slow_client_and_what_waits_for_it_are_shown(shown):
    status = Status(shown)

    def gauge(name):
        return status.metric(f'maypole_{name}{{worker="1"}}')

    with connect(shown, "/named", name="slow", max_waiting=1 << 20) as socket:
        socket.receive()
        assert gauge("websockets_slow") == gauge("websocket_waiting_bytes") == 0
        fills = 0
        # The kernel may still take all that the first ones queue.
        while gauge("websockets_slow") == 0 or gauge("websocket_waiting_bytes") <= 1 << 19:
            fills += 1
            socket.send(TEXT, b"fill")
            eventually(lambda: happened(shown, "slow full").count("slow full") == fills, what="it is full")
        assert gauge("websocket_waiting_bytes") <= 1 << 20
        await_counts(status, websocket_messages_unsent=fills)
        sent = sum(int(line.split()[2]) // 65536 for line in happened(shown, "slow full").splitlines())
        await_counts(status, websocket_messages_sent=1 + sent)
        for _ in range(sent):
            receive(socket)
        eventually(lambda: gauge("websockets_slow") == gauge("websocket_waiting_bytes") == 0, what="nothing waits")


def test_slow_client_that_leaves_is_not_counted_any_more(shown):
    status = Status(shown)
    with connect(shown, "/named", name="left", max_waiting=1 << 20) as socket:
        socket.receive()
        socket.send(TEXT, b"fill")
        happened(shown, "left full")
        socket.client.reset()
    names = ("websockets", "websockets_slow", "websocket_waiting_bytes")
    eventually(lambda: [status.metric(f'maypole_{name}{{worker="1"}}') for name in names] == [0, 0, 0], what="it is gone")


def test_slow_message_is_counted_apart_from_too_many(server):
    shown = server("resting_sockets", "--status-bind", "127.0.0.1:0", "--body-timeout", "200ms")
    status = Status(shown)
    for sent, slow in ((frame(0x81, b"x") * 9, 0), (frame(0x81, b"half", length=8), 1)):
        with connect(shown, max_rate=3) as socket:
            socket.client.send(sent)
            while receive(socket)[0] != CLOSE:
                pass
        eventually(lambda: closes(status, "server", "1008") == 1 + slow, what="the close is counted")
        assert counted(status, "websocket_messages_slow") == slow
    assert closes(status, "server", "1008") == 2


@pytest.mark.parametrize(("what", "said"), [("rate", "1008): too many messages, max_rate is 3"),
                                            ("size", "1009): the message is too big, max_message is 10"),
                                            ("rule", "1002): the frame breaks the protocol")])
def test_client_that_breaks_a_rule_has_a_line(server, what, said):
    running = server("resting_sockets")
    sent = {"rate": frame(0x81, b"x") * 9, "size": frame(0x81, b"x" * 11), "rule": frame(0x83, b"x")}[what]
    for _ in range(2):
        with connect(running, max_rate=3, max_message=10) as socket:
            socket.client.send(sent)
            while receive(socket)[0] != CLOSE:
                pass
    running.stop()
    lines = [line for line in running.err.wait_end().splitlines() if "the WebSocket is closed" in line]
    assert len(lines) == 1 and lines[0].endswith(said), lines


@pytest.mark.parametrize(("path", "status"), [("/refused", 403), ("/fails", 500), ("/none", 500)])
def test_refused_handshake_is_counted(shown, path, status):
    with Client(shown.address) as client:
        client.request(f"GET {path} HTTP/1.1", *FIELDS)
        assert client.response().status == status
    await_counts(Status(shown), websockets_refused=1, websockets_opened=0)


def test_usual_request_is_no_refused_handshake(shown):
    with Client(shown.address) as client:
        client.request("GET /none HTTP/1.1")
        assert client.response().status == 500
        client.request("GET /none HTTP/1.1", "Connection: Upgrade", "Upgrade: h2c")
        assert client.response().status == 500
    assert counted(Status(shown), "websockets_refused") == 0


def test_sums_keep_what_workers_have_counted_that_have_ended(server):
    shown = server("resting_sockets", "--workers", "2", "--status-bind", "127.0.0.1:0")
    status = Status(shown)
    sockets = [connect(shown) for _ in range(6)]
    for socket in sockets:
        assert socket.send(TEXT, b"text").receive() == (TEXT, b"text")
    eventually(lambda: sum(p["websockets"] for p in status.json()["processes"]) == 6, what="each is in a gauge")
    shown.signal(signal.SIGHUP)
    for socket in sockets:
        assert receive(socket)[1][:2] == struct.pack("!H", 1001)
        socket.send(CLOSE, struct.pack("!H", 1001))
        socket.client.assert_closed()
        socket.client.close()
    eventually(lambda: status.metric('maypole_workers_ended_total{cause="reload"}') == 2, what="both are replaced")
    assert closes(status, "server", "1001") == 6
    await_counts(status, websockets_opened=6, websocket_messages_received=6, websocket_messages_sent=6)
    assert all(process["websockets"] == 0 for process in status.json()["processes"])
