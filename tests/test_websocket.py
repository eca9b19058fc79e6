"""WebSockets: applications take the connection over, with common libraries."""

import base64
import contextlib
import hashlib
import json
import os
import signal
import struct
import threading
import time

import pytest

from client import PATIENCE, Client, Closed
from process import eventually

GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
TEXT, BINARY, CLOSE, PING, PONG = 1, 2, 8, 9, 10


class WebSocket:
    """A client that is written by hand (RFC 6455)."""

    def __init__(self, address, path="/echo", behind=b"", *, client=None, fields=()):
        self.client = client or Client(address)
        key = base64.b64encode(os.urandom(16))
        self.client.request(
            f"GET {path} HTTP/1.1", "Connection: keep-alive, Upgrade", "Upgrade: websocket",
            f"Sec-WebSocket-Key: {key.decode()}", "Sec-WebSocket-Version: 13", *fields, body=behind)
        head = self.client.head()
        assert head.status == 101, head
        assert head.get("Sec-WebSocket-Accept") == base64.b64encode(hashlib.sha1(key + GUID).digest()).decode()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.client.close()

    @staticmethod
    def frame(kind, data):
        mask = os.urandom(4)
        size = len(data)
        length = bytes([0x80 | size]) if size < 126 else b"\xfe" + struct.pack("!H", size)
        return bytes([0x80 | kind]) + length + mask + bytes(byte ^ mask[i % 4] for i, byte in enumerate(data))

    def send(self, kind, data=b""):
        self.client.send(self.frame(kind, data))
        return self

    def receive(self):
        """Returns the kind and the data of the next frame."""
        first, size = self.client.read_exactly(2)
        assert first & 0x80, "nothing here is fragmented"
        if size == 126:
            size, = struct.unpack("!H", self.client.read_exactly(2))
        return first & 0x0F, self.client.read_exactly(size)


@pytest.fixture(scope="module")
def sockets(module_server, tmp_path_factory):
    log = tmp_path_factory.mktemp("log") / "access.log"
    server = module_server("websocket:app", "--werkzeug-socket", "--access-logfile", log, "--access-logformat", "json")
    server.access_log = log
    return server


def logged(server, value, key="path"):
    """Waits for the entry of a path in the access log, and returns it."""
    def find():
        # The last line may not be whole yet.
        entries = [json.loads(line) for line in server.access_log.read_text().split("\n")[:-1]]
        return next((entry for entry in entries if entry[key] == value), None)
    return eventually(find, what=f"a line about {value}")


def test_a_thousand_messages_come_back(sockets):
    with WebSocket(sockets.address) as websocket:
        for number in range(1000):
            data = b"%d " % number * (number % 60)
            kind = BINARY if number % 2 else TEXT
            assert websocket.send(kind, data).receive() == (kind, data)
        websocket.send(PING, b"there?")
        assert websocket.receive() == (PONG, b"there?")


def test_many_at_once_and_ordinary_requests_between_them(sockets):
    with contextlib.ExitStack() as stack:
        open_now = [stack.enter_context(WebSocket(sockets.address)) for _ in range(20)]
        for turn in range(3):
            for number, websocket in enumerate(open_now):
                websocket.send(TEXT, b"%d/%d" % (turn, number))
            assert sockets.get("/").body == b"ordinary\n"
            for number, websocket in enumerate(open_now):
                assert websocket.receive() == (TEXT, b"%d/%d" % (turn, number))
        # The thread of a connection that another test has closed may still end.
        eventually(lambda: sockets.get("/threads").body == b"20", what="one thread for each connection")
    eventually(lambda: sockets.get("/threads").body == b"0", what="that their threads have ended")


def test_close_by_the_client_is_answered_and_ends_the_connection(sockets):
    with WebSocket(sockets.address) as websocket:
        websocket.send(CLOSE, struct.pack("!H", 1000))
        assert websocket.receive() == (CLOSE, struct.pack("!H", 1000))
        websocket.client.assert_closed()


def test_call_that_returns_ends_the_connection_and_nothing_follows_the_last_frame(sockets):
    with WebSocket(sockets.address, "/once") as websocket:
        assert websocket.receive() == (TEXT, b"only this")
        assert websocket.receive()[0] == CLOSE
        # The server closes the connection although this client never answers.
        websocket.client.assert_closed()
    eventually(lambda: sockets.get("/threads").body == b"0", what="that its thread has ended")


def test_client_that_never_closes_is_cut_off_after_the_call(sockets):
    eventually(lambda: sockets.get("/threads").body == b"0", what="that the threads of the tests before have ended")
    start = len(sockets.err.text())
    with WebSocket(sockets.address, "/once") as websocket:
        assert websocket.receive() == (TEXT, b"only this")
        sockets.err.wait("/once leaves a waiting thread\n", start=start)
        eventually(lambda: sockets.get("/threads").body == b"0", what="that nothing waits for it any more")


def test_access_log_has_a_line_when_the_call_ends(sockets):
    with WebSocket(sockets.address, "/echo?logged") as websocket:
        websocket.client.quiet(0.3)
    entry = logged(sockets, "logged", "query")
    assert entry["status"] == 101 and entry["path"] == "/echo"
    assert 300_000 <= entry["application_us"] <= entry["duration_us"]


def test_upgrade_that_the_application_does_not_want_is_an_ordinary_request(sockets):
    with sockets.client() as client:
        for _ in range(2):
            response = client.get("/upgrade", "Connection: Upgrade", "Upgrade: tea")
            assert (response.status, response.body) == (426, b"no such protocol\n")
        assert client.get("/upgrade").status == 404
        assert client.get("/nowhere", "Connection: Upgrade", "Upgrade: websocket").status == 404
        assert client.get("/echo", "Connection: Upgrade", "Upgrade: tea").status >= 400
        client.assert_open()


def test_without_the_setting_there_is_no_werkzeug_socket(server):
    running = server("websocket:app")
    assert running.get("/upgrade", "Connection: Upgrade", "Upgrade: tea").status == 404


def test_raw_connection_gets_what_was_sent_behind_the_request(sockets):
    with sockets.client() as client:
        client.request("GET /raw HTTP/1.1", body=b"at once ")
        assert client.read_exactly(12) == b"raw\nAT ONCE "
        assert client.send(b"x" * 300_000).read_exactly(300_000) == b"X" * 300_000
        client.half_close().assert_closed()
    assert logged(sockets, "/raw")["status"] == 101
    assert "never seen" not in sockets.err.text()


def test_raw_connection_may_outlive_the_call(sockets):
    with sockets.client() as client:
        client.request("GET /kept HTTP/1.1")
        assert client.read_until(b"\n") == b"later\n"
        # The call has ended, so its line is in the log.
        assert logged(sockets, "/kept")["status"] == 101
        assert client.send(b"still here").read_exactly(10) == b"still here"
        client.assert_closed()


def test_client_that_vanishes_ends_the_call(sockets):
    websockets = [WebSocket(sockets.address) for _ in range(5)]
    for websocket in websockets:
        websocket.client.reset()
    eventually(lambda: sockets.get("/threads").body == b"0", what="that their threads have ended")


def test_descriptors_are_given_back(sockets):
    sockets.get("/")
    eventually(lambda: sockets.get("/threads").body == b"0")
    before = sockets.descriptors()
    for _ in range(10):
        with contextlib.ExitStack() as stack:
            for path in ("/echo", "/once"):
                stack.enter_context(WebSocket(sockets.address, path))
    eventually(lambda: sockets.descriptors() <= before, what="that no descriptor is left over")


def test_stop_with_open_websockets_is_prompt(server):
    running = server("websocket:app", "--werkzeug-socket", "--graceful-timeout", "60")
    websockets = [WebSocket(running.address) for _ in range(5)]
    with WebSocket(running.address, "/once") as left_open, running.client() as raw:
        assert left_open.receive() == (TEXT, b"only this")
        raw.request("GET /raw HTTP/1.1")
        raw.read_until(b"raw\n")
        for websocket in websockets:
            assert websocket.send(TEXT, b"a").receive() == (TEXT, b"a")
        began = time.monotonic()
        running.signal(signal.SIGTERM)
        assert running.wait() == 0
        assert time.monotonic() - began < PATIENCE / 2
        for websocket in websockets:
            websocket.client.assert_closed()
            websocket.client.close()


def test_stop_while_clients_connect_and_speak(server):
    running = server("websocket:app", "--werkzeug-socket", "--graceful-timeout", "60")
    stopped = threading.Event()
    spoken = []

    def speak():
        with contextlib.suppress(OSError, Closed, AssertionError):
            while not stopped.is_set():
                with WebSocket(running.address) as websocket:
                    for _ in range(5):
                        assert websocket.send(TEXT, b"a").receive() == (TEXT, b"a")
                        spoken.append(1)

    threads = [threading.Thread(target=speak) for _ in range(8)]
    for thread in threads:
        thread.start()
    eventually(lambda: len(spoken) > 100, what="that they speak")
    began = time.monotonic()
    running.signal(signal.SIGTERM)
    assert running.wait() == 0
    assert time.monotonic() - began < PATIENCE / 2
    stopped.set()
    for thread in threads:
        thread.join(PATIENCE)
        assert not thread.is_alive()


def test_connection_that_is_taken_over_has_no_limit_but_a_request_that_waits_for_its_place_has(server):
    running = server("websocket:app", "--werkzeug-socket", "--pool-size", "1", "--request-timeout", "500ms")
    with WebSocket(running.address) as websocket:
        assert websocket.send(TEXT, b"first").receive() == (TEXT, b"first")
        began = time.monotonic()
        assert running.get("/").status == 503 and time.monotonic() - began >= 0.5
        assert websocket.send(TEXT, b"second").receive() == (TEXT, b"second")
    eventually(lambda: running.get("/").status == 200, what="that the place is free")
    assert "given up" not in running.err.text()
