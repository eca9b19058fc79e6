"""The reports of SIGQUIT and `Server.dump`: each request with its thread's stack, oldest first, and other threads."""

import os
import re
import signal

import pytest

from process import eventually


@pytest.mark.smoke
def test_each_request_has_its_stack_below_it_the_longest_first(server):
    running = server("reported", "--threads", "3")
    with running.client() as one, running.client() as two, running.client() as three, running.client() as four:
        for client, path in ((one, "/first"), (two, "/second"), (three, "/third")):
            client.request(f"GET {path} HTTP/1.1")
            running.err.wait(f"called {path}\n")
        four.request("GET /fourth HTTP/1.1")
        # A call announces its start before it reaches the place where it waits. A request is in the report even
        # before it waits for a thread.
        places = ["in wait_in_first", "in wait_in_second", "in wait_in_third", "/fourth", "1 call waiting for one"]
        text = eventually(
            lambda: (lines := running.report()) and all(place in str(lines) for place in places) and lines, what="a report of all four"
        )
        one_port = one.socket.getsockname()[1]
        three.reset()
        left = eventually(lambda: (lines := running.report()) and "left" in str(lines) and lines, what="a report of who left")
        running.signal(signal.SIGUSR1)
        assert four.response().body == b"/fourth"
    head = text[0]
    assert "4 requests are being served; 4 of 1000 places in the pool are taken (--pool-size)" in head, head
    assert "3 of at most 3 threads run calls (--threads), 1 call waiting for one" in head
    rows = [(number, line) for number, line in enumerate(text) if re.match(r"  \d+\.\d{3} s  ", line)]
    assert [re.search(r'"GET (\S+)', line)[1] for _, line in rows] == ["/first", "/second", "/third", "/fourth"]
    assert re.fullmatch(
        rf'  \d+\.\d{{3}} s  127\.0\.0\.1:{one_port}  in the application  "GET /first HTTP/1\.1"  thread maypole-exec-\d+', rows[0][1]
    )
    for number, path in enumerate(("first", "second", "third")):
        stack = text[rows[number][0] + 1:rows[number + 1][0]]
        assert re.fullmatch(r'    File ".*reported\.py", line \d+, in application', stack[0]), stack
        assert any(line.endswith(f", in wait_in_{path}") for line in stack), stack
    assert rows[3][1].endswith('  waits for a thread  "GET /fourth HTTP/1.1"')
    rest = text[rows[3][0] + 1:]
    assert rest[0] == "other Python threads:" and "  ticker, daemon" in rest
    assert "    its own work" not in rest and not re.search(r"0x[0-9a-f]{8}", "\n".join(text))
    third, = (line for line in left if "/third" in line)
    assert "in the application, its client has left" in third and "thread maypole-exec-" in third


@pytest.fixture
def keeper(tmp_path):
    """Makes a FIFO. A byte in it ends the call that keeps the GIL."""
    path = tmp_path / "keeper"
    os.mkfifo(path)
    return path


def test_report_comes_although_a_thread_keeps_the_gil(server, keeper):
    running = server("reported", env={"KEEPER": str(keeper)})
    with running.client() as client:
        client.request("GET /keep HTTP/1.1")
        running.err.wait("keeps the GIL\n")
        running.signal(signal.SIGQUIT)
        running.err.wait(r'\[WARNING\] SIGQUIT: 1 request is being served;.*\n  \d+\.\d{3} s  127\.0\.0\.1:\d+  in the application  "GET /keep HTTP')
        running.err.wait(r"Python did not answer within 3 s: some thread keeps the GIL; its fault handler writes the stacks")
        running.err.wait(r'File ".*reported\.py", line \d+ in keep_the_gil')
        # Python has not replied to the first signal yet.
        start = len(running.err.text())
        running.signal(signal.SIGQUIT)
        running.err.wait(r"Python did not answer within 3 s: some thread keeps the GIL; its fault handler", start=start)
        keeper.write_bytes(b"x")
        assert client.response().body == b"/keep"
    # Python still owes a reply, and gives it before the next one.
    start = len(running.err.text())
    running.signal(signal.SIGQUIT)
    assert running.err.wait(r"\[(\w+)\] SIGQUIT: ", start=start)[1] == "INFO"
    # A client may have its response before the server has counted the end of the request.
    eventually(lambda: "SIGQUIT: 0 requests are being served" in running.report()[0], what="a report of no request")


def test_request_becomes_late_although_a_thread_keeps_the_gil(server, keeper):
    running = server("reported", "--queue-timeout", "1s", env={"KEEPER": str(keeper)})
    with running.client() as first, running.client() as late:
        first.request("GET /keep HTTP/1.1")
        running.err.wait("keeps the GIL\n")
        late.request("GET /late HTTP/1.1")
        assert late.response().status == 503
        keeper.write_bytes(b"x")
        assert first.response().body == b"/keep"
