"""Stopping the server: no request in progress is lost, and the server ends within its limit."""

import re
import signal
import socket
import threading
import time

import pytest

from client import Client, Closed
from process import eventually, halt


class Load(threading.Thread):
    """A keep-alive client that sends requests without a pause, on a new connection after an announced close.

    A request is lost if it was sent whole and got no complete response, on a connection that the server had accepted
    and had not announced to close.
    """

    def __init__(self, address, path):
        super().__init__(daemon=True)
        self.address, self.path = address, path
        self.answered, self.lost, self.refused = 0, [], 0

    def run(self):
        while True:
            made = sent = time.monotonic()
            try:
                client = Client(self.address)
            except OSError:
                self.refused += 1
                return
            with client:
                first = True
                while True:
                    try:
                        client.request(f"GET {self.path} HTTP/1.1")
                        sent = time.monotonic()
                        response = client.response()
                    except (Closed, OSError) as error:
                        # Between two requests the server may close an idle connection (RFC 9112 §9.5); the first
                        # request on a connection that was accepted must be answered, if it comes within a second.
                        if first and sent - made < 1 and not isinstance(error, BrokenPipeError):
                            self.lost.append(repr(error))
                        elif isinstance(error, Closed) and error.args[0]:
                            self.lost.append(f"half an answer: {error.args[0][:100]!r}")
                        break
                    first = False
                    if response.status != 200:
                        self.lost.append(repr(response))
                    self.answered += 1
                    if (response.get("Connection") or "").lower() == "close":
                        break


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("path", ["/sleep?s=0.02", "/whole?n=300000", "/"])
def test_nothing_in_flight_is_lost_under_load(server, number, path):
    running = server("probe")
    load = [Load(running.address, path) for _ in range(16)]
    for thread in load:
        thread.start()
    eventually(lambda: sum(thread.answered for thread in load) > 100, what="the load")
    running.signal(number)
    assert running.wait() == 0
    for thread in load:
        thread.join(20)
    assert [loss for thread in load for loss in thread.lost] == []


def test_connections_in_the_listen_queue_are_served(server):
    running = server("probe", "--threads", "1")
    halt(running.pid)
    clients = [running.client() for _ in range(10)]
    for client in clients:
        client.request("GET / HTTP/1.1")
    running.signal(signal.SIGTERM)
    running.signal(signal.SIGCONT)
    for client in clients:
        assert client.response().status == 200
        client.close()
    assert running.wait() == 0


@pytest.mark.smoke
def test_running_request_is_answered_with_connection_close(server):
    running = server("probe")
    with running.client() as client, running.client() as idle:
        idle.assert_open()
        client.request("GET /hold/stop HTTP/1.1")
        assert running.get("/held/stop").body == b"yes"
        with running.client() as releasing:
            releasing.send("GET /release/stop HTTP/1.1\r\nHost: a\r\n")      # The rest of the head follows below.
            running.get()
            running.signal(signal.SIGTERM)
            idle.assert_closed()
            releasing.send("\r\n")
            assert releasing.response().body == b"released"
        response = client.response()
        assert response.body == b"held stop"
        assert response.get("Connection").lower() == "close"
        client.assert_closed()
    assert running.wait() == 0
    text = running.err.wait_end()
    assert re.search(r"SIGTERM: stopping; \d requests? may run for 30 s more \(--graceful-timeout\)\n", text), text
    assert re.search(r"\[INFO\] stopped \S+ m?s after SIGTERM: every request has ended\n\Z", text), text


def test_stopping_server_accepts_nothing_new(server):
    running = server("probe")
    with running.client() as client, running.client() as idle:
        idle.assert_open()
        client.request("GET /sleep?s=1 HTTP/1.1")
        assert client.quiet(0.2)
        running.signal(signal.SIGTERM)
        idle.assert_closed()
        with pytest.raises(OSError):
            socket.create_connection(("127.0.0.1", running.port), 5)
        assert client.response().body == b"slept"
    assert running.wait() == 0


def test_slow_reader_gets_all_of_a_finished_response(server):
    running = server("probe")
    with running.client(receive_buffer=65536) as client:
        client.request("GET /endless?name=slow&n=160 HTTP/1.1")
        client.head()
        running.get("/progress/slow")
        running.signal(signal.SIGTERM)
        assert sum(map(len, client.chunks())) == 160 * 65536
    assert running.wait() == 0


def test_upload_under_way_is_served(server):
    running = server("probe")
    with running.client() as client, running.client() as idle:
        idle.assert_open()
        client.request("POST /echo HTTP/1.1", "Content-Length: 6", body=b"abc")
        running.get()
        running.signal(signal.SIGTERM)
        idle.assert_closed()
        response = client.send("def").response()
        assert response.body == b"abcdef"
        assert response.get("Connection").lower() == "close"
    assert running.wait() == 0


@pytest.mark.parametrize("first, second", [(signal.SIGTERM, signal.SIGTERM), (signal.SIGINT, signal.SIGINT), (signal.SIGTERM, signal.SIGINT)])
def test_second_signal_ends_at_once(server, first, second):
    running = server("probe")
    with running.client() as client, running.client() as idle:
        idle.assert_open()
        running.hold(client)
        running.signal(first)
        idle.assert_closed()
        if first == second == signal.SIGTERM:
            # Within this time a second SIGTERM counts as an echo of the first.
            assert client.quiet(1.1)
        running.signal(second)
        running.wait()
    running.err.wait(rf"{second.name}: stopping at once, because a second signal came; it cuts off 1 request\b.*:\n")


def test_process_that_was_stopped_for_a_while_goes_on_without_a_word(server):
    running = server("probe")
    with running.client() as client:
        client.assert_open()
        for _ in range(3):
            halt(running.pid)
            running.signal(signal.SIGCONT)
            client.assert_open()
    running.stop()
    assert "ERROR" not in running.err.text()


def test_sigterm_that_comes_twice_at_once_counts_once(server):
    running = server("probe")
    with running.client() as client, running.client() as releases:
        running.hold(client)
        releases.send("GET /release/it HTTP/1.1\r\nHost: a\r\n")
        running.signal(signal.SIGTERM)
        running.err.wait("SIGTERM: stopping; [12] requests?")
        for _ in range(3):
            running.signal(signal.SIGTERM)
        releases.send("\r\n")
        assert client.response().status == 200
    assert running.wait() == 0
    assert "second signal" not in running.err.wait_end()


def test_graceful_timeout_is_the_end_of_waiting(server):
    running = server("probe", "--graceful-timeout", "1s")
    with running.client() as client:
        running.hold(client)
        start = time.monotonic()
        running.signal(signal.SIGTERM)
        assert running.wait() == 0
        assert 0.8 < time.monotonic() - start < 10
    text = running.err.wait_end()
    assert re.search(r"SIGTERM: stopping; [12] requests? may run for 1 s more \(--graceful-timeout\)\n", text), text
    row = r'  \d+\.\d{3} s  127\.0\.0\.1:\d+  in the application  "GET /hold/it HTTP/1\.1"'
    assert re.search(rf"\[WARNING\] stopped [\d.]+ s after SIGTERM; --graceful-timeout cut off 1 request:\n{row}\n\Z", text), text


def test_stop_names_the_call_whose_client_has_left(server):
    running = server("probe", "--graceful-timeout", "1s")
    with running.client() as client:
        client.request("GET /hold/left HTTP/1.1")
        assert running.get("/held/left").body == b"yes"
        client.reset()
    running.signal(signal.SIGTERM)
    assert running.wait() == 0
    running.err.wait(r"; --graceful-timeout cut off 1 call whose client has left\n")


def test_idle_server_stops_at_once(server):
    # Each of these times is longer than the test waits for the end.
    running = server("probe", "--keep-alive", "10m", "--graceful-timeout", "10m")
    with running.client() as idle:
        idle.assert_open()
        running.signal(signal.SIGTERM)
        assert running.wait() == 0
        idle.assert_closed()


def test_head_that_never_ends_does_not_delay_the_end_beyond_its_deadline(server):
    running = server("probe", "--header-timeout", "1s", "--graceful-timeout", "10m")
    with running.client() as client:
        client.send("GET / HTTP/1.1\r\n")
        running.get()
        running.signal(signal.SIGTERM)
        assert running.wait() == 0


@pytest.mark.smoke
def test_sigquit_tells_what_is_going_on_and_goes_on(server):
    running = server("probe")
    with running.client() as client:
        client.request("GET /hold/quit?token=seen HTTP/1.1")
        assert running.get("/held/quit").body == b"yes"
        running.signal(signal.SIGQUIT)
        running.err.wait(r"in hold\b")              # This is the application's frame.
        running.err.wait(r"probe\.py")
        running.err.wait(r"GET /hold/quit\?token=seen")
        assert running.get("/release/quit").status == 200
        assert client.response().body == b"held quit"
    assert running.process.poll() is None
    assert running.get().status == 200


def test_atexit_and_non_daemon_state_is_honoured(server, tmp_path):
    mark = tmp_path / "mark"
    running = server("leaves_a_mark", env={"MARK": str(mark)})
    assert running.get().status == 200
    running.stop()
    assert mark.read_text() == "atexit"


def test_signals_reach_no_client_of_another_server(server):
    one, two = server("probe"), server("probe")
    with two.client() as client:
        client.assert_open()
        one.stop()
        client.assert_open()


def test_sigpipe_and_sighup_like_noise_does_not_stop_it(server):
    running = server("probe")
    running.signal(signal.SIGPIPE)
    running.signal(signal.SIGWINCH)
    assert running.get().status == 200


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("how", ["sleeping", "computing"])
def test_signal_during_the_import_ends_the_process_by_it(server, number, how):
    running = server("stuck", env={"STUCK": how}, ready=False)
    running.err.wait("importing")
    running.signal(number)
    assert running.wait() == -number
