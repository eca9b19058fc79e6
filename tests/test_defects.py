"""What an operator sees of an application with a defect: log, probes, page, metrics, and what the supervisor does."""

import contextlib
import ctypes
import errno
import os
import re
import time

import pytest

from process import eventually
from status import Status

ALARM = ("--alarm-after", "1s")


@pytest.fixture
def ill(server, tmp_path):
    """Starts the application with defects. Gives the server, its status, and the FIFO that ends the call of `/keep`."""
    keeper = tmp_path / "keeper"
    os.mkfifo(keeper)

    def start(*options, **env):
        running = server("ill", "--status-bind", "0", *options, env={"KEEPER": str(keeper), **env})
        return running, Status(running), keeper

    return start


def answers(status):
    """The page, the metrics and the probe of liveness answer, and each of them soon, although the machine may be busy."""

    def soon(path):
        begin = time.monotonic()
        assert status.text(path)[0] == 200
        return time.monotonic() - begin < 2

    for path in ("/", "/metrics", "/livez"):
        eventually(lambda path=path: soon(path), what=f"a quick answer of {path}")


def inside(status, line):
    rows = status.json("/requests.json")["requests"]
    return next((row for row in rows if row["request"].startswith(line) and row["frame"]), None)


def test_deadlock_is_named_in_the_log(ill):
    running, status, _ = ill("--threads", "2", *ALARM)
    with running.client() as one, running.client() as other, running.client() as third:
        one.request("GET /pay HTTP/1.1")
        eventually(lambda: inside(status, "GET /pay"), what="the first request")
        other.request("GET /refund HTTP/1.1")
        eventually(lambda: inside(status, "GET /refund"), what="the second request")
        third.request("GET / HTTP/1.1")
        running.err.wait(r"all threads \(2, --threads\) have been busy for .*; 1 thread in \S+ill\.py:\d+ \w+; 1 thread in \S+ill\.py")
        running.err.wait(r"no request has ended for .* while 1 request waited .*\(--alarm-after 1s\)(?s:.)*in pay\n(?s:.)*in refund\n")
        answers(status)
        # After five seconds it is saturated, which is no reason to send no requests: see `?strict`.
        assert status.text("/readyz")[0] == 200 and status.json()["saturation"] > 0
        assert status.metric('maypole_calls_queued{worker="1"}') == 1
        assert len(re.findall("no request has ended for", running.err.text())) == 1
        running.kill()


def test_call_that_keeps_the_gil_is_named_in_the_log(ill):
    running, status, keeper = ill(*ALARM)
    assert running.get().status == 200
    with running.client() as client, running.client() as other, running.client() as third:
        client.request("GET /keep HTTP/1.1")
        eventually(lambda: inside(status, "GET /keep"), what="the request")
        other.request("GET / HTTP/1.1")
        third.request("GET / HTTP/1.1")
        raised = running.err.wait(r"a thread has waited for the GIL \(Python's lock\) for .* \(--alarm-after 1s\); "
                                  r"thread maypole-exec-\d+ at \S+ill\.py:\d+ keep_the_gil for \"GET /keep HTTP/1\.1\" keeps it")
        running.err.wait("in keep_the_gil\n", start=raised.end())
        answers(status)
        assert status.text("/readyz")[0] == 503 and status.text("/readyz")[1].startswith("stuck")
        assert status.metric('maypole_stuck{worker="1"}') > 0
        # More threads would only wait for the lock, too: one has it, and one waits for it.
        assert running.application_threads() <= 3
        keeper.write_bytes(b"x")
        assert {asked.response().status for asked in (client, other, third)} == {200}
        running.err.wait("the thread that waited for the GIL has got it after", start=raised.end())
        assert len(re.findall("a thread has waited for the GIL", running.err.text())) == 1


def test_worker_that_keeps_the_gil_is_replaced(ill):
    running, status, _ = ill("-w", "1", "--worker-timeout", "2s", *ALARM)
    pid = status.json()["processes"][0]["pid"]
    with running.client() as client:
        client.request("GET /keep HTTP/1.1")
        running.err.wait("a thread has waited for the GIL")
        running.err.wait("a thread has kept the GIL for")
        answers(status)
        eventually(lambda: [one["pid"] for one in status.json()["processes"] if one["state"] == "serving"] not in ([], [pid]),
                   what="another worker")
        assert running.get().body == b"well"


def test_process_that_grows_says_what_has_grown(ill):
    running, status, _ = ill(*ALARM, PYTHONTRACEMALLOC="1")
    # The first look has found how large the process was.
    eventually(lambda: running.get().status == 200 and status.json()["uptime_seconds"] > 1, what="the first look")
    assert running.get("/leak").status == 200
    running.err.wait(r"the process has grown to \d{3} MiB, from \d+ MiB .*: \d+ connections? \(\d+ then\), .* blocks of Python's "
                     r"objects \(\d+ then\); most was allocated at \S+ill\.py:\d+ \(\d+ MiB\).*; the next such line comes at 512 MiB")
    answers(status)
    assert status.text("/readyz")[0] == 200


@pytest.mark.parametrize("value, path, code", [
    ("0", "/leak", "with PYTHONTRACEMALLOC=1 in the environment, this line names the code that has allocated most"),
    ("1", "/leak-untraced", "PYTHONTRACEMALLOC is set, but tracemalloc does not run"),
    ("1", "/leak-and-keep", "Python has not said how many objects it has; Python did not answer within 3 s: some thread keeps the GIL"),
])
def test_process_that_grows_says_why_it_does_not_name_the_code(ill, value, path, code):
    running, status, keeper = ill(*ALARM, PYTHONTRACEMALLOC=value)
    eventually(lambda: running.get().status == 200 and status.json()["uptime_seconds"] > 1, what="the first look")
    with running.client() as client:
        client.request(f"GET {path} HTTP/1.1")
        line = running.err.wait("the process has grown to .*").group()
        if "keep" in path:
            keeper.write_bytes(b"x")
        assert client.response().status == 200
    assert code in line and "most was allocated at" not in line
    # Nothing advises what is done already.
    assert ("PYTHONTRACEMALLOC=1 in" in line) == (value == "0")


@pytest.mark.parametrize("path, end", [("/crash", "SIGSEGV"), ("/exit", "status 7")])
def test_worker_that_ends_is_replaced_and_its_request_is_named(ill, path, end):
    running, status, _ = ill("-w", "1", *ALARM)
    with running.client() as client:
        client.request(f"GET {path} HTTP/1.1")
        running.err.wait(rf"{end}(?s:.)*GET {path} HTTP/1\.1")
        client.assert_closed()
    answers(status)
    assert running.get().body == b"well"
    assert status.text("/readyz") == (200, "ready: 1 of 1 process can take requests\n")


@contextlib.contextmanager
def stopped(threads):
    """Stops threads of a server, and no others, as a debugger does (`ptrace(2)`)."""
    seize, interrupt, detach, any_child = 0x4206, 0x4207, 17, 0x40000000
    ptrace = ctypes.CDLL(None, use_errno=True).ptrace
    ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]
    seized = []
    try:
        for thread in threads:
            if ptrace(seize, thread, None, None):
                if ctypes.get_errno() == errno.ESRCH:
                    continue
                pytest.skip(f"no thread can be stopped here: {os.strerror(ctypes.get_errno())}")
            seized.append(thread)
            ptrace(interrupt, thread, None, None)
            os.waitpid(thread, any_child)
        yield
    finally:
        for thread in seized:
            ptrace(detach, thread, None, None)


def test_coroutines_that_stand_still_raise_one_alarm(server):
    running = server("probe", *ALARM)
    assert running.get().status == 200
    # The threads of the coroutines have the name of the process, as its main thread has.
    names = running.threads()
    with stopped([thread for thread, name in names.items() if name == names[running.pid] and thread != running.pid]):
        running.err.wait(r"the server's coroutines have stood still for [\d.]+ s \(--alarm-after 1s\): 0 requests are being")
    running.err.wait(r"the server's coroutines run again: they stood still for [\d.]+ s\n")
    assert running.get().status == 200


def test_call_that_never_returns_is_shown_and_raises_no_alarm(ill):
    running, status, _ = ill(*ALARM, "--slow-request", "100ms")
    with running.client() as client:
        client.request("GET /forever HTTP/1.1")
        running.err.wait(r"GET /forever HTTP/1\.1 of \S+ has run for .* and goes on .* in \S+ill\.py:\d+ wait_for_ever")
        # A process that does not respond in time is shown without frames.
        row = eventually(lambda: inside(status, "GET /forever"), what="the frame")
        assert row["frame"]["function"] == "wait_for_ever" and row["age_seconds"] >= 1
        answers(status)
        assert status.text("/readyz")[0] == 200 and "--alarm-after" not in running.err.text()
        running.kill()
