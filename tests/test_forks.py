"""Processes that the application forks keep no descriptor or lock of the server, and the server none of theirs."""

import contextlib
import json
import os
import signal
import socket
import sys
import time

import pytest

from ports import free_port
from process import START_PATIENCE, eventually

# The start of a child process differs between versions of Python.
pytestmark = pytest.mark.smoke

#: Functions that call fork(2) and let the child continue.
WAYS = ["multiprocessing", "os", "pty", "c"]


@pytest.fixture(params=["binary", "package"])
def forking(request, server):
    """Starts the application `forking` with the stand-alone program, or with the package's command."""
    children = []

    def start(*args, **more):
        if request.param == "package":
            # CPython warns of each fork in a process with threads.
            command = [sys.executable, "-W", "ignore::DeprecationWarning", "-m", "maypole"]
            bind = [] if "--bind" in args else ["--bind", "127.0.0.1:0"]
            more["command"] = [*command, *bind, *args, "forking"]
        return server("forking", *args, **more)

    def asked(running, path, *fields):
        answer = json.loads(running.get(path, *fields).body)
        if "pid" in answer:
            children.append(answer["pid"])
        return answer

    start.asked = asked
    yield start
    for pid in children:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def lives(pid):
    with contextlib.suppress(OSError), open(f"/proc/{pid}/stat") as file:
        return file.read().rpartition(")")[2].split()[0] != "Z"
    return False


@pytest.mark.parametrize("how", WAYS)
def test_connections_end_although_a_child_lives(forking, how):
    running = forking("--keep-alive", "1s")
    with running.client() as idle, running.client() as client:
        idle.assert_open()
        seen = json.loads(client.get(f"/child?how={how}", "Connection: close").body)
        try:
            client.assert_closed()
            idle.assert_closed()
            assert seen["sockets"] == []
            assert lives(seen["pid"])
        finally:
            os.kill(seen["pid"], signal.SIGKILL)


# SIGHUP ends the child of `pty.fork` when its terminal is closed.
@pytest.mark.parametrize("how", [way for way in WAYS if way != "pty"])
def test_address_is_free_when_the_server_has_gone_although_a_child_lives(forking, how):
    bind = "--bind", f"127.0.0.1:{free_port()}"
    running = forking(*bind, bind=False)
    child = forking.asked(running, f"/child?how={how}")["pid"]
    os.kill(running.pid, signal.SIGKILL)
    running.wait()
    assert lives(child)
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", running.port), 5)
    again = forking(*bind, bind=False)
    assert again.get().status == 200


def test_process_that_is_started_at_import_keeps_no_address(forking):
    running = forking(env={"FORK_AT_IMPORT": "process"})
    seen = forking.asked(running, "/at-import")
    assert seen["sockets"] == []
    os.kill(running.pid, signal.SIGKILL)
    running.wait()
    assert lives(seen["pid"])
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", running.port), 5)


def test_child_that_returns_from_the_import_does_not_serve(forking):
    running = forking(env={"FORK_AT_IMPORT": "return"})
    running.err.wait(r"has forked a process, which came back to Maypole: it ends instead of serving")
    assert running.get().status == 200
    running.stop()
    assert running.err.wait_end().count("listening on") == 1


@pytest.mark.parametrize("how", ["os", "c"])
@pytest.mark.parametrize("end, code", [("return", 0), ("exit", 3), ("sentence", 1), ("raise", 1)])
def test_child_that_comes_back_ends_and_answers_nobody(forking, how, end, code):
    running = forking()
    with running.client() as client:
        assert json.loads(client.get(f"/back?how={how}&end={end}").body) == {"code": code}
        assert client.get("/").body == b"{}", "the next response is the next request's"
    if end == "sentence":
        running.err.wait("the child says why")


@pytest.mark.parametrize("how", ["close_fds", "preexec_fn", "os", "posix_spawn"])
def test_program_that_is_executed_has_no_descriptor_of_the_server(forking, how, tmp_path):
    logs = "--error-logfile", str(tmp_path / "error"), "--access-logfile", str(tmp_path / "access")
    running = forking(*logs, "--spool-dir", str(tmp_path), "--request-buffer", "1000", ready=False)
    address = eventually(lambda: listening(tmp_path / "error"), START_PATIENCE, "the line that says where it listens")
    running.addresses = [address]
    with running.client() as idle, running.client() as sending:
        idle.assert_open()
        # Half of this request's body has been received, into a temporary file.
        sending.request("POST / HTTP/1.1", "Content-Length: 200000", body=b"x" * 100_000)
        descriptors = forking.asked(running, f"/executed?how={how}")["descriptors"]
    assert descriptors.strip() == "[]"


def listening(path):
    with contextlib.suppress(OSError):
        address, whole, _ = path.read_text().partition("listening on ")[2].partition(",")
        return whole and address


def test_child_writes_its_own_log_lines_and_none_of_its_parent(forking):
    running = forking()
    forking.asked(running, "/logs")
    running.err.wait("the child's line")
    running.stop()
    text = running.err.wait_end()
    assert text.count("the parent's line") == 1 and text.count("the child's line") == 1


@pytest.mark.parametrize("size", [1000, 5_000_000])
def test_child_reads_the_body_of_its_request(forking, size):
    running = forking("--request-buffer", "1MiB")
    assert json.loads(running.post("/body", b"x" * size).body) == {"bytes": size}


def test_signals_end_a_child_as_they_do_in_any_program(forking):
    running = forking()
    assert forking.asked(running, "/terminate") == {"code": -signal.SIGTERM, "alive": False}
    assert forking.asked(running, "/interrupt") == {"code": 7}
    seen = forking.asked(running, "/child?how=multiprocessing")
    assert "default_int_handler" in seen["handlers"]["INT"] and "SIG_DFL" in seen["handlers"]["TERM"]


def test_daemonic_child_does_not_hold_up_the_exit(forking):
    running = forking()
    child = forking.asked(running, "/child?how=multiprocessing")["pid"]
    running.signal(signal.SIGTERM)
    start = time.monotonic()
    assert running.wait() == 0
    assert time.monotonic() - start < 15
    eventually(lambda: not lives(child), what="the child has ended")


def test_pools_of_processes_work_in_a_request(forking):
    running = forking()
    squares = [0, 1, 4, 9, 16]
    assert forking.asked(running, "/pools") == {"pool": squares, "executor": squares}
