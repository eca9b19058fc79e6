"""The requests that are being served, and the stacks of all threads, on `--status-bind`: also while Python is stuck."""

import os
import re
import signal
import time

import pytest

from process import eventually, halt
from status import Status

KINDS = pytest.mark.parametrize("kind", [(), ("-w", "1"), ("-w", "1", "--preload")], ids=["alone", "worker", "preload"])


@pytest.fixture
def reported(server, tmp_path):
    """Starts the application whose calls wait. Gives the server, its status, and a FIFO that ends the call of `/keep`."""
    keeper = tmp_path / "keeper"
    os.mkfifo(keeper)

    def start(*options):
        running = server("reported", "--status-bind", "0", *options, env={"KEEPER": str(keeper)})
        return running, Status(running), keeper

    return start


def shown(status, line, query=""):
    """Returns the row of a request."""
    rows = status.json(f"/requests.json{query}")["requests"]
    return next((row for row in rows if row["request"].startswith(line)), None)


@KINDS
def test_request_is_shown_with_its_frame(reported, kind):
    running, status, _ = reported("--threads", "1", *kind)
    with running.client() as first, running.client() as second:
        first.request("GET /first HTTP/1.1")
        # A process that does not answer in time, or that gets no GIL in time, is shown with less.
        row = eventually(lambda: (row := shown(status, "GET /first", "?stacks")) and row["python"] == "read" and row["frame"]
                         and row["frame"]["function"] == "wait_in_first" and row, what="the frame")
        assert row["phase"] == "application" and row["age_seconds"] >= 0
        assert row["client"] == f"127.0.0.1:{first.socket.getsockname()[1]}"
        assert row["frame"]["file"].endswith("reported.py") and row["frame"]["line"] > 0
        assert row["thread"].startswith("maypole-exec-") and os.path.exists(f"/proc/{row['pid']}/task/{row['thread_id']}")
        assert [frame["function"] for frame in row["stack"]][-2:] == ["wait_in_first", "application"]
        assert row["worker"] == 1 and (row["pid"] == running.process.pid) == (not kind)
        assert "stack" not in shown(status, "GET /first")
        second.request("GET /second HTTP/1.1")
        queued = eventually(lambda: (row := shown(status, "GET /second")) and row["phase"] == "queue" and row, what="the second request")
        assert (queued["thread"], queued["frame"]) == (None, None)
        assert [row["request"] for row in status.json("/requests.json")["requests"]] == [
            "GET /first HTTP/1.1", "GET /second HTTP/1.1"]
        stack = r'"GET /first HTTP/1\.1"  thread maypole-exec-\d+\n(    .*\n)+    File ".*reported\.py", .* in wait_in_first'
        text = eventually(lambda: (text := status.text("/stacks")[1]) and re.search(stack, text) and text, what="the stack")
        # A worker that a template has forked does not have the threads that the import has started.
        assert ("ticker, daemon" in text) == ("--preload" not in kind)
        running.kill()


@KINDS
def test_request_that_keeps_the_gil_is_shown_at_once(reported, kind):
    running, status, keeper = reported(*kind)
    with running.client() as client:
        client.request("GET /keep HTTP/1.1")
        running.err.wait("keeps the GIL\n")
        row = eventually(lambda: (row := shown(status, "GET /keep", "?stacks")) and row["python"] == "busy" and row["frame"] and row,
                         what="the frame")
        assert row["frame"]["function"] == "keep_the_gil" and row["frame"]["file"].endswith("reported.py")
        assert row["thread"].startswith("maypole-exec-")
        stack = r'"GET /keep HTTP/1\.1"  thread maypole-exec-\d+\n(    .*\n)*    File ".*reported\.py", line \d+, in keep_the_gil'
        text = eventually(lambda: (text := status.text("/stacks")[1]) and re.search(stack, text) and text, what="the stack")
        assert "some thread keeps the GIL" in text
        assert ("in tick" in text) == ("--preload" not in kind), "the application's own thread"
        eventually(lambda: any(one["stuck_seconds"] for one in status.json()["processes"]), what="a stuck process")
        for path in ("/requests.json", "/stacks"):
            # On a busy machine every answer takes its time.
            eventually(lambda path=path: timed(status, path) < timed(status, "/livez") + 0.15, what="that a stuck process is not waited for")
        keeper.write_bytes(b"x")
        assert client.response().body == b"/keep"
    eventually(lambda: status.json("/requests.json")["processes"][0]["python"] == "read", what="Python's answer")


def timed(status, path):
    start = time.monotonic()
    assert status.text(path)[0] == 200
    return time.monotonic() - start


def test_worker_that_is_stopped_is_shown_from_the_scoreboard(reported):
    running, status, _ = reported("-w", "2", "--worker-timeout", "0")
    with running.client() as client:
        client.request("GET /first HTTP/1.1")
        row = eventually(lambda: shown(status, "GET /first"), what="the request")
        halt(row["pid"])
        try:
            silent = shown(status, "GET /first")
            assert (silent["python"], silent["pid"], silent["frame"]) == ("silent", row["pid"], None)

            def of_processes():
                return {one["pid"]: one["python"] for one in status.json("/requests.json")["processes"]}

            # On a busy machine the other one may be late, too.
            processes = eventually(lambda: (found := of_processes()) and set(found.values()) & {"read", "busy"} and found,
                                   what="the other worker's answer")
            assert len(processes) == 2 and processes.pop(row["pid"]) == "silent"
            text = status.text("/stacks")[1]
            assert f"pid {row['pid']}, has not responded" in text and '"GET /first HTTP/1.1"' in text
        finally:
            os.kill(row["pid"], signal.SIGCONT)
        running.kill()


def test_stacks_of_an_import_that_hangs_are_shown(server, tmp_path):
    (tmp_path / "hangs.py").write_text("import threading\n\n\ndef wait():\n    threading.Event().wait()\n\n\nwait()\n")
    running = server("hangs", "--status-bind", "0", cwd=tmp_path, ready=False)
    status = Status(running)
    text = eventually(lambda: (text := status.text("/stacks")[1]) and "in wait" in text and text, what="the stack")
    assert "the application is being imported" in text and "hangs.py" in text
    assert status.json("/requests.json")["requests"] == []
    running.kill()
