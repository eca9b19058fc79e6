"""What a worker shows the supervisor of itself: its ticks, its numbers and the requests inside."""

import pytest

from process import eventually
from scoreboard import Scoreboard


@pytest.fixture
def worker(server):
    """Starts one worker under a supervisor. Gives the service and the scoreboard."""

    def start(app, *options):
        running = server(app, "-w", "1", *options)
        return running, Scoreboard.of(running.pid)

    return start


def moves(board, word, times=2):
    """Waits until a word of the slot has changed this many times."""
    for _ in range(times):
        before = board.serving()[0][word]
        eventually(lambda: board.serving()[0][word] != before, what=f"a change of {word}")


def test_long_request_stops_no_tick(worker):
    running, board = worker("probe")
    with running.client() as client:
        client.send(b"GET /hold/a HTTP/1.1\r\nHost: a\r\n\r\n")
        assert running.get("/held/a").body == b"yes"
        moves(board, "runtime_tick")
        moves(board, "gil_tick")
        for word in ("requests", "calls"):
            eventually(lambda word=word: board.serving()[0][word] == 1, what=f"the number of {word}")
        assert running.get("/release/a").status == 200
        assert client.response().status == 200
    eventually(lambda: board.serving()[0]["begun"] == 3, what="the count of requests")


def test_thread_that_keeps_the_gil_stops_its_tick_alone(worker):
    running, board = worker("places:keep_gil", "--worker-timeout", "0")
    with running.client() as client:
        client.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")

        def stands_still():
            """Returns whether the GIL is sought in vain while the coroutines tick twice."""
            before = board.serving()[0]
            moves(board, "runtime_tick")
            now = board.serving()[0]
            return now["gil_sought"] and now["gil_sought"] == before["gil_sought"] and now["gil_tick"] == before["gil_tick"]

        # Each look at the GIL seeks it, before the call keeps it as well.
        eventually(stands_still, what="a thread that waits for the GIL")
        running.kill()


def test_requests_inside_are_noted_until_they_end(worker):
    running, board = worker("probe")
    long = "/hold/b?" + "x" * 200
    with running.client() as client:
        client.send(f"GET {long} HTTP/1.1\r\nHost: a\r\n\r\n".encode())
        assert running.get("/held/b").body == b"yes"
        # The row of a request stays a moment longer than its client waits.
        eventually(lambda: board.inside() == [f"GET {long}"[:112]], what="the row of one request")
        assert running.get("/release/b").status == 200
        assert client.response().status == 200
    eventually(lambda: not board.inside(), what="the end of the requests")


def test_crash_names_the_request_that_was_inside(server):
    running = server("crashing:application", "-w", "1")
    start = len(running.err.text())
    with running.client() as client:
        client.send(b"GET /SIGSEGV HTTP/1.1\r\nHost: a\r\n\r\n")
        running.err.wait(r"(?s)signal SIGSEGV.*GET /SIGSEGV HTTP/1.1", start=start)
    assert "Fatal Python error: Segmentation fault" in running.err.text()
    running.err.wait(r"worker 1 \(pid \d+\) serves", start=start)
