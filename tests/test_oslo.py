"""OpenStack's launchers, unmodified, with Maypole in the place of their WSGI server: SIGHUP and SIGTERM under load.

The table in docs/howto/launchers.md has the results of these runs. `MAYPOLE_BLESS=1` writes it.
"""

import contextlib
import json
import os
import pathlib
import re
import signal
import subprocess
import sys
import threading
import time

import pytest

from client import PATIENCE, Client, Closed
from process import APPS, EXAMPLES, PROGRAMS, ROOT, RUNNING, Server, all_descriptors, eventually

TABLE = ROOT / "docs" / "howto" / "launchers.md"
MARKS = "<!-- launchers -->\n", "<!-- /launchers -->\n"
BLESS = os.environ.get("MAYPOLE_BLESS") == "1"
LISTENING = r"listening on (127\.0\.0\.1:\d+)\n"
# SIGHUP goes to the whole process group, and ends the process with which multiprocessing keeps account of semaphores;
# the next one is astonished at objects that it has not seen made.
TRACKER = re.compile(r"(?s)Traceback[^T]*resource_tracker\.py.*?KeyError: [^\n]*\n")
SERVING = r"serving on http://127\.0\.0\.1:\d+"
IDLE = 1000
SLOW_SECONDS = 1.0
LAUNCHERS = [("ServiceLauncher", 1), ("ProcessLauncher", 1), ("ProcessLauncher", 2), ("spawn", 2), ("eventlet", 2),
             ("cotyledon", 1), ("cotyledon", 2)]

ROWS = {}


class Asking(threading.Thread):
    """A client that sends requests without a pause until the test stops it or the server refuses it.

    A request is lost if its response is incomplete or is not a 200. It is also lost if it is the first request on a
    connection made before `deadline` and gets no response. A connection made after the deadline and closed without a
    response counts as refused, because no process serves it.
    """

    def __init__(self, address, path):
        super().__init__(daemon=True)
        self.address, self.path = address, path
        self.answered, self.lost, self.refused = 0, [], []
        self.deadline = float("inf")
        self.done = False

    def run(self):
        while not self.done:
            made = time.monotonic()
            try:
                client = Client(self.address)
            except OSError as error:
                self.refused.append(repr(error))
                return
            with client:
                self.ask(client, made)

    def ask(self, client, made):
        first = True
        while not self.done:
            try:
                response = client.get(self.path)
            except (Closed, OSError) as error:
                if isinstance(error, Closed) and error.args[0]:
                    self.lost.append(f"half an answer: {error.args[0][:100]!r}")
                elif first:
                    (self.lost if made < self.deadline else self.refused).append(repr(error))
                # Otherwise the server closed an idle connection (RFC 9112 §9.5). The client tries again on a new one.
                return
            first = False
            self.answered += 1
            if response.status != 200:
                self.lost.append(repr(response))
            if (response.get("Connection") or "").lower() == "close":
                return


class Crowd:
    """`IDLE` keep-alive clients in a separate process. Each is idle after one request."""

    def __init__(self, port):
        command = [sys.executable, PROGRAMS / "crowd.py", "idle", str(port), str(IDLE)]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.attached = json.loads(self.process.stdout.readline())["attached"]

    def alive(self):
        self.process.stdin.write("stat\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())["alive"]

    def close(self):
        self.process.stdin.close()
        self.process.stdout.close()
        self.process.kill()
        self.process.wait()


class Service(Server):
    """A launcher and its workers, in a separate session."""

    def __init__(self, *command, cwd=APPS):
        super().__init__(None, [], None, cwd, command=[sys.executable, *map(str, command)], preexec_fn=all_descriptors)

    def wait_workers(self, count, start=0):
        """Waits until this many workers have logged that they serve, after the first `start` characters of the log."""
        self.err.wait(rf"(?s)(.*?{SERVING}){{{count}}}", start=start)

    def mark(self):
        return len(self.err.text())


@contextlib.contextmanager
def running(*command, **more):
    service = Service(*command, **more)
    try:
        yield service
    finally:
        service.kill()
        RUNNING.remove(service)


def session_members(session):
    """Returns the processes of a session that still exist."""
    found = []
    for entry in pathlib.Path("/proc").iterdir():
        with contextlib.suppress(OSError, ValueError):
            fields = (entry / "stat").read_text().rpartition(")")[2].split()
            if int(fields[3]) == session and fields[0] != "Z":
                found.append(int(entry.name))
    return found


def slow_ones(service, address, names):
    """Connects clients whose requests are inside the application."""
    clients = []
    start = service.mark()
    for name in names:
        clients.append(Client(address))
        clients[-1].request(f"GET /slow?s={SLOW_SECONDS}&name={name} HTTP/1.1")
    for name in names:
        service.err.wait(f"inside {name}\n", start=start)
    return clients


def answers(clients, names):
    for client, name in zip(clients, names, strict=True):
        with client:
            assert client.response().body == b"slow " + name.encode()


def under_load(service, address, number, told):
    """Sends the signal under load. `told` waits until it has had its effect. Returns the results."""
    crowd = Crowd(address.rpartition(":")[2])
    asking = [Asking(address, path) for path in ("/", "/whole?n=100000", "/sleep?s=0.02") * 2]
    try:
        assert crowd.attached == IDLE
        for thread in asking:
            thread.start()
        names = [f"{number.name}-{n}" for n in range(4)]
        slow = slow_ones(service, address, names)
        eventually(lambda: all(thread.answered > 5 for thread in asking), what="the load")
        began = time.monotonic()
        for thread in asking:
            thread.deadline = began if number == signal.SIGTERM else float("inf")
        service.signal(number)
        told()
        seconds = time.monotonic() - began
        answers(slow, names)
        if number == signal.SIGHUP:
            before = [thread.answered for thread in asking]
            after = [answered + 5 for answered in before]
            eventually(lambda: all(thread.answered > n for thread, n in zip(asking, after)), what="the load after it")
        for thread in asking:
            thread.done = True
            thread.join(PATIENCE)
        eventually(lambda: crowd.alive() == 0, what="the end of idle connections")
    finally:
        for thread in asking:
            thread.done = True
        crowd.close()
    return {
        "seconds": seconds,
        "answered": sum(thread.answered for thread in asking) + len(slow),
        "lost": [loss for thread in asking for loss in thread.lost],
        "refused": [refusal for thread in asking for refusal in thread.refused],
    }


@pytest.mark.parametrize("launcher, workers", LAUNCHERS)
def test_launcher_under_load_loses_nothing(launcher, workers):
    with running(PROGRAMS / "oslo_service_app.py", launcher, workers) as service:
        address = service.err.wait(LISTENING)[1]
        service.wait_workers(workers)

        start = service.mark()
        reload = under_load(service, address, signal.SIGHUP, lambda: service.wait_workers(workers, start))
        end = under_load(service, address, signal.SIGTERM, lambda: service.wait(PATIENCE))

        assert service.process.returncode == 0
        eventually(lambda: not session_members(service.pid), what="the end of all processes")
        assert "Traceback" not in TRACKER.sub("", service.err.wait_end())
    ROWS[launcher, workers] = reload, end
    assert reload["lost"] == [] and reload["refused"] == []
    assert end["lost"] == []
    assert end["seconds"] < SLOW_SECONDS + PATIENCE / 2


def test_launcher_without_fork_answers_what_runs_at_sigterm():
    with running(PROGRAMS / "oslo_service_app.py", "no_fork", 1) as service:
        address = service.err.wait(LISTENING)[1]
        service.wait_workers(1)
        end = under_load(service, address, signal.SIGTERM, lambda: service.wait(PATIENCE))
        assert service.process.returncode == 0
    ROWS["no_fork", 1] = None, end
    assert end["lost"] == []
    assert end["seconds"] < SLOW_SECONDS + PATIENCE / 2


def test_launcher_without_fork_ends_at_sighup():
    """oslo.service raises SystemExit from its signal handler. `wait` raises it, and the interpreter ends."""
    with running(PROGRAMS / "oslo_service_app.py", "no_fork", 1) as service:
        address = service.err.wait(LISTENING)[1]
        service.wait_workers(1)
        with Client(address) as client:
            client.assert_open()
            service.signal(signal.SIGHUP)
            assert service.wait(PATIENCE) == 1


KINDS = {"spawn": 'ProcessLauncher, `start_method="spawn"`', "no_fork": "ProcessLauncher, `no_fork=True`",
         "eventlet": "ProcessLauncher of the eventlet backend", "cotyledon": "cotyledon.ServiceManager"}


def row(launcher, workers, reload, end):
    cells = [KINDS.get(launcher, launcher), workers]
    cells += ["ends it"] + [""] * 3 if reload is None else [
        f"{reload['seconds']:.1f}", reload["answered"], len(reload["lost"]), len(reload["refused"])]
    cells += [f"{end['seconds']:.1f}", end["answered"], len(end["lost"])]
    return "| " + " | ".join(map(str, cells)) + " |"


@pytest.mark.skipif(not BLESS, reason="the table is written with MAYPOLE_BLESS=1 only")
def test_table_is_written():
    assert len(ROWS) == len(LAUNCHERS) + 1, "run the whole file"
    head = ["| launcher | workers | SIGHUP: seconds | answered | lost | refused | SIGTERM: seconds | answered | lost |",
            "|" + "---|" * 9]
    rows = [row(*key, *value) for key, value in ROWS.items()]
    before, found, rest = TABLE.read_text().partition(MARKS[0])
    _, closed, after = rest.partition(MARKS[1])
    assert found and closed
    TABLE.write_text(before + MARKS[0] + "\n".join([*head, *rows]) + "\n" + MARKS[1] + after)


@pytest.mark.parametrize("command", [
    ("openstack_service.py", "--port", "0", "--workers", "2"), ("cotyledon_service.py", "0", "2")])
def test_example_serves_and_ends(command):
    with running(*command, cwd=EXAMPLES) as service:
        service.wait_workers(2)
        address = re.search(r"serving on http://(127\.0\.0\.1:\d+)", service.err.text())[1]
        with Client(address) as client:
            assert client.get().body == b"Hello, World!\n"
            service.signal(signal.SIGTERM)
            client.assert_closed()
        assert service.wait() == 0
