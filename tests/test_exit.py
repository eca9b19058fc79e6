"""The process's exit: it neither crashes nor hangs, and ends within its limit."""

import contextlib
import os
import re
import signal
import subprocess
import time

import pytest

from client import Client
from process import APPS, MAYPOLE, START_PATIENCE, clean_environment, eventually

# The rules for threads at the end of Python differ between versions.
pytestmark = pytest.mark.smoke

# The time for the end of Python if the graceful timeout is used up, with a margin for a busy machine.
END_MIN, BUSY = 5, 20


def traffic(running, times=3):
    with running.client() as client:
        for _ in range(times):
            assert len(client.get("/large").body) == 3_000_001


@pytest.mark.parametrize("end, times", [("sleep", 20), ("graph", 5), ("sleep graph", 5)])
def test_stop_right_after_traffic_ends_with_status_0(server, end, times):
    for _ in range(times):
        running = server("slow_to_end", env={"END": end})
        traffic(running)
        running.signal(signal.SIGTERM)
        assert running.wait() == 0, running.err.text()[-2000:]


@pytest.fixture
def stop_that_never_ends(server):
    """Starts and stops a server whose interpreter would never end. Returns the server and the time of the signal."""
    started = []

    def start(end, graceful_timeout):
        running = server("slow_to_end", "--graceful-timeout", graceful_timeout, env={"END": end})
        started.append(running)
        return begin_stop(running)

    yield start
    for running in started:
        # The children outlive the server.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(running.pid, signal.SIGKILL)


def begin_stop(running):
    traffic(running, 1)
    assert running.get("/print").status == 200
    began = time.monotonic()
    running.signal(signal.SIGTERM)
    running.err.wait(r"stopped")
    return running, began


LEFT = {
    "thread": r"left: 1 thread: 'stubborn'",
    "pool": r"left: 1 thread: 'busy_0'",
    "thread pool": r"left: 2 threads: 'stubborn', 'busy_0'",
    "child": r"left: 1 child process: \d+ \(",
    "thread child": r"left: 1 thread: 'stubborn'; 1 child process: \d+ \(",
    "exit": r"no thread and no child process is left: an exit function or a destructor still runs",
}


@pytest.mark.parametrize("end", LEFT)
def test_end_that_would_never_come_is_cut_at_its_deadline_and_says_what_was_left(stop_that_never_ends, end):
    running, began = stop_that_never_ends(end, "1s")
    assert running.wait() == 0
    assert END_MIN - 0.5 < time.monotonic() - began < END_MIN + BUSY
    line = running.err.wait(r".*Python has not ended.*")
    assert "[WARNING]" in line[0] and re.search(LEFT[end], line[0])
    running.out.wait("printed by the application\n")


def signal_again(running, number):
    """Sends SIGTERM until the server takes it for a second signal. Within a second it is an echo of the first."""
    running.signal(number)
    while number == signal.SIGTERM and not re.search("a second signal came", running.err.text()):
        with contextlib.suppress(subprocess.TimeoutExpired):
            running.process.wait(0.2)
            return
        running.signal(number)


@pytest.mark.parametrize("end", ["thread", "pool", "child", "exit"])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_second_signal_ends_a_process_whose_python_does_not_end(stop_that_never_ends, end, number):
    running, began = stop_that_never_ends(end, "60s")
    if end in ("thread", "pool"):
        running.err.wait("waiting for the application")
    signal_again(running, number)
    assert running.wait() == 0
    assert time.monotonic() - began < BUSY
    # Before the end of Python begins, the server does not know what Python waits for.
    line = running.err.wait(r".*a second signal came.*")[0]
    assert re.search(LEFT[end] + "|about to end$", line)


def test_report_that_comes_after_the_end_of_python_does_no_harm(server):
    running = server("slow_to_end", "--graceful-timeout", "60s", env={"END": "after"}, stdin=subprocess.PIPE)
    begin_stop(running)
    for _ in range(10):
        start = len(running.err.text())
        running.signal(signal.SIGQUIT)
        running.err.wait("SIGQUIT: ", start=start)
    running.err.wait("Python does not run yet, or is going down; its fault handler writes the stacks")
    running.process.stdin.close()
    assert running.wait() == 0


def test_rest_of_the_graceful_timeout_is_for_the_end_of_python(stop_that_never_ends):
    running, began = stop_that_never_ends("thread", "7s")
    running.err.wait(r"waiting for the application: 1 thread: 'stubborn' may run for (7|6\.\d) s more")
    assert running.wait() == 0
    assert 6.5 < time.monotonic() - began < 7 + BUSY
    running.err.wait(r"has not ended within 7 s")


def test_end_that_takes_a_while_is_waited_for(server):
    running = server("slow_to_end", env={"END": "sleep"})
    running.signal(signal.SIGTERM)
    assert running.wait() == 0
    assert "WARNING" not in running.err.wait_end()


def test_second_signal_ends_a_process_whose_application_keeps_the_gil(server):
    running = server("slow_to_end", env={"END": "handler"})
    running.signal(signal.SIGUSR1)
    running.out.wait("handled")
    with running.client() as client:
        client.request("GET /hog HTTP/1.1")
        eventually(lambda: running.cpu_seconds() > 0.5, what="the application computes")
        # From now on the main thread waits for the GIL to run the application's signal handler.
        running.signal(signal.SIGUSR1)
        running.signal(signal.SIGTERM)
        running.err.wait("stopping")
        began = time.monotonic()
        signal_again(running, signal.SIGTERM)
        running.err.wait("stopping at once")
        assert running.wait() == 0
        assert time.monotonic() - began < BUSY


def connected(address, process):
    """Connects as soon as the server accepts. The socket's file exists before the socket listens."""
    assert process.poll() is None
    with contextlib.suppress(FileNotFoundError, ConnectionRefusedError):
        return Client(address)


@pytest.mark.parametrize("closed", ["2>&-", ">&-", "<&- >&- 2>&-"])
def test_closed_standard_descriptors_are_no_reason_not_to_serve(closed, tmp_path):
    # No log line can name the address, so the test chooses it.
    path = tmp_path / "socket"
    command = f'exec "$0" --access-logfile - --bind unix:{path} slow_to_end {closed}'
    process = subprocess.Popen(["sh", "-c", command, MAYPOLE], cwd=APPS, env=clean_environment())
    try:
        with eventually(lambda: connected(f"unix:{path}", process), START_PATIENCE, "it listens") as client:
            assert client.get("/print").body == b"ok"
            names = [os.readlink(f"/proc/{process.pid}/fd/{number}") for number in range(3)]
            assert not any(name.startswith("socket:") for name in names)
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0
    finally:
        process.kill()
        process.wait(20)
