"""A limit for each request: its client gets a response in time, and its thread's place is free."""

import contextlib
import os
import re
import time

import pytest

from client import Closed
from process import eventually
from status import Status

# A request that is quick has this time, too, on a busy machine.
LIMIT = ("--request-timeout", "2s")
KINDS = pytest.mark.parametrize("kind", [(), ("-w", "1")], ids=["alone", "worker"])


class Gate:
    def __init__(self, path):
        os.mkfifo(path)
        self.path, self.number = path, os.open(path, os.O_RDWR)

    def open(self, calls=1):
        os.write(self.number, b"." * calls)


@pytest.fixture
def overdue(server, tmp_path):
    """Starts the application whose calls wait. Gives the server and the gate that ends their waits."""
    gate = Gate(tmp_path / "gate")

    def start(*options, env=None):
        return server("overdue", *options, env={"GATE": str(gate.path), **(env or {})}), gate

    yield start
    os.close(gate.number)


@KINDS
def test_request_gets_504_while_its_call_goes_on_and_the_next_one_is_served(overdue, kind):
    running, gate = overdue("--threads", "1", *LIMIT, *kind)
    with running.client() as client:
        began = time.monotonic()
        client.request("GET /wait?one HTTP/1.1")
        response = client.response()
        assert (response.status, response.body) == (504, b"504 Gateway Timeout\n")
        assert time.monotonic() - began >= 2
        # The connection stays, and another thread serves it.
        client.request("GET /quick HTTP/1.1")
        response = client.response()
        assert response.status == 200 and 0 < float(response.body) <= 2
    record = running.err.wait(
        r'127\.0\.0\.1:\d+: 504 after 2s \(--request-timeout\): "GET /wait\?one HTTP/1\.1" waited [\d.]+ m?s for a thread, '
        r"and has been in the application for [\d.]+ m?s; (maypole-exec-\d+) is given up, and another thread takes its "
        r'place\n(?:    .*\n)*    File ".*overdue\.py", line \d+, in wait\n      os\.read\(FIFO, 1\)')
    gate.open()
    running.err.wait("ended /wait, client gone: True")
    running.stop()
    assert record[1] and "Traceback" not in running.err.text()


def test_threads_that_are_given_up_have_a_limit(overdue):
    running, gate = overdue("--threads", "1", *LIMIT, "--status-bind", "0")
    status = Status(running)
    with running.client() as first, running.client() as second:
        for client in (first, second):
            client.request("GET /wait HTTP/1.1")
            assert client.response().status == 504
        # A client has its response a moment before the row says so.
        eventually(lambda: [row["phase"] for row in status.json("/requests.json")["requests"]] == ["overdue", "overdue"], what="both rows")
        running.err.wait("keeps its place: at most 1 thread may be given up at once, a quarter of --threads")
        eventually(lambda: status.text("/livez") == (503, "stuck: 1 call past --request-timeout cannot be given up any more\n"),
                   what="that the probe fails")
        assert status.metric('maypole_threads_given_up{worker="1"}') == 1
        assert status.metric('maypole_requests_refused_total{reason="request_timeout"}') == 2
        # No thread is left. The request waits for one, not longer than its limit.
        first.request("GET /quick HTTP/1.1")
        response = first.response()
        assert response.status == 503 and response.get("Retry-After") == "1"
        running.err.wait(r"overload: 503 for 1 request that waited for 2s \(--request-timeout\): 1 for a thread")
        gate.open(2)
        eventually(lambda: status.text("/livez")[0] == 200, what="that the probe passes again")
        assert second.get("/quick").status == 200


def test_worker_is_replaced_if_its_threads_are_lost(overdue):
    running, gate = overdue("--threads", "1", "-w", "1", *LIMIT, "--graceful-timeout", "1s", "--status-bind", "0")
    with running.client() as first, running.client() as second:
        for client in (first, second):
            client.request("GET /wait HTTP/1.1")
            assert client.response().status == 504
        running.err.wait(r"too many of its threads have been given up, and 1 call past --request-timeout cannot be")
        eventually(lambda: served(running), what="that the replacement serves")
    count = 'maypole_workers_ended_total{cause="overdue"}'
    eventually(lambda: Status(running).metric(count) == 1, what="the end of the old worker")


def served(running):
    """A request may reach the old worker, which has no thread for it and is cut off."""
    with running.client() as client, contextlib.suppress(Closed, OSError):
        return client.get("/quick").status == 200
    return False


def test_request_gets_504_while_a_thread_keeps_the_gil(overdue):
    running, gate = overdue(*LIMIT)
    with running.client() as client:
        client.request("GET /keep HTTP/1.1")
        assert client.response().status == 504
        running.err.wait(r'504 after 2s .*\n    no thread has got the GIL within 200 ms\n(?:    .*\n)*    File ".*overdue\.py", '
                         r"line \d+, in keep_the_gil")
        gate.open()
        assert client.get("/quick").status == 200


def test_response_that_has_begun_is_cut(overdue):
    running, gate = overdue(*LIMIT)
    with running.client() as client:
        client.request("GET /begun HTTP/1.1")
        client.head()
        assert client.read_until(b"begun\r\n")
        with pytest.raises(Closed):
            client.read_exactly(1)
    running.err.wait(r"the response is cut off after 2s \(--request-timeout\)")
    gate.open()
    running.err.wait("closed")


def test_call_whose_client_has_left_loses_its_place_as_well(overdue):
    running, gate = overdue("--pool-size", "1", "--request-timeout", "3s")
    with running.client() as client:
        client.request("GET /wait HTTP/1.1")
        eventually(lambda: ", in wait" in "\n".join(running.report()), what="the call")
        client.reset()
    running.err.wait(r"the client has left, and its call goes on after 3s")
    assert served(running)
    gate.open()


def test_time_of_an_upload_does_not_count(overdue):
    running, _ = overdue(*LIMIT)
    with running.client() as client:
        client.send("POST /quick HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\na")
        assert client.quiet(2.4)
        client.send("b")
        assert client.response().status == 200


def test_interrupted_call_ends_and_its_thread_is_kept(overdue):
    running, _ = overdue("--threads", "1", "--request-interrupt", *LIMIT)
    with running.client() as client:
        for _ in range(3):
            client.request("GET /loop HTTP/1.1")
            assert client.response().status == 504
            record = running.err.wait(r"504 after 2s .*; its code is interrupted on (maypole-exec-\d+) \(--request-interrupt\)")
            assert client.get("/quick").status == 200
            assert record[1] == "maypole-exec-1"
    running.err.wait(r"GET /loop HTTP/1\.1: the interruption has ended the call")
    assert "given up" not in running.err.text()


def test_call_that_resists_its_interruption_loses_its_thread(overdue):
    running, gate = overdue("--threads", "1", "--request-interrupt", *LIMIT)
    with running.client() as client:
        client.request("GET /stubborn HTTP/1.1")
        assert client.response().status == 504
        running.err.wait("caught maypole RequestTimeout")
        running.err.wait(r"the call goes on after its interruption at 2s .*; maypole-exec-1 is given up")
        assert client.get("/quick").status == 200
    gate.open()
    running.err.wait("ended /stubborn")


def test_no_later_request_gets_an_interruption(overdue):
    """The exception is raised while the call waits in C for the last time, so that it never comes up in this call."""
    running, gate = overdue("--threads", "1", "--request-interrupt", *LIMIT)
    with running.client() as client, running.client() as other:
        client.request("GET /closed HTTP/1.1")
        running.err.wait(r"the response is cut off after 2s .*; its code is interrupted on maypole-exec-1")
        gate.open()
        assert other.get("/quick").status == 200
    assert "the interruption has ended the call" not in running.err.text()
