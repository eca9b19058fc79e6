"""Signals to a service with workers: to the supervisor, to its workers, and from a terminal."""

import contextlib
import fcntl
import os
import pathlib
import pty
import re
import signal
import struct
import termios

import pytest

from process import APPS, MAYPOLE, Server, eventually, halt
from test_workers import SERVES, serving, workers

#: What an operator who means the supervisor may send to each process of the service.
STRAY = ["SIGHUP", "SIGINT", "SIGTTIN", "SIGTTOU", "SIGUSR2", "SIGWINCH"]


def state(pid):
    """Returns the letter of a process's state: T if it is halted."""
    return pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


def mark(running):
    return len(running.err.text())


def test_workers_stop_at_sigwinch_and_start_again(server):
    running = server("probe", "-w", "2")
    start = mark(running)
    running.signal(signal.SIGWINCH)
    running.err.wait("SIGWINCH: from 2 workers to 0", start=start)
    eventually(lambda: workers(running) == [], what="the end of the workers")
    running.signal(signal.SIGTTOU)
    running.err.wait("SIGTTOU: there is no worker", start=start)
    with running.client() as waiting:
        waiting.send("GET / HTTP/1.1\r\nHost: h\r\n\r\n")
        start = mark(running)
        running.signal(signal.SIGTTIN)
        running.err.wait(SERVES, start=start)
        assert waiting.response().status == 200
    # A reload returns to the number in the settings.
    running.signal(signal.SIGHUP)
    running.err.wait("reloaded: 2 workers", start=start)
    assert set(serving(running, start)) == {1, 2}


def test_stray_signals_to_a_worker_change_nothing(server):
    running = server("probe", "-w", "1")
    [pid] = workers(running)
    # All at the same moment.
    halt(pid)
    for name in [*STRAY, "SIGQUIT", "SIGCHLD"]:
        os.kill(pid, getattr(signal, name))
    os.kill(pid, signal.SIGCONT)
    running.err.wait("SIGQUIT: 0 requests are being served")
    assert running.get().status == 200
    assert workers(running) == [pid] and state(pid) != "T"
    os.kill(pid, signal.SIGUSR1)
    running.err.wait(rf"\[{pid}\] \[INFO\] SIGUSR1: the log files are open again")


def test_stray_signals_to_template_and_hooks_change_nothing(server, tmp_path):
    hooks = tmp_path / "hooks.py"
    hooks.write_text("import os\ndef when_ready(server): server.log.info('hooks in %d', os.getpid())\n")
    running = server("probe", "-w", "1", "--preload", "--hooks", hooks)
    pids = [int(running.err.wait(pattern)[1]) for pattern in (r"the template \(pid (\d+)\)", r"hooks in (\d+)")]
    for pid in pids:
        for name in ["SIGSTOP", *STRAY, "SIGUSR1", "SIGCONT"]:
            os.kill(pid, getattr(signal, name))
    running.signal(signal.SIGTTIN)
    running.err.wait(r"worker 2 \(pid \d+\) serves")
    assert "unexpectedly" not in running.err.text()
    assert [state(pid) for pid in pids] == ["S", "S"]


def test_handler_of_the_application_gets_a_signal_that_a_worker_would_drop(server, tmp_path):
    (tmp_path / "handles.py").write_text("""
import signal, sys
from wsgiref.simple_server import demo_app as application
signal.signal(signal.SIGUSR2, lambda *_: print("the handler ran", file=sys.stderr, flush=True))
""")
    running = server("handles", "-w", "1", cwd=tmp_path)
    os.kill(workers(running)[0], signal.SIGUSR2)
    running.err.wait("the handler ran")


def test_sigterm_to_a_worker_stops_it_and_the_next_one_starts(server):
    running = server("probe", "-w", "2")
    start, pid = mark(running), serving(running)[1]
    os.kill(pid, signal.SIGTERM)
    running.err.wait(rf"worker 1 \(pid {pid}\) has ended unexpectedly: exit status 0", start=start)
    assert running.err.wait(SERVES, start=start)[1] == "1"


@pytest.mark.parametrize("options", [("-w", "2"), ("-w", "2", "--preload"), ()], ids=" ".join)
def test_signals_that_arrive_at_the_same_moment_are_all_handled(server, options):
    running = server("probe", *options)
    halt(running.pid)
    for name in ["SIGTTIN", "SIGTTOU", "SIGHUP", "SIGUSR1", "SIGQUIT", "SIGCHLD"][0 if options else 2:]:
        running.signal(getattr(signal, name))
    running.signal(signal.SIGCONT)
    for line in ["SIGUSR1: the log files are open again", "SIGQUIT: 0 requests are being served"]:
        running.err.wait(line)
    running.err.wait("reloaded: 2 workers" if options else "starting again in the same process")
    assert running.get().status == 200


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("SIGHUP", "SIGHUP: nothing is reloaded, because the service stops"),
        ("SIGUSR2", "SIGUSR2: no new supervisor takes over: the service stops"),
        ("SIGQUIT", r"SIGQUIT: [12] requests? (is|are) being served"),
        ("SIGUSR1", "SIGUSR1: the log files are open again"),
        ("SIGTTIN", None),
        ("SIGWINCH", None),
    ],
)
def test_signal_while_the_service_stops_does_not_disturb_that(server, name, said):
    running = server("probe", "-w", "1", "--log-level", "debug")
    with running.client() as busy:
        busy.request("GET /hold/a HTTP/1.1")
        assert running.get("/held/a").body == b"yes"
        running.signal(signal.SIGTERM)
        running.err.wait(r"SIGTERM: stopping; [12] requests? may run")
        running.signal(getattr(signal, name))
        if said:
            running.err.wait(said)
        # A second signal of another kind counts at once.
        running.signal(signal.SIGINT)
        running.err.wait("SIGINT: stopping at once, because a second signal came; 1 worker left")
        assert running.wait() == 0


@pytest.fixture
def on_terminal():
    """Starts a server on a terminal of its own. The result has `terminal`, the other end."""
    started = []

    def start(*args):
        ours, theirs = pty.openpty()

        def take_terminal():
            fcntl.ioctl(theirs, termios.TIOCSCTTY, 0)

        command = [MAYPOLE, "--bind", "127.0.0.1:0", "--access-logfile", "none", *args, "probe"]
        running = Server("", [], None, APPS, command=command, stdin=theirs, preexec_fn=take_terminal)
        running.terminal = ours
        os.close(theirs)
        started.append(running)
        return running.wait_ready()

    yield start
    for running in started:
        with contextlib.suppress(OSError):
            os.close(running.terminal)
        running.kill()


def test_window_of_the_terminal_that_changes_stops_no_worker(on_terminal):
    running = on_terminal("-w", "2", "--log-level", "debug")
    pids = workers(running)
    fcntl.ioctl(running.terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 50, 132, 0, 0))
    running.err.wait("SIGWINCH: nothing changes")
    assert running.get().status == 200 and workers(running) == pids


@pytest.mark.parametrize("args", [(), ("-w", "1")], ids=["alone", "workers"])
def test_terminal_that_goes_stops_the_service_gracefully(on_terminal, args):
    running = on_terminal(*args, "--log-level", "debug")
    with running.client() as busy:
        busy.request("GET /hold/a HTTP/1.1")
        assert running.get("/held/a").body == b"yes"
        os.close(running.terminal)
        running.err.wait(r"SIGHUP: stopping; [12] requests? may run")
        # The shell of the terminal sends the signal too.
        running.signal(signal.SIGHUP)
        running.signal(signal.SIGQUIT)
        running.err.wait(r"SIGQUIT: [12] requests? (is|are) being served")
        assert "at once" not in running.err.text()
        running.signal(signal.SIGINT)
        assert running.wait() == 0


def test_interrupt_at_the_terminal_stops_the_service_once(on_terminal):
    running = on_terminal("-w", "2")
    os.write(running.terminal, b"\x03")
    assert running.wait() == 0
    assert len(re.findall(r"SIGINT: stopping 2 workers", running.err.text())) == 1
    assert "at once" not in running.err.text()
