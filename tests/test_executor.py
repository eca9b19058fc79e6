"""The number of application threads adapts to the application, without settings."""

import os
import threading
import time

import pytest

from process import best, eventually


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


def idle_seconds(processor):
    """Returns for how long a processor has had nothing to do, since the start of the machine."""
    with open("/proc/stat") as file:
        fields = next(line for line in file if line.startswith(f"cpu{processor} ")).split()
    return (int(fields[4]) + int(fields[5])) / os.sysconf("SC_CLK_TCK")


@pytest.mark.smoke
def test_waiting_application_gets_threads(server):
    running = server("probe")
    best(lambda: drive(running, "/sleep?s=0.05", 8, 3), lambda rate, seen: 8 <= max(seen) <= 16 and rate > 0.7 * 8 / 0.05)


@pytest.mark.parametrize("path", ["/compute?s=0.01", "/"])
def test_computing_or_quick_application_gets_one_or_two(server, path):
    """One thread runs and one may stand by. Other processes can make calls look as if they waited. The unit tests of
    src/executor/policy.rs check the decisions without a clock."""

    def usual():
        running = server("probe")
        _, seen = drive(running, path, 8, 1.5)
        running.stop()
        return [sorted(seen)[len(seen) * 3 // 4]]

    best(usual, lambda threads: threads <= 2)


@pytest.mark.parametrize(
    ("path", "clients", "least"),
    [("/", 1, 300), ("/", 32, 800), ("/compute?s=0.0002", 32, 500), ("/compute?s=0.005", 8, 80), ("/sleep?s=0.02", 32, 600)],
)
def test_one_processor_is_shared_by_calls_and_connections(server, path, clients, least):
    processor = min(os.sched_getaffinity(0))
    running = server("probe", preexec_fn=lambda: os.sched_setaffinity(0, {processor}))

    def measure():
        """Returns the calls per second of what other processes have left of the processor."""
        began, before = time.monotonic(), running.cpu_seconds() + idle_seconds(processor)
        rate, seen = drive(running, path, clients, 2)
        left = (running.cpu_seconds() + idle_seconds(processor) - before) / (time.monotonic() - began)
        return rate / min(max(left, 0.05), 1), seen

    best(measure, lambda rate, _: rate > least, rounds=8)


def test_many_waiting_calls_at_once(server):
    running = server("probe")
    best(lambda: drive(running, "/sleep?s=0.2", 64, 3), lambda rate, seen: max(seen) >= 50 and rate > 0.6 * 64 / 0.2)


def test_threads_is_a_hard_cap(server):
    running = server("probe", "--threads", "4")

    def measure():
        rate, seen = drive(running, "/sleep?s=0.05", 16, 2)
        assert max(seen) <= 4 and rate < 1.1 * 4 / 0.05, (rate, seen)
        return [rate]

    best(measure, lambda rate: rate > 0.6 * 4 / 0.05)


def test_idle_threads_end(server):
    running = server("probe")
    best(lambda: drive(running, "/sleep?s=0.1", 16, 1), lambda _, seen: max(seen) >= 8)
    eventually(lambda: running.application_threads() <= 4, 60, "the end of idle threads")


def test_quick_requests_are_answered_among_waiting_ones(server):
    """Forty requests wait for a database. Requests that do not wait are not delayed."""
    running = server("probe")

    def seconds():
        """Returns the times until the quick response and until the last one."""
        waiting = [running.client() for _ in range(40)]
        try:
            for client in waiting:
                client.request("GET /sleep?s=2 HTTP/1.1")
            start = time.monotonic()
            assert running.get("/").status == 200
            quick = time.monotonic() - start
            for client in waiting:
                assert client.response().status == 200
            return quick, time.monotonic() - start
        finally:
            for client in waiting:
                client.close()

    best(seconds, lambda quick, last: quick < 1 and last < 4)


def test_quick_requests_are_answered_beside_a_computing_one(server):
    running = server("probe")

    def seconds():
        with running.client() as busy:
            busy.request("GET /compute?s=3 HTTP/1.1")
            start = time.monotonic()
            for _ in range(5):
                assert running.get("/").status == 200
            took = time.monotonic() - start
            assert busy.response().status == 200
            return [took]

    best(seconds, lambda took: took < 2.5)


def test_deadlock_between_requests_is_resolved_by_a_further_thread(server):
    """A request waits until another request has arrived."""
    running = server("probe")
    with running.client() as holding:
        holding.request("GET /hold/dead HTTP/1.1")
        assert running.get("/held/dead").body == b"yes"
        assert running.get("/release/dead").status == 200
        assert holding.response().status == 200
