"""The counters of `/metrics`: how connections end, how many bytes go over them, and that no counter ever falls."""

import os
import re
import signal
import threading

from client import Closed
from process import eventually
from status import Status

COUNTER = re.compile(r"^(\w+_(?:total|count|sum|bucket)(?:\{[^}]*\})?) (\S+)$", re.M)
ENDED = 'maypole_connections_ended_total{{end="{}"}}'


def counters(status):
    return {name: float(value) for name, value in COUNTER.findall(status.text("/metrics")[1])}


def test_connections_are_counted_by_their_end(server):
    running = server("probe", "--status-bind", "0", "--max-connections", "3", "--keep-alive", "1s")
    status = Status(running)

    def await_end(end, number=1):
        eventually(lambda: status.metric(ENDED.format(end)) == number, what=f"{number} of {end}")

    assert running.get().status == 200
    await_end("client")
    with running.client() as client:
        client.get("/", "Connection: close")
        client.assert_closed()
        await_end("response")
    with running.client() as client:
        assert client.send(b"GET /\r\n\r\n").response().status == 400
        await_end("refused")
    with running.client() as client:
        client.get()
        client.assert_closed()
        await_end("keep_alive")
    opened = [running.client() for _ in range(4)]
    await_end("evicted")
    for client in opened:
        client.close()
    eventually(lambda: status.metric('maypole_connections{worker="1"}') == 0, what="the end of all connections")
    counted = counters(status)
    ended = sum(value for name, value in counted.items() if name.startswith("maypole_connections_ended_total"))
    assert ended == counted["maypole_connections_accepted_total"] == 8


def test_bytes_are_counted(server):
    running = server("probe", "--status-bind", "0")
    status = Status(running)
    with running.client() as client:
        body = b"x" * 300_000
        assert client.post("/echo", body).body == body
        eventually(lambda: status.metric("maypole_sent_bytes_total") > len(body), what="the count of the sent bytes")
        for name in ("maypole_received_bytes_total", "maypole_sent_bytes_total"):
            assert 0 < status.metric(name) - len(body) < 1000


def test_no_counter_falls_while_workers_die(server):
    running = server("probe", "-w", "2", "--status-bind", "0")
    status, ends, fallen, reads = Status(running), threading.Event(), [], []

    def watch():
        before = {}
        while not ends.is_set():
            now = counters(status)
            fallen.extend((name, value, now.get(name)) for name, value in before.items() if now.get(name, 0) < value)
            before = now
            reads.append(len(now))

    def load():
        while not ends.is_set():
            try:
                running.get()
            except (OSError, Closed):
                # The worker of the connection was killed.
                continue

    threads = [threading.Thread(target=work) for work in (watch, load, load)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(2):
            pid, start = status.json()["processes"][0]["pid"], len(running.err.text())
            os.kill(pid, signal.SIGKILL)
            running.err.wait(rf"pid {pid}\) has ended unexpectedly: signal SIGKILL", start=start)
            eventually(lambda: sum(one["state"] == "serving" for one in status.json()["processes"]) == 2, what="two workers")
        start = len(running.err.text())
        running.signal(signal.SIGHUP)
        running.err.wait("reloaded: 2 workers", start=start)
        read = len(reads)
        eventually(lambda: len(reads) > read, what="a reading after the reload")
    finally:
        ends.set()
        for thread in threads:
            thread.join()
    assert not fallen
    ended = {cause: status.metric(f'maypole_workers_ended_total{{cause="{cause}"}}') for cause in ("signal", "stuck")}
    assert ended == {"signal": 2, "stuck": 0}
    eventually(lambda: status.metric('maypole_workers_ended_total{cause="reload"}') == 2, what="the end of the old workers")
    assert status.metric("maypole_requests_begun_total") > 0
    assert status.metric('process_resident_memory_bytes{worker="1"}') > 1e6
    assert status.metric('process_open_fds{worker="2"}') > 3


def test_counts_of_a_worker_that_leaves_are_kept(server):
    running = server("probe", "-w", "1", "--status-bind", "0")
    status = Status(running)
    for _ in range(5):
        assert running.get().status == 200
    start = len(running.err.text())
    running.signal(signal.SIGHUP)
    running.err.wait("reloaded: 1 worker", start=start)
    eventually(lambda: status.metric('maypole_workers_ended_total{cause="reload"}') == 1, what="the end of the old worker")
    assert status.metric("maypole_requests_begun_total") == 5
