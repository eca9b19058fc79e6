"""The server as process 1 of a container: signals, orphans, exit status."""

import contextlib
import os
import pathlib
import re
import signal
import subprocess
import sys

import pytest

from process import MAYPOLE, READY, eventually, open_files

UNSHARE = ["unshare", "--pid", "--fork", "--kill-child", "--mount-proc"]


def refusal():
    """Returns why no process 1 can be started here, or None."""
    for more in ([], ["--user", "--map-root-user"]):
        with contextlib.suppress(OSError, subprocess.SubprocessError):
            subprocess.run([*UNSHARE, *more, "true"], check=True, capture_output=True, timeout=60)
            UNSHARE[1:1] = more
            return None
    return "no PID namespace may be made here: unshare(1) is refused or missing"


REASON = refusal()
pytestmark = pytest.mark.skipif(REASON is not None, reason=str(REASON))

COMMANDS = {"binary": [MAYPOLE], "package": [sys.executable, "-m", "maypole"]}


@pytest.fixture(params=COMMANDS)
def container(request, server):
    """Starts an application whose process is process 1 of a PID namespace."""

    def start(app="forking", *args, **more):
        bind = [] if "--bind" in args else ["--bind", "127.0.0.1:0"]
        command = [*UNSHARE, *COMMANDS[request.param], *bind, "--access-logfile", "none", *args, app]
        started = server(app, command=command, **more)
        started.first = eventually(lambda: only_child(started.pid), what="process 1")
        running.append(started)
        return started

    running = []
    yield start
    for started in running:
        # unshare(1) waits for process 1, and ignores SIGTERM meanwhile.
        with contextlib.suppress(ProcessLookupError):
            os.kill(started.first, signal.SIGTERM)
        started.wait()


def children(pid):
    with contextlib.suppress(OSError):
        return [int(child) for child in pathlib.Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    return []


def only_child(pid):
    found = children(pid)
    return found[0] if found and command_of(found[0]) != command_of(pid) else None


def command_of(pid):
    with contextlib.suppress(OSError):
        return pathlib.Path(f"/proc/{pid}/cmdline").read_bytes()


def state(pid):
    with contextlib.suppress(OSError):
        return pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_process_1_passes_the_signal_to_stop_on_and_ends_with_status_0(container, number):
    running = container()
    assert running.get().status == 200
    os.kill(running.first, number)
    assert running.wait() == 0
    assert running.err.wait_end().count("stopped") == 1


def test_process_1_reaps_orphans_and_leaves_children_to_the_application(container):
    running = container()
    for _ in range(3):
        # A shell that starts a process in the background and ends leaves an orphan.
        assert running.get("/orphan").body == b'{"code": 5}'

    def reaped():
        return [pid for pid in children(running.first) if state(pid) == "Z"] == [] and len(children(running.first)) == 1

    eventually(reaped, what="no process but the server is left")


def test_process_1_ends_as_the_server_does(container):
    running = container()
    [child] = children(running.first)
    os.kill(child, signal.SIGKILL)
    assert running.wait() == 128 + signal.SIGKILL


def test_process_1_ends_with_the_status_of_a_server_that_does_not_start(container):
    running = container("no_such_module_at_all", ready=False)
    assert running.wait() == 4


def test_process_1_keeps_no_socket(container):
    running = container()
    files = open_files(running.first)
    assert files and not [file for file in files.values() if file.startswith("socket:")]


def test_init_off_serves_as_process_1(container):
    running = container("forking", "--init", "off")
    assert children(running.first) == []
    assert running.get().status == 200
    assert re.search(r"pid 1, listening", running.err.text())
    os.kill(running.first, signal.SIGTERM)
    assert running.wait() == 0


def test_hangup_behind_the_init_starts_the_server_again_in_its_process(container):
    running = container()
    [child] = children(running.first)
    with running.client() as client:
        client.get()
        os.kill(running.first, signal.SIGHUP)
        again = running.err.wait("starting again in the same process; 1 idle connection").end()
        running.err.wait(READY, start=again)
        assert client.get().status == 200
    assert children(running.first) == [child]


WORKERS = pytest.mark.parametrize("options", [("-w", "2"), ("-w", "2", "--preload"), ("-w", "2", "--init", "off")], ids=" ".join)


@WORKERS
def test_supervisor_as_process_1_reaps_orphans_and_replaces_workers(container, options):
    running = container("forking", *options)
    with_template = 2 + ("--preload" in options)
    for _ in range(3):
        assert running.get("/orphan").body == b'{"code": 5}'
    eventually(lambda: [state(pid) for pid in children(running.first)].count("Z") == 0, what="no zombie is left")
    eventually(lambda: len(children(running.first)) == with_template, what="only processes of the service are left")
    start = len(running.err.text())
    os.kill(children(running.first)[-1], signal.SIGKILL)
    running.err.wait(r"worker \d \(pid \d+\) has ended unexpectedly: signal SIGKILL", start=start)
    running.err.wait(r"worker \d \(pid \d+\) serves", start=start)
    assert running.get().status == 200


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_supervisor_as_process_1_obeys_signals(container, number):
    running = container("forking", "-w", "2")
    for sent, said in [
        (signal.SIGHUP, "reloaded: 2 workers"),
        (signal.SIGUSR1, r"\[1\] \[INFO\] SIGUSR1: the log files are open again"),
        (signal.SIGQUIT, "SIGQUIT: 0 requests are being served"),
        (signal.SIGUSR2, "SIGUSR2: no new supervisor takes over: process 1 of a container cannot end"),
        (signal.SIGTTOU, "SIGTTOU: from 2 workers to 1"),
    ]:
        os.kill(running.first, sent)
        running.err.wait(said)
        assert running.get().status == 200
    os.kill(running.first, number)
    assert running.wait() == 0
    assert re.search(r"\[1\] \[INFO\] stopped .*: every request has ended\n\Z", running.err.wait_end())


@pytest.mark.parametrize(("app", "status"), [("no_such_module_at_all", 4), ("broken_apps.syntax", 4)])
def test_supervisor_as_process_1_ends_with_the_status_of_its_workers(container, app, status):
    running = container(app, "-w", "2", ready=False)
    assert running.wait() == status


@pytest.mark.parametrize("init", ["auto", "off"])
def test_signal_during_the_import_ends_process_1(container, init):
    running = container("stuck", "--init", init, ready=False)
    running.err.wait("importing")
    os.kill(running.first, signal.SIGTERM)
    assert running.wait() == 128 + signal.SIGTERM
