"""The hooks of a file (`--hooks`): which process calls them, when, and with what."""

import os
import re
import signal

import pytest

from linked import ready, worker  # noqa: F401 (a fixture)
from test_workers import serving

ALL = """
import os

def line(name, place):
    place.log.info("hook %s in %d, server %s", name, os.getpid(), getattr(place, "num_workers", "-"))

def on_starting(server): line("on_starting", server)
def on_reload(server): line("on_reload", server)
def when_ready(server): line("when_ready", server); server.log.info("at %s", server.address)
def on_exit(server): line("on_exit", server)
def nworkers_changed(server, new, old): server.log.info("hook nworkers_changed from %d to %d", old, new)
def child_exit(server, worker): server.log.info("hook child_exit of %d, age %d", worker.pid, worker.age)
def post_fork(server, worker):
    assert worker.pid == os.getpid() and server.pid != os.getpid()
    worker.began = "yes"
    line("post_fork", server)
def post_worker_init(worker):
    worker.log.info("hook post_worker_init of worker %d: %s", worker.age, worker.wsgi.__name__)
def worker_exit(server, worker):
    server.log.info("hook worker_exit, began: %s, requests: %d", worker.began, worker.nr)
"""


@pytest.fixture
def file(tmp_path):
    def write(text):
        path = tmp_path / "hooks.py"
        path.write_text(text)
        return path

    return write


def hooks_of(process):
    """Returns the names of the hooks that have written a line, in their order."""
    return re.findall(r"\] hook (\w+)", process.err.text())


def test_worker_calls_its_hooks_in_their_order(worker, file):
    started = ready(worker("--hooks", file(ALL), "probe"))
    started.process.err.wait("hook post_worker_init of worker 2: application")
    started.send("stop", cause="SIGTERM")
    assert started.end() == 0
    assert hooks_of(started.process) == ["post_fork", "post_worker_init", "worker_exit"]
    assert "hook worker_exit, began: yes, requests: 0" in started.process.err.text()


def test_worker_that_is_cut_off_calls_worker_exit(worker, file, tmp_path):
    (tmp_path / "sleeper.py").write_text("""
import time

def application(environ, start_response):
    environ["wsgi.errors"].write("begun\\n")
    time.sleep(600)
""")
    options = ["--hooks", file(ALL), "--graceful-timeout", "0", "--pythonpath", tmp_path]
    started = ready(worker(*options, "sleeper"))
    with started.client() as client:
        client.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        started.process.err.wait("begun")
        started.send("stop", cause="SIGTERM")
        assert started.end() == 0
    assert hooks_of(started.process) == ["post_fork", "post_worker_init", "worker_exit"]


@pytest.mark.parametrize("hook", ["post_fork(server, worker)", "post_worker_init(worker)"])
def test_worker_whose_hook_fails_does_not_start(worker, file, hook):
    started = worker("--hooks", file(f"def {hook}: raise OSError('no database')"), "probe")
    event = started.receive()
    assert (event["event"], event["exit"]) == ("failed", 3), event
    assert hook.partition("(")[0] in event["reason"] and "OSError: no database" in event["reason"], event
    assert started.end() == 3
    assert "line 1, in post_" in started.process.err.text()


def test_worker_whose_last_hook_fails_ends_as_always(worker, file):
    started = ready(worker("--hooks", file("def worker_exit(server, worker): 1 / 0"), "probe"))
    started.send("stop", cause="SIGTERM")
    assert started.end() == 0
    assert "the hook worker_exit failed:\nTraceback" in started.process.err.text()


def test_process_of_the_hooks_calls_those_of_the_service(worker, file):
    started = ready(worker("--hooks", file(ALL), "probe", runs_hooks=True, supervisor=4711))
    started.process.err.wait("hook on_starting")
    place = {"addresses": ["http://127.0.0.1:80"], "workers": 4}
    for name in ["when_ready", "child_exit", "nworkers_changed"]:
        started.send("hook", name=name, **place, pid=17, number=3, workers_before=3)
    started.process.err.wait("hook nworkers_changed from 3 to 4")
    # Signals to the whole group are the supervisor's.
    started.process.signal(signal.SIGTERM)
    started.process.signal(signal.SIGINT)
    started.send("stop", cause="SIGTERM")
    assert started.end() == 0
    assert hooks_of(started.process) == ["on_starting", "when_ready", "child_exit", "nworkers_changed", "on_exit"]
    text = started.process.err.text()
    assert "at ['http://127.0.0.1:80']" in text and "hook child_exit of 17, age 3" in text, text


def test_process_of_the_hooks_survives_a_hook_that_fails(worker, file):
    started = ready(worker("--hooks", file("def when_ready(server): server.nonsense"), "probe", runs_hooks=True))
    started.send("hook", name="when_ready")
    started.process.err.wait("the server of a hook has no attribute 'nonsense'; it has: address, cfg, log, ")
    started.send("stop", cause="SIGTERM")
    assert started.end() == 0


def test_process_of_the_hooks_writes_its_stacks_while_a_hook_runs(worker, file):
    text = "import signal\ndef when_ready(server): server.log.info('it waits'); signal.pause()"
    started = ready(worker("--hooks", file(text), "probe", runs_hooks=True))
    started.send("hook", name="when_ready")
    started.process.err.wait("it waits")
    started.send("report", cause="SIGQUIT")
    started.process.err.wait(r"SIGQUIT: the stacks of the process of the hooks follow(?s:.*) in when_ready")
    started.link.close()
    assert started.end() == 0


def test_process_of_the_hooks_ends_with_its_supervisor_although_a_hook_runs(worker, file):
    text = "import time\ndef when_ready(server): server.log.info('sleeps'); time.sleep(600)\n"
    started = ready(worker("--hooks", file(text), "probe", runs_hooks=True))
    started.send("hook", name="when_ready")
    started.process.err.wait("sleeps")
    started.link.close()
    assert started.end() == 0


def test_on_reload_loads_the_file_again_and_keeps_the_server(worker, file):
    path = file("def when_ready(server): server.mark = 'old'\ndef on_reload(server): server.log.info('reloads')\n")
    started = ready(worker("--hooks", path, "probe", runs_hooks=True))
    started.send("hook", name="when_ready")
    path.write_text("def when_ready(server): server.log.info('new code, mark %s', server.mark)\n")
    for name in ["on_reload", "when_ready"]:
        started.send("hook", name=name)
    started.process.err.wait(r"reloads\n(?s:.*)new code, mark old")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("def on_starting(server): raise SystemExit('no licence')", "SystemExit: no licence"),
        ("def when_redy(server): pass", "there is no hook when_redy; did you mean when_ready?"),
        ("def post_fork(worker): pass", "post_fork is called with (server, worker), which its parameters do not fit"),
        ("import no_such_module", "No module named 'no_such_module'"),
        ("def (", "SyntaxError: "),
    ],
)
def test_file_that_cannot_be_used_prevents_the_start(worker, file, text, reason):
    started = worker("--hooks", file(text), "probe", runs_hooks=True)
    event = started.receive()
    assert (event["event"], event["exit"]) == ("failed", 3), event
    assert reason in event["reason"], event
    assert started.end() == 3


def test_hooks_that_are_never_called_are_named_with_what_to_use(worker, file):
    text = """
def pre_request(worker, req): worker.log.debug(req.path)
def worker_abort(worker): pass
def ssl_context(config, factory):
    "Does nothing."
"""
    started = ready(worker("--hooks", file(text), "probe", runs_hooks=True))
    started.send("stop", cause="SIGTERM")
    assert started.end() == 0
    text = started.process.err.text()
    assert "hooks.py: pre_request is never called; write a WSGI middleware" in text, text
    assert "worker_abort" not in text and "ssl_context" not in text, text


def test_hooks_have_the_objects_that_gunicorn_s_files_use(worker, file):
    text = """
import logging

def post_fork(server, worker):
    assert server.cfg.workers == 3 and server.cfg.pool_size == 1000 and server.cfg.factory is False
    server.log.info("Worker spawned (pid: %s)", worker.pid)
    worker.log.warning("%(a)s and %(b)s", {"a": 1, "b": 2})
    worker.log.log(logging.ERROR, "by %s", "number")
    worker.log.debug("too quiet")
    try:
        server.cfg.worker_class
    except AttributeError:
        worker.log.exception("no such setting")
"""
    started = ready(worker("--hooks", file(text), "probe"))
    started.send("stop", cause="SIGTERM")
    assert started.end() == 0
    text = started.process.err.text()
    assert re.search(r"\[INFO\] Worker spawned \(pid: \d+\)\n", text), text
    assert "[WARNING] 1 and 2\n" in text and "[ERROR] by number\n" in text and "too quiet" not in text, text
    assert re.search(r"\[ERROR\] no such setting\nTraceback (?s:.*)Maypole has no setting 'worker_class'", text), text


SERVICE = ALL.replace("def child_exit", """
def pre_fork(server, worker): server.log.info("hook pre_fork of %d", worker.age)
def child_exit""")


@pytest.mark.smoke
def test_service_calls_each_hook_once_in_its_process(server, file):
    running = server("probe", "-w", "2", "--hooks", file(SERVICE))
    running.err.wait("hook when_ready")
    (owner,) = set(re.findall(r"hook (?:on_starting|when_ready) in (\d+), server 2", running.err.text()))
    pids = serving(running)
    assert int(owner) not in pids.values() and int(owner) != running.pid
    running.signal(signal.SIGTTIN)
    running.err.wait("hook nworkers_changed from 2 to 3")
    running.err.wait("worker 3 .* serves")
    start = len(running.err.text())
    os.kill(pids[2], signal.SIGKILL)
    running.err.wait(f"hook child_exit of {pids[2]}, age 2", start=start)
    running.err.wait("worker 2 .* serves", start=start)
    running.stop()
    names = hooks_of(running)
    assert names[0] == "on_starting" and names[-1] == "on_exit", names
    counts = {"when_ready": 1, "pre_fork": 4, "post_fork": 4, "post_worker_init": 4, "worker_exit": 3, "child_exit": 4}
    assert {name: names.count(name) for name in counts} == counts


def test_start_waits_for_on_starting_and_fails_with_it(server, file):
    text = "def on_starting(server): raise OSError('no licence')"
    running = server("probe", "-w", "2", "--hooks", file(text), ready=False)
    assert running.wait() == 3
    text = running.err.text()
    assert "the hook on_starting failed:\nTraceback" in text and "cannot start: the hook on_starting failed" in text
    assert "serves" not in text


def test_on_starting_that_does_not_return_ends_the_start(server, file):
    options = ["--hooks", file("import time\ndef on_starting(server): time.sleep(600)"), "--worker-start-timeout", "1s"]
    running = server("probe", *options, ready=False)
    assert running.wait() == 3
    assert "on_starting has not returned within 1 s (--worker-start-timeout)" in running.err.text()


def test_service_goes_on_without_the_process_of_its_hooks_until_a_reload(server, file):
    running = server("probe", "-w", "1", "--hooks", file(SERVICE))
    owner = int(running.err.wait(r"hook when_ready in (\d+)")[1])
    os.kill(owner, signal.SIGKILL)
    running.err.wait("the process of the hooks in .* has ended unexpectedly: signal SIGKILL; a reload starts it again")
    assert running.get().status == 200
    start = len(running.err.text())
    running.signal(signal.SIGHUP)
    running.err.wait("hook on_starting in ", start=start)
    running.err.wait("reloaded: 1 worker", start=start)
    running.stop()
    assert hooks_of(running)[-1] == "on_exit"


def test_reload_calls_on_reload(server, file):
    running = server("probe", "-w", "1", "--hooks", file(SERVICE))
    owner = running.err.wait(r"hook when_ready in (\d+)")[1]
    running.signal(signal.SIGHUP)
    running.err.wait(f"hook on_reload in {owner}, server 1")
    running.err.wait("reloaded: 1 worker")
    assert running.get().status == 200
