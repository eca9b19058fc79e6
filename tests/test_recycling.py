"""Workers are replaced after a number of requests, a time, or with too much memory, and no request is lost."""

import contextlib
import re
import threading

import pytest

from process import eventually
from status import Status

SERVES = r"worker (\d+) \(pid (\d+)\) serves"
REPLACED = r"worker (\d+) \(pid (\d+)\) is replaced: (.*)\n"


class Load(threading.Thread):
    """A client that keeps its connection and sends one request after the other."""

    def __init__(self, running):
        super().__init__(daemon=True)
        self.running, self.ends, self.lost, self.answered = running, threading.Event(), [], 0

    def run(self):
        with self.running.client() as client:
            while not self.ends.is_set():
                try:
                    response = client.get("/")
                    assert response.status == 200 and response.get("Connection") != "close", response
                    self.answered += 1
                except Exception as error:
                    self.lost.append(repr(error))
                    return

    def end(self):
        self.ends.set()
        self.join()
        assert self.lost == []
        return self.answered


def test_worker_is_replaced_after_its_requests_and_its_client_stays_connected(server):
    running = server("probe", "-w", "2", "--max-requests", "50", "--max-requests-jitter", "50", "--status-bind", "0")
    load = Load(running)
    load.start()
    eventually(lambda: len(re.findall(REPLACED, running.err.text())) >= 4, what="four replacements")
    load.end()
    reasons = [int(re.search(r"it has served (\d+) requests", reason)[1]) for _, _, reason in replaced(running)]
    assert min(reasons) >= 50
    eventually(lambda: ended(Status(running), "requests") >= 3, what="the ends of the old workers")
    assert "unexpectedly" not in running.err.text()


def replaced(running):
    return re.findall(REPLACED, running.err.text())


def test_worker_is_replaced_after_its_lifetime(server):
    running = server("probe", "-w", "1", "--worker-lifetime", "1s", "--status-bind", "0")
    status, start = Status(running), len(running.err.text())
    assert "(--worker-lifetime)" in running.err.wait(REPLACED, start=start)[3]
    running.err.wait(SERVES, start=start)
    assert running.get().status == 200
    eventually(lambda: ended(status, "lifetime") >= 1, what="the end of the old worker")
    assert [ended(status, cause) for cause in ("requests", "memory", "overdue", "recycled")] == [0, 0, 0, 0]


def ended(status, cause):
    """Returns how many workers have ended for this cause."""
    return status.metric(f'maypole_workers_ended_total{{cause="{cause}"}}')


def test_worker_with_too_much_memory_is_replaced(server):
    running = server("places:keep_memory", "-w", "1", "--max-worker-memory", "200MiB", "--status-bind", "0")
    assert running.get("/?MiB=10").status == 200
    assert replaced(running) == []
    start = len(running.err.text())
    assert running.get("/?MiB=250").status == 200
    match = running.err.wait(REPLACED, start=start)
    assert re.fullmatch(r"it uses \d+ MiB of memory \(--max-worker-memory 200MiB\)", match[3]), match[3]
    new = int(running.err.wait(SERVES, start=start)[2])
    assert new != int(match[2])
    running.err.wait(rf"worker 1 \(pid {match[2]}\) has ended", start=start)
    assert ended(Status(running), "memory") == 1
    assert running.get("/?MiB=1").status == 200


@contextlib.contextmanager
def loads(running, number):
    """Lets clients send requests without a pause. None of them may lose one, or its connection."""
    clients = [Load(running) for _ in range(number)]
    for client in clients:
        client.start()
    yield
    for client in clients:
        client.ends.set()
    assert all(client.end() for client in clients)


@pytest.mark.parametrize(
    ("app", "options"),
    [
        ("probe", ["--max-requests", "50", "--max-requests-jitter", "25"]),
        ("probe", ["--worker-lifetime", "1s"]),
        ("places:leak", ["--max-worker-memory", "100MiB"]),
    ],
    ids=["requests", "lifetime", "memory"],
)
def test_many_clients_lose_nothing_while_workers_are_replaced_one_after_another(server, app, options):
    running = server(app, "-w", "3", *options)
    with loads(running, 64):
        eventually(lambda: len(replaced(running)) >= 6, timeout=60, what="six replacements")
    # A replacement serves before the next one starts, and before the worker in whose place it serves has ended.
    starting = None
    for number, pid, what in re.findall(r"worker (\d+) \(pid (\d+)\) (serves|is replaced|has ended)", running.err.text()):
        if what == "is replaced":
            assert starting is None, running.err.text()
            starting = number, pid
        elif what == "serves" and starting is not None and number == starting[0]:
            starting = None
        elif what == "has ended":
            assert (number, pid) != starting, running.err.text()
    assert "unexpectedly" not in running.err.text()
