"""Requests whose client has left, or that have waited too long: no call is made, and the access log has one line."""

import contextlib
import re
import time

import pytest

from process import eventually

ACCESS = ("--access-logfile", "-", "--access-logformat", "%(m)s %(U)s %(s)s %(B)s %(D)s %(queue)s %(application)s")


class Gated:
    """A server whose calls of /gate wait until `open()`."""

    def __init__(self, server, gate, *args):
        self.gate = gate
        self.running = server("gated", *ACCESS, *args, env={"GATE": str(gate)})
        self.clients = contextlib.ExitStack()

    def client(self):
        return self.clients.enter_context(self.running.client())

    def fill(self, threads):
        """Sends requests that keep this many threads busy."""
        fillers = [self.client().request(f"GET /gate{number} HTTP/1.1") for number in range(threads)]
        for number in range(threads):
            self.running.err.wait(rf"called /gate{number}\n")
        return fillers

    def open(self):
        self.gate.touch()

    def called(self, path):
        return len(re.findall(rf"called {path}\n", self.running.err.text()))

    def lines(self, path, count):
        """Waits for this many access lines of a path. Returns them as lists of words."""

        def found():
            lines = [line.split() for line in self.running.out.text().split("\n")[:-1]]
            return [line for line in lines if line[1] == path]

        eventually(lambda: len(found()) >= count, what=f"{count} lines of {path}")
        return found()


@pytest.fixture
def gated(server, tmp_path):
    made = []

    def start(*args):
        made.append(Gated(server, tmp_path / "gate", *args))
        return made[-1]

    yield start
    for each in made:
        each.open()
        each.clients.close()


@pytest.mark.smoke
def test_clients_that_reset_while_they_wait_for_a_thread_are_not_called_for(gated):
    app = gated("--threads", "1")
    filler, = app.fill(1)
    for _ in range(100):
        app.running.client().request("GET /gone HTTP/1.1").reset()
    lines = app.lines("/gone", 100)
    assert len(lines) == 100 and {line[2] for line in lines} == {"499"}, lines
    last = app.client().request("GET /next HTTP/1.1")
    app.open()
    assert last.response().body == b"/next"
    assert filler.response().body == b"/gate0"
    assert app.called("/gone") == 0
    assert len(app.lines("/gone", 100)) == 100


def test_client_that_closes_one_side_only_is_answered(gated):
    app = gated("--threads", "1")
    app.fill(1)
    half = app.client().request("GET /half HTTP/1.1").half_close()
    gone = app.running.client().request("GET /gone HTTP/1.1")
    gone.reset()
    app.lines("/gone", 1)
    app.open()
    assert half.response().body == b"/half"


def test_client_that_resets_in_the_pools_line_has_a_line_in_the_log(gated):
    app = gated("--pool-size", "1")
    app.fill(1)
    app.running.client().request("GET /line HTTP/1.1").reset()
    (_, _, status, size, duration, queue, application), = app.lines("/line", 1)
    assert (status, size, application) == ("499", "0", "0")
    assert int(duration) >= int(queue) > 0
    app.open()
    assert app.running.get("/next").status == 200
    assert app.called("/line") == 0


def test_client_that_resets_in_its_body_has_a_line_in_the_log(gated):
    app = gated()
    client = app.running.client().request("POST /body HTTP/1.1", "Content-Length: 10", "Expect: 100-continue")
    assert client.head().status == 100
    client.send(b"abc").reset()
    (_, _, status, size, duration, queue, application), = app.lines("/body", 1)
    assert (status, size, queue, application) == ("499", "0", "0", "0")
    assert int(duration) > 0
    assert app.called("/body") == 0


def test_client_that_resets_while_the_application_runs_is_a_499_with_its_times(gated):
    app = gated()
    client = app.running.client().request("GET /gate0 HTTP/1.1")
    app.running.err.wait("called /gate0")
    began = time.monotonic()
    while time.monotonic() - began < 0.05:
        assert app.running.get("/other").status == 200
    client.reset()
    (_, _, status, size, duration, _, application), = app.lines("/gate0", 1)
    assert (status, size) == ("499", "0")
    assert int(duration) >= int(application) >= 50_000


@pytest.mark.smoke
def test_request_that_no_thread_begins_in_time_is_a_503(gated):
    app = gated("--threads", "2", "--pool-size", "4", "--queue-timeout", "1200ms")
    fillers = app.fill(2)
    began = time.monotonic()
    late = [app.client().request("GET /late HTTP/1.1") for _ in range(2)]
    for client in late:
        response = client.response()
        assert response.status == 503
        assert response.get("Retry-After") == "1"
        assert response.get("Connection") == "close"
    assert time.monotonic() - began >= 1.2
    said = app.running.err.wait(r"overload: 503 for (\d) requests? that waited for 1200ms \(--queue-timeout\): (\d) for a thread; (.*)")
    assert said[1] == said[2] and 1 <= int(said[1]) <= 2
    assert re.fullmatch(
        r"[234] of 4 places in the pool are taken \(--pool-size\), 0 requests waiting for one; 2 of at most 2 threads run calls "
        r'\(--threads\), \d calls? waiting for one; the longest: [1-9]\.\d{3} s  127\.0\.0\.1:\d+  in the application  '
        r'"GET /gate[01] HTTP/1\.1"',
        said[3],
    ), said[3]
    lines = app.lines("/late", 2)
    assert {line[2] for line in lines} == {"503"}
    assert all(int(line[5]) >= 1_200_000 and line[6] == "0" for line in lines), lines
    # Their permits are free: the next two requests reach the queue of the threads.
    again = [app.client().request("GET /again HTTP/1.1") for _ in range(2)]
    app.open()
    assert [client.response().body for client in again] == [b"/again"] * 2
    assert [client.response().status for client in fillers] == [200, 200]
    assert app.called("/late") == 0


def test_request_that_gets_no_place_in_time_is_counted_in_one_line(gated):
    app = gated("--pool-size", "1", "--queue-timeout", "300ms")
    app.fill(1)
    refused = [app.client().request("GET /refused HTTP/1.1") for _ in range(20)]
    assert [client.response().status for client in refused] == [503] * 20
    line = r"503 for (\d+) requests? that waited for 300ms \(--queue-timeout\): \d+ for a place in the pool; 1 of 1 places in the pool are taken"
    app.running.err.wait(line)
    over = app.running.err.wait(r"the overload is over: it lasted [\d.]+ m?s, and (\d+) requests got 503")
    app.open()
    assert app.running.get("/next").status == 200
    app.running.stop()
    text = app.running.err.wait_end()
    counted = [int(number) for number in re.findall(line, text)]
    assert sum(counted) == 20 == int(over[1]) and len(counted) <= 3, counted
    # The log has no other line about them.
    assert text.count("/refused") == 0 and text.count("[WARNING]") == len(counted), text


def test_overload_that_a_stop_ends_is_counted(gated):
    app = gated("--pool-size", "1", "--queue-timeout", "100ms")
    app.fill(1)
    assert app.client().request("GET /refused HTTP/1.1").response().status == 503
    app.open()
    app.running.stop()
    text = app.running.err.wait_end()
    assert re.search(r"overload: 503 for 1 request .*\n.*the overload is over: it lasted 0 s, and 1 request got 503\n.*stopped", text), text


def test_queue_timeout_of_zero_still_starts_threads(gated):
    app = gated("--queue-timeout", "0")
    app.fill(3)
    assert app.running.get("/next").status == 200


@pytest.mark.smoke
@pytest.mark.parametrize("path", ["/heart", "/heart-head", "/heart-204", "/heart-sent", "/heart-write"])
def test_heartbeat_of_empty_blocks_ends_when_its_client_has_gone(server, path):
    running = server("heartbeat", "--threads", "1")
    client = running.client().request(("HEAD" if "head" in path else "GET") + f" {path} HTTP/1.1")
    running.err.wait(f"began {path}\n")
    if "sent" in path:
        assert client.head().status == 200
    client.reset()
    running.err.wait(f"closed {path}\n")
    # The only thread is free again.
    assert running.get("/quick").body == b"quick"
    assert running.err.text().count("closed") == 1


def test_heartbeat_of_empty_blocks_goes_on_for_a_client_that_closed_one_side(server):
    running = server("heartbeat")
    with running.client() as client:
        client.request("GET /pause HTTP/1.1").half_close()
        assert client.response().body == b"done"


@pytest.mark.slow
def test_heartbeat_of_empty_blocks_ends_some_time_after_its_client_has_closed(server):
    """Without a reset only the client's kernel knows that the client left. It resets the connection after 60 s."""
    running = server("heartbeat")
    client = running.client().request("GET /heart HTTP/1.1")
    running.err.wait("began /heart\n")
    client.close()
    running.err.wait("closed /heart\n", timeout=60 + 3 * 15 + 20)
