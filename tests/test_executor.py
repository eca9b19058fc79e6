"""The number of application threads adapts to the application, without settings."""

import os
import threading
import time

import pytest

from process import eventually


def drive(server, path, clients, seconds):
    """Runs keep-alive clients without a pause. Returns responses per second, and the peak number of threads."""
    answers, end, seen = [0] * clients, time.monotonic() + seconds, []

    def one(number):
        with server.client() as client:
            while time.monotonic() < end:
                assert client.get(path).status == 200
                answers[number] += 1

    threads = [threading.Thread(target=one, args=(n,)) for n in range(clients)]
    start = time.monotonic()
    for thread in threads:
        thread.start()
    while time.monotonic() < end:
        seen.append(server.application_threads())
        threads[0].join(0.05)
    for thread in threads:
        thread.join()
    return sum(answers) / (time.monotonic() - start), seen


@pytest.mark.smoke
def test_waiting_application_gets_threads(server):
    running = server("probe")
    rate, seen = drive(running, "/sleep?s=0.05", 8, 3)
    assert 8 <= max(seen) <= 16, seen
    assert rate > 0.7 * 8 / 0.05, rate


@pytest.mark.parametrize("path", ["/compute?s=0.01", "/"])
def test_computing_or_quick_application_gets_one_or_two(server, path):
    """One thread runs and one may stand by. Other processes can make calls look as if they waited. So the
    best of some rounds counts. The unit tests of src/executor/policy.rs check the decisions without a clock."""
    rounds = []
    for _ in range(6):
        running = server("probe")
        _, seen = drive(running, path, 8, 1.5)
        running.stop()
        rounds.append(sorted(seen)[len(seen) * 3 // 4])
        if rounds[-1] <= 2:
            return
    pytest.fail(f"the usual number of threads was {rounds}")


@pytest.mark.parametrize(
    ("path", "clients", "least"),
    [("/", 1, 300), ("/", 32, 800), ("/compute?s=0.0002", 32, 500), ("/compute?s=0.005", 8, 80), ("/sleep?s=0.02", 32, 600)],
)
def test_one_processor_is_shared_by_calls_and_connections(server, path, clients, least):
    """Other processes may use most of the processor, so the best of some rounds counts."""
    processor = min(os.sched_getaffinity(0))
    running = server("probe", preexec_fn=lambda: os.sched_setaffinity(0, {processor}))
    rounds = []
    for _ in range(8):
        rounds.append(drive(running, path, clients, 2))
        if rounds[-1][0] > least:
            return
    pytest.fail(f"calls per second and threads: {rounds}")


def test_many_waiting_calls_at_once(server):
    running = server("probe")
    rate, seen = drive(running, "/sleep?s=0.2", 64, 3)
    assert max(seen) >= 50, seen
    assert rate > 0.6 * 64 / 0.2, rate


def test_threads_is_a_hard_cap(server):
    running = server("probe", "--threads", "4")
    rate, seen = drive(running, "/sleep?s=0.05", 16, 2)
    assert max(seen) <= 4, seen
    assert 0.6 * 4 / 0.05 < rate < 1.1 * 4 / 0.05, rate


def test_idle_threads_end(server):
    running = server("probe")
    _, seen = drive(running, "/sleep?s=0.1", 16, 1)
    assert max(seen) >= 8
    eventually(lambda: running.application_threads() <= 4, 60, "the end of idle threads")


def test_quick_requests_are_answered_among_waiting_ones(server):
    """Forty requests wait for a database. Requests that do not wait are not delayed."""
    running = server("probe")
    waiting = [running.client() for _ in range(40)]
    try:
        for client in waiting:
            client.request("GET /sleep?s=2 HTTP/1.1")
        start = time.monotonic()
        assert running.get("/").status == 200
        assert time.monotonic() - start < 1
        for client in waiting:
            assert client.response().status == 200
        assert time.monotonic() - start < 4
    finally:
        for client in waiting:
            client.close()


def test_quick_requests_are_answered_beside_a_computing_one(server):
    running = server("probe")
    with running.client() as busy:
        busy.request("GET /compute?s=3 HTTP/1.1")
        start = time.monotonic()
        for _ in range(5):
            assert running.get("/").status == 200
        assert time.monotonic() - start < 2.5
        assert busy.response().status == 200


def test_deadlock_between_requests_is_resolved_by_a_further_thread(server):
    """A request waits until another request has arrived."""
    running = server("probe")
    with running.client() as holding:
        holding.request("GET /hold/dead HTTP/1.1")
        assert running.get("/held/dead").body == b"yes"
        assert running.get("/release/dead").status == 200
        assert holding.response().status == 200
