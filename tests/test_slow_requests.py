"""Requests that take long: their line in the log (`--slow-request`), and `/requests.json?slowest`."""

import contextlib
import os
import re
import signal

import pytest

from process import eventually
from status import Status
from test_handover import pid_of

KINDS = pytest.mark.parametrize("kind", [(), ("-w", "1")], ids=["alone", "worker"])
SPLIT = r"receive [\d.]+ m?s, queue [\d.]+ m?s, application ([\d.]+) m?s, send [\d.]+ m?s"


@KINDS
def test_slow_request_is_explained(server, kind):
    running = server("reported", "--status-bind", "0", "--slow-request", "60ms",
                     "--request-id-header", "X-Request-ID", *kind)
    status = Status(running)
    with running.client() as client:
        client.request("GET /first HTTP/1.1", "X-Request-ID: first-1")
        goes_on = running.err.wait(r"GET /first HTTP/1\.1 \(request first-1\) of 127\.0\.0\.1:\d+ has run for \S+ m?s and goes on "
                                   r"\(--slow-request 60ms\): \d+ of \d+ samples? w\w+ in \S+reported\.py:\d+ wait_in_first")
        pid = eventually(lambda: status.json("/requests.json")["requests"], what="the request")[0]["pid"]
        # The process itself gets the signal, which ends the application's wait.
        os.kill(pid, signal.SIGUSR1)
        assert client.response().status == 200
    line = running.err.wait(r"GET /first HTTP/1\.1 \(request first-1\) of \S+, status 200, took \S+ m?s \(--slow-request 60ms\): " + SPLIT
                            + r"; (\d+) of (\d+) samples? w\w+ in \S+reported\.py:\d+ wait_in_first", start=goes_on.end())
    # The first request of a machine that is busy can be slow, too. A worker that does not answer in time shows none.
    [row] = eventually(lambda: [row for row in status.json("/requests.json?slowest")["slowest"] if "GET /first" in row["request"]],
                       what="the slow request")
    assert row["frame"]["function"] == "wait_in_first" and row["samples_in_frame"] == int(line[2]) and row["samples"] == int(line[3])
    assert row["status"] == 200 and row["worker"] == 1 and row["pid"] == pid and row["client"].startswith("127.0.0.1:")
    parts = sum(row[f"{phase}_seconds"] for phase in ("receive", "queue", "application", "send"))
    assert row["application_seconds"] > 0.6 and abs(row["duration_seconds"] - parts) < 0.5


def test_request_that_keeps_the_gil_is_explained(server, tmp_path):
    keeper = tmp_path / "keeper"
    os.mkfifo(keeper)
    running = server("reported", "--slow-request", "50ms", env={"KEEPER": str(keeper)})
    with running.client() as client:
        client.request("GET /keep HTTP/1.1")
        running.err.wait(r"GET /keep HTTP/1\.1 of \S+ has run for .* in \S+reported\.py:\d+ keep_the_gil")
        keeper.write_bytes(b"x")
        assert client.response().status == 200


def test_slowest_requests_are_kept_without_the_setting(server):
    running = server("probe", "--status-bind", "0")
    status = Status(running)
    assert running.get("/sleep?s=0.15").status == 200
    [row] = eventually(lambda: [row for row in status.json("/requests.json?slowest")["slowest"] if "sleep" in row["request"]],
                       what="the slow request")
    assert row["duration_seconds"] >= 0.15 and row["frame"] is None and row["samples"] == 0
    assert not re.search("--slow-request", running.err.text())


def test_slowest_requests_of_all_workers_are_shown_together(server):
    running = server("probe", "-w", "2", "--status-bind", "0")
    status, clients = Status(running), {}
    with contextlib.ExitStack() as stack:
        def each_worker_has_a_client():
            client = stack.enter_context(running.client())
            clients[pid_of(client)] = client
            return len(clients) == 2

        eventually(each_worker_has_a_client, what="a client of each worker")
        for client, time in zip(clients.values(), ("0.2", "0.4"), strict=True):
            assert client.get(f"/sleep?s={time}").status == 200
        document = lambda: status.json("/requests.json?slowest")["slowest"]  # noqa: E731
        slept = lambda: [row for row in document() if "sleep" in row["request"]]  # noqa: E731
        rows = eventually(lambda: (rows := slept()) and len(rows) == 2 and rows, what="both requests")
        times = [row["duration_seconds"] for row in document()]
        assert times == sorted(times, reverse=True)
        assert {row["pid"] for row in rows} == set(clients) and {row["worker"] for row in rows} == {1, 2}
        # A worker that does not respond holds up nothing, and shows nothing.
        silent = next(iter(clients))
        os.kill(silent, signal.SIGSTOP)
        try:
            eventually(lambda: {row["pid"] for row in slept()} == set(clients) - {silent}, what="the other worker's alone")
        finally:
            os.kill(silent, signal.SIGCONT)
