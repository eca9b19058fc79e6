"""Deadlines: each kind of slow client ends at its deadline, and no deadline cuts off a quick client."""

import re
import time

import pytest

from client import Closed
from process import eventually


class Watch:
    def __init__(self):
        self.start = time.monotonic()

    def seconds(self):
        return time.monotonic() - self.start


@pytest.fixture(scope="module")
def short(module_server):
    """Starts a server whose deadlines differ in length, so that a test sees which one has passed."""
    return module_server("probe", "--header-timeout", "600ms", "--body-timeout", "400ms", "--keep-alive", "800ms",
                         "--write-timeout", "500ms", "--min-rate", "0")


@pytest.fixture(scope="module")
def longer(module_server):
    """Starts a server whose deadlines are far longer than a quick client's pauses, also on a busy machine."""
    return module_server("probe", "--body-timeout", "2s", "--keep-alive", "2s", "--write-timeout", "2s", "--min-rate", "0")


# On a busy machine a deadline may pass late. It never passes early.
SLACK = 5


def ends_between(watch, least):
    assert least * 0.9 <= watch.seconds() <= least + SLACK, watch.seconds()


def test_unfinished_head_is_408(short):
    with short.client() as client:
        watch = Watch()
        client.send("GET / HTTP/1.1\r\nHost:")
        assert client.response().status == 408
        client.assert_closed()
        ends_between(watch, 0.6)


def test_dripped_head_is_not_kept_alive_by_dripping(short):
    with short.client() as client:
        watch = Watch()
        try:
            for byte in b"GET / HTTP/1.1\r\nHost: a\r\n" + b"X: y\r\n" * 1000:
                client.send(bytes([byte]))
                if not client.quiet(0.02):
                    break
        except (Closed, OSError):
            pass
        answer = client.buffer + client.rest()
        assert answer == b"" or answer.startswith(b"HTTP/1.1 408 ")
        ends_between(watch, 0.6)


@pytest.mark.parametrize(("pieces", "statuses"), [
    (["G", "ET / HTT", "P/1.1\r", "\nHost: a\r\n\r", "\n"], [200]),
    (["GE", "T / HTTP/1.1\r\nHost: a\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n"], [200, 200]),
    (["GET / HTTP/1.1\r\n", "Host: a\r", "X"], [400]),
])
def test_head_in_pieces_between_rests_is_read_like_one(probe, pieces, statuses):
    with probe.client() as client:
        for piece in pieces:
            assert client.quiet(0.1)        # This is longer than a quiet connection keeps its coroutine.
            client.send(piece)
        assert [client.response().status for _ in statuses] == statuses
        if statuses == [400]:
            client.assert_closed()
        else:
            client.assert_open()


def test_head_that_ends_between_rests_is_400(probe):
    with probe.client() as client:
        client.send("GET / HTTP/1.1\r\n")
        assert client.quiet(0.1)
        client.half_close()
        assert client.response().status == 400
        client.assert_closed()


def test_silent_connection_is_closed_without_an_answer(short):
    watch = Watch()
    with short.client() as client:
        client.assert_closed()
        assert 0.3 <= watch.seconds() <= 0.8 + SLACK


def test_idle_connection_is_closed_after_keep_alive(short):
    with short.client() as client:
        # The server's time begins with its response, which this process may read late.
        watch = Watch()
        client.assert_open()
        client.assert_closed()
        ends_between(watch, 0.8)


def test_keep_alive_starts_anew_with_each_request(longer):
    with longer.client() as client:
        for _ in range(3):
            client.assert_open()
            assert client.quiet(0.8)
        client.assert_open()


def test_second_head_has_its_own_deadline(short):
    with short.client() as client:
        client.assert_open()
        watch = Watch()
        client.send("GET / HT")
        assert client.response().status == 408
        client.assert_closed()
        ends_between(watch, 0.6)


@pytest.mark.parametrize("framing", ["Content-Length: 10", "Transfer-Encoding: chunked"])
def test_stalled_body_is_408(short, framing):
    with short.client() as client:
        watch = Watch()
        client.request("POST /smuggled/stalled HTTP/1.1", framing, body=b"1\r\nx")
        assert client.response().status == 408
        client.assert_closed()
        ends_between(watch, 0.4)
    assert short.get("/served?p=/smuggled/stalled").body == b"0"


def test_body_in_pieces_within_the_deadline_is_fine(longer):
    with longer.client() as client:
        client.request("POST /echo HTTP/1.1", "Content-Length: 8")
        for byte in b"12345678":
            assert client.quiet(0.3)
            client.send(bytes([byte]))
        assert client.response().body == b"12345678"


def test_reader_that_stops_is_cut(short):
    with short.client(receive_buffer=4096) as client:
        client.request("GET /whole?n=30000000 HTTP/1.1")
        # It reads no byte before its deadline.
        short.err.wait(r'the response to "GET /whole\?n=30000000 HTTP/1\.1" is cut off: the client took nothing for 500ms')
        assert not complete(client, 30000000)


def complete(client, size):
    try:
        head = client.head()
        assert int(head.get("Content-Length")) == size
        client.read_exactly(size)
    except Closed:
        return False
    return True


def test_slow_reader_within_the_deadline_is_fine(longer, probe):
    with longer.client(receive_buffer=65536) as client:
        client.request("GET /whole?n=6000000 HTTP/1.1")
        assert client.head().status == 200
        for _ in range(20):
            client.read_exactly(100_000)
            with probe.client() as other:
                assert other.quiet(0.12)
        assert len(client.read_exactly(4_000_000)) == 4_000_000


def test_application_has_no_deadline(short):
    """The deadlines are for clients. An application may take longer than any of them."""
    with short.client() as client:
        assert client.get("/sleep?s=1.2").body == b"slept"
        client.assert_open()


def test_min_rate_for_a_body(server):
    """The client is quick enough for the deadline between two pieces, but below the minimum rate."""
    running = server("probe", "--body-timeout", "10s", "--min-rate", "1000")
    with running.client() as client:
        watch = Watch()
        client.request("POST /echo HTTP/1.1", "Content-Length: 10000")
        try:
            while watch.seconds() < 15:
                client.send("x")
                if not client.quiet(0.1):
                    break
        except (Closed, OSError):
            pass
        answer = client.buffer + client.rest()
        assert answer == b"" or answer.startswith(b"HTTP/1.1 408 ")
        assert 4.5 < watch.seconds() < 12, watch.seconds()


def test_min_rate_for_a_response(server):
    running = server("probe", "--write-timeout", "30s", "--min-rate", "100k")
    with running.client(receive_buffer=4096) as client:
        watch = Watch()
        client.request("GET /whole?n=50000000 HTTP/1.1")
        try:
            client.head()
            while watch.seconds() < 20:
                client.read_exactly(200)
                with running.client() as other:
                    other.quiet(0.05)
        except Closed:
            pass
        assert 4.5 < watch.seconds() < 15, watch.seconds()


def test_full_pool_is_503_with_retry_after(server):
    running = server("probe", "--pool-size", "1", "--queue-timeout", "500ms")
    with running.client() as first, running.client() as second, running.client() as third:
        first.request("GET /hold/pool HTTP/1.1")
        # The only permit is taken, so no call can report that.
        eventually(lambda: "1 of 1 places in the pool are taken" in running.report()[0], what="that the place is taken")
        watch = Watch()
        second.request("GET / HTTP/1.1")
        response = second.response()
        assert response.status == 503
        assert int(response.get("Retry-After")) >= 1
        ends_between(watch, 0.5)
        third.request("GET /release/pool HTTP/1.1")
        assert third.response().status == 503
        assert first.quiet(0.1)
        first.reset()
    running.kill()


def test_waiting_for_a_place_is_first_come_first_served(server, tmp_path):
    gate = tmp_path / "gate"
    running = server("gated", "--pool-size", "1", "--threads", "4", env={"GATE": str(gate)})
    clients = [running.client() for _ in range(10)]
    try:
        for number, client in enumerate(clients):
            client.request(f"GET /gate{number} HTTP/1.1")
            if number == 0:
                running.err.wait("called /gate0")
            else:
                eventually(lambda n=number: re.search(rf", {n} requests? waiting for one;", running.report()[0]), what=f"that {number} wait")
        gate.touch()
        for client in clients:
            assert client.response().status == 200
    finally:
        for client in clients:
            client.close()
    # The application writes a line for each call. The log is complete when the server has ended.
    running.stop()
    assert re.findall(r"called /gate(\d+)", running.err.text()) == [str(number) for number in range(10)]


def test_queue_for_a_place_goes_on_when_there_is_one(server):
    running = server("probe", "--pool-size", "2", "--queue-timeout", "10s")
    clients = [running.client() for _ in range(12)]
    try:
        for client in clients:
            client.request("GET /sleep?s=0.05 HTTP/1.1")
        for client in clients:
            assert client.response().body == b"slept"
    finally:
        for client in clients:
            client.close()
