"""`maypole.serve(app, workers=2)`: the program becomes the supervisor of workers that it has forked."""

import collections
import json
import os
import re
import signal
import subprocess
import sys

import pytest

from process import APPS, MAYPOLE, PROGRAMS, READY, clean_environment, eventually
from running import program as start_program
from running import scenarios
from test_workers import SERVES, serving, workers

pytestmark = pytest.mark.smoke

PROGRAM = str(PROGRAMS / "hosting.py")


@pytest.fixture
def program():
    with scenarios(PROGRAM) as start:
        yield start


def facts(client, path="/"):
    return json.loads(client.get(path).body)


def lines(running):
    return running.out.wait_end().splitlines()


def test_workers_have_the_object_and_share_the_connections(program):
    running = program("serves")
    clients = [running.client() for _ in range(8)]
    seen = [facts(client) for client in clients]
    assert max(collections.Counter(found["pid"] for found in seen).values()) <= 5
    assert {found["pid"] for found in seen} == set(serving(running).values())
    assert {(found["number"], found["key"], found["workers"]) for found in seen} == {(1, 1, 2), (2, 2, 2)}
    for found in seen:
        assert (found["parent"], found["program"], found["given"]) == (running.pid, running.pid, [1, 2])
        assert found["multiprocess"] and found["threads"] == ["MainThread"]
    for client in clients:
        client.close()
    running.stop()


def test_stop_is_graceful_and_the_program_goes_on(program):
    running = program("serves")
    with running.client() as client, running.client() as other:
        pid = facts(other, "/register")["pid"]
        client.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\nExpect: 100-continue\r\n\r\n")
        assert client.head().status == 100
        client.send(b"1")
        running.signal(signal.SIGTERM)
        running.err.wait("SIGTERM: stopping 2 workers")
        client.send(b"2")
        assert client.response().status == 200
    assert running.wait() == 0
    # The exit functions of a worker run in the worker, and those of the program in the program.
    last = [json.dumps({"status": 0, "same": True}), "the program has left"]
    assert lines(running) == [f"left by {pid}", *last], running.err.text()


def test_ctrl_c_stops_the_service_once(program):
    running = program("serves")
    os.killpg(running.pid, signal.SIGINT)
    assert running.wait() == 0
    assert "KeyboardInterrupt" not in running.err.text() and '"status": 0' in running.out.text()


def test_worker_that_dies_is_replaced(program):
    running = program("serves")
    with running.client() as client:
        pid, start = facts(client)["pid"], len(running.err.text())
        client.send(b"GET /kill HTTP/1.1\r\nHost: a\r\n\r\n")
        running.err.wait(rf"\(pid {pid}\) has ended unexpectedly: signal SIGKILL; .*1 request was inside", start=start)
    running.err.wait(SERVES, start=start)
    eventually(lambda: len(set(workers(running)) - {pid}) == 3, what="the template and two workers")


def test_settings_of_workers_take_effect(program):
    running = program("serves", json.dumps({"max_requests": 3}))
    with running.client() as client:
        for _ in range(3):
            pid = facts(client)["pid"]
        running.err.wait(rf"\(pid {pid}\).*--max-requests")
        running.err.wait(rf"\(pid {pid}\) has ended")
        assert facts(client)["pid"] != pid


def test_reload_forks_new_workers_and_says_that_the_code_stays(program):
    running = program("serves")
    before = set(serving(running).values())
    with running.client() as idle:
        facts(idle)
        done = subprocess.run([MAYPOLE, "reload", str(running.pid)], capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr
        assert "the code of the program is unchanged until the program is restarted" in done.stdout
        # The idle client has moved to a new worker.
        assert facts(idle)["pid"] not in before
    running.err.wait("maypole reload: reloading the settings; workers are forked anew")


def test_application_by_name_is_imported_by_each_worker_and_anew_at_a_reload(program, tmp_path):
    code = 'import os\nIN = os.getpid()\n\ndef application(environ, start_response):\n    start_response("200 OK", [])\n    return [f"%s {IN == os.getpid()}".encode()]\n'
    (tmp_path / "shop.py").write_text(code % "first")
    running = program("named", str(tmp_path))
    assert running.get().body == b"first True"
    (tmp_path / "shop.py").write_text(code % "second")
    running.signal(signal.SIGHUP)
    running.err.wait("reloaded: 2 workers")
    assert running.get().body == b"second True"


def test_child_of_the_program_keeps_its_status_and_a_thread_goes_on(program):
    running = program("goes_on", stdin=subprocess.PIPE)
    running.err.wait(r"the program runs 1 thread, which the workers do not have \('waits'\): start threads in the hook")
    running.process.stdin.write(b"\n")
    running.process.stdin.close()
    running.out.wait(re.escape(json.dumps({"child": 7, "thread": "waits"})))
    assert running.get().status == 200


def test_signal_that_the_program_handles_stays_its_own(program):
    running = program("handles")
    running.signal(signal.SIGUSR1)
    running.out.wait(f"handled in {running.pid}")
    assert running.get().status == 200


def test_program_serves_again_after_it_has_served(program):
    running = program("twice")
    running.signal(signal.SIGTERM)
    running.out.wait(r'"status": 0')
    running.addresses = running.err.wait(READY, start=running.err.text().index("stopped"))[1].split(", ")
    assert running.get().status == 200
    running.signal(signal.SIGINT)
    assert running.wait() == 0 and lines(running) == ['{"status": 0}'] * 2


def test_workers_end_if_the_program_is_killed(program):
    running = program("serves")
    pids = workers(running)
    running.signal(signal.SIGKILL)
    running.wait()
    eventually(lambda: not any(os.path.exists(f"/proc/{pid}") for pid in pids), what="the end of the workers")


def test_call_that_cannot_be_served_says_why():
    done = subprocess.run(
        [sys.executable, PROGRAM, "refused"], env=clean_environment(), capture_output=True, text=True, timeout=60
    )
    told = json.loads(done.stdout.splitlines()[-1])
    assert told["children"].split() == [], "a call that is refused leaves no process"
    sentences = [
        "ValueError: reload=True cannot renew the code that the program has imported",
        "ValueError: preload=False needs the application's name",
        "ValueError: invalid value '0' for workers",
        "RuntimeError: serve() works on the main thread only",
        "RuntimeError: serve() cannot fork workers, because a server has started in this process",
    ]
    assert len(told["found"]) == len(sentences)
    for found, sentence in zip(told["found"], sentences):
        assert found.startswith(sentence), found


def test_module_of_the_package_starts_workers(server):
    command = ["-m", "maypole", "--workers", "2", "--bind", "127.0.0.1:0", "probe"]
    running = start_program(server, *command, cwd=APPS, ready=r"listening on http://127.0.0.1:(\d+).*2 workers")
    assert running.get().status == 200
    running.stop()
