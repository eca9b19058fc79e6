"""Workers under a supervisor: their life and their death."""

import os
import pathlib
import re
import signal
import socket

import pytest

from ports import free_port
from process import APPS, eventually

#: The line of a worker that comes up later than the first ones.
SERVES = r"worker (\d+) \(pid (\d+)\) serves"
#: The line that names the first workers, in the order of their numbers.
FIRST = r"listening on .*, \d+ workers? \(pid ([\d, ]+)\)"


def workers(running):
    """Returns the processes of the workers."""
    text = pathlib.Path(f"/proc/{running.pid}/task/{running.pid}/children").read_text()
    return [int(pid) for pid in text.split()]


def serving(running, start=0):
    """Returns the process of each worker that the log says serves: {number: pid}, the latest of each number."""
    text = running.err.text()[start:]
    first = re.search(FIRST, text)
    found = dict(enumerate(map(int, first[1].split(", ")), 1)) if first else {}
    return found | {int(number): int(pid) for number, pid in re.findall(SERVES, text)}


@pytest.mark.smoke
def test_workers_serve_on_one_address_and_stop_with_the_supervisor(server):
    running = server("probe", "-w", "2")
    assert sorted(serving(running).values()) == sorted(workers(running))
    assert set(serving(running)) == {1, 2}
    assert running.get().status == 200
    pids = workers(running)
    running.stop()
    assert not any(pathlib.Path(f"/proc/{pid}").exists() for pid in pids)
    assert re.search(r"\[INFO\] stopped .* after SIGTERM: every request has ended\n\Z", running.err.text())


@pytest.mark.smoke
def test_killed_worker_is_replaced_and_the_log_names_the_signal(server):
    running = server("probe", "-w", "2")
    start, pid = len(running.err.text()), serving(running)[2]
    os.kill(pid, signal.SIGKILL)
    running.err.wait(rf"worker 2 \(pid {pid}\) has ended unexpectedly: signal SIGKILL", start=start)
    match = running.err.wait(SERVES, start=start)
    assert match[1] == "2" and int(match[2]) != pid
    assert running.get().status == 200


def test_signals_change_the_number_of_workers(server):
    running = server("probe", "-w", "1")
    running.signal(signal.SIGTTIN)
    second = int(running.err.wait(r"worker 2 \(pid (\d+)\) serves")[1])
    running.signal(signal.SIGTTOU)
    running.err.wait(rf"worker 2 \(pid {second}\) has ended")
    assert workers(running) == [serving(running)[1]]
    start = len(running.err.text())
    running.signal(signal.SIGTTOU)
    running.err.wait("SIGTTOU: the last worker stays", start=start)
    assert running.get().status == 200


@pytest.mark.parametrize(("app", "code"), [("nosuch", 4), ("broken_apps.syntax", 4)])
def test_service_whose_first_workers_cannot_start_ends_with_their_exit_code(server, app, code):
    running = server(app, "-w", "2", ready=False)
    assert running.wait() == code
    assert "cannot start: " in running.err.text()


def test_workers_end_if_the_supervisor_is_killed(server):
    running = server("probe", "-w", "2")
    pids = workers(running)
    running.signal(signal.SIGKILL)
    running.wait()
    eventually(lambda: not any(pathlib.Path(f"/proc/{pid}").exists() for pid in pids), what="the end of the workers")


@pytest.mark.smoke
def test_reload_replaces_the_workers_one_after_another(server):
    running = server("probe", "-w", "2", "--log-level", "debug")
    old, start = serving(running), len(running.err.text())
    running.signal(signal.SIGHUP)
    running.err.wait("reloaded: 2 workers", start=start)
    new = serving(running, start)
    assert set(new) == {1, 2} and not set(new.values()) & set(old.values())
    for pid in old.values():
        running.err.wait(rf"\(pid {pid}\) has ended", start=start)
    assert running.get().status == 200


@pytest.mark.parametrize(("path", "manner"), [("SIGSEGV", "signal SIGSEGV"), ("7", "exit status 7")])
def test_report_of_a_crash_has_the_requests_that_were_inside(server, path, manner):
    running = server("crashing:application", "-w", "2")
    start = len(running.err.text())
    with running.client() as client:
        client.send(f"GET /{path} HTTP/1.1\r\nHost: a\r\n\r\n".encode())
        found = running.err.wait(
            rf"worker (\d) \(pid \d+\) has ended unexpectedly: {manner}.*; 1 request was inside:\n  GET /{path} ", start=start
        )
    running.err.wait(rf"worker {found[1]} \(pid \d+\) serves", start=start)
    assert running.get().body == b"alive"


def test_worker_that_keeps_the_gil_writes_its_stacks_and_is_replaced(server):
    running = server("keeps_gil", "-w", "1", "--worker-timeout", "4s")
    start, pid = len(running.err.text()), serving(running)[1]
    with running.client() as first, running.client() as second:
        first.send(b"GET /keep HTTP/1.1\r\nHost: a\r\n\r\n")
        second.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        running.err.wait(rf"worker 1 \(pid {pid}\) does not respond: .*\(--worker-timeout\)", start=start)
        running.err.wait("keeps_gil.py", start=start)
        running.err.wait(rf"worker 1 \(pid {pid}\) has ended.*inside:\n  GET /", start=start)
    running.err.wait(SERVES, start=start)
    assert running.get().body == b"free"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("preload", [(), ("--preload",)])
def test_stop_of_the_process_group_ends_workers_that_import(server, tmp_path, number, preload):
    (tmp_path / "slow.py").write_text("import time\nprint('imports', flush=True)\ntime.sleep(1000)\n")
    running = server("slow:application", "-w", "2", *preload, cwd=tmp_path, ready=False)
    running.out.wait("imports" if preload else r"imports(?s:.*)imports")
    os.killpg(running.pid, number)
    assert running.wait() == 0
    text = running.err.text()
    assert "Traceback" not in text and "ERROR" not in text and ") has ended" not in text, text


def test_worker_whose_import_gets_the_signal_of_a_crash_ends_by_it(server, tmp_path):
    (tmp_path / "dies.py").write_text("import os, signal\nos.kill(os.getpid(), signal.SIGSEGV)\n")
    running = server("dies:application", "-w", "1", cwd=tmp_path, ready=False)
    assert running.wait() == 4
    assert "has ended before it served: signal SIGSEGV" in running.err.text()


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        ("import os; os._exit(3)", "has ended before it served: exit status 3"),
        ("import os; os._exit(0)", "has ended before it served: exit status 0"),
        ("import sys; sys.exit()", "SystemExit"),
        ("import sys; sys.exit(5)", "SystemExit: 5"),
        ("raise SystemExit('no database')", "SystemExit: no database"),
    ],
)
@pytest.mark.parametrize("preload", [(), ("--preload",)])
def test_import_that_exits_is_named(server, tmp_path, code, reason, preload):
    (tmp_path / "exits.py").write_text(code + "\n")
    running = server("exits:application", "-w", "1", *preload, cwd=tmp_path, ready=False)
    assert running.wait() == 4
    assert reason in running.err.text()


def test_worker_whose_application_has_a_child_that_lives_on_is_replaced_at_once(server, tmp_path):
    (tmp_path / "parent.py").write_text(
        "import os, signal\n"
        "from probe import application\n"
        "child = os.fork()\n"
        "if child == 0:\n"
        "    signal.pause()\n"
    )
    port = free_port()
    running = server(
        "parent:application", "-w", "1", "--pythonpath", APPS, "--bind", f"127.0.0.1:{port}", bind=False, cwd=tmp_path)
    start, pid = len(running.err.text()), serving(running)[1]
    os.kill(pid, signal.SIGKILL)
    running.err.wait(SERVES, start=start)
    assert running.get().status == 200
    running.stop()
    # The children have no copy of the listening socket.
    socket.create_server(("127.0.0.1", port)).close()
    os.killpg(running.pid, signal.SIGKILL)

