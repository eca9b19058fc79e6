"""SIGHUP in a single process: it starts again with new code in the same process, and loses no client."""

import contextlib
import os
import signal
import socket

import pytest

from client import Client
from process import READY
from test_handover import PATIENT, busy_clients, idle_clients, pid_of

AGAIN = "starting again in the same process"


def restart(running):
    """Starts the process again, and waits until it serves."""
    start = len(running.err.text())
    running.signal(signal.SIGHUP)
    running.err.wait(AGAIN, start=start)
    assert running.err.wait(READY, start=start)[1] == running.address


def write_version(path, version):
    path.write_text(f"""
def app(environ, start_response):
    start_response("200 OK", [("Content-Length", "{len(version)}")])
    return [b"{version}"]
""")


@pytest.fixture
def shop(server, tmp_path):
    """Starts a server for an application that the test can change: `shop.py`."""
    write_version(tmp_path / "shop.py", "one")
    return server("shop:app", "--worker-start-timeout", "60s", cwd=tmp_path)


@pytest.mark.parametrize("kind", ["tcp", "unix", "inherited"])
def test_restart_keeps_its_clients_and_its_socket(server, tmp_path, kind):
    path, more = tmp_path / "socket", {}
    bind = {"tcp": "127.0.0.1:0", "unix": f"unix:{path}"}.get(kind)
    with contextlib.ExitStack() as stack:
        if kind == "inherited":
            listening = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
            bind, more = f"fd://{listening.fileno()}", {"pass_fds": [listening.fileno()]}
        # Without a limit, the new code may take as long as it wants.
        running = server("probe", "--bind", bind, "--worker-start-timeout", "0", *PATIENT, bind=False, **more)
        clients = idle_clients(running, 3, stack)
        silent, slow = (stack.enter_context(Client(running.address)) for _ in range(2))
        slow.send("GET /pid HT")
        for _ in range(2):
            restart(running)
            assert {pid_of(client) for client in [*clients, silent]} == {running.pid}
        slow.send("TP/1.1\r\nHost: h\r\n\r\n")
        assert int(slow.response().body) == running.pid
        running.stop()
        assert not path.exists()


def test_new_code_is_served_and_broken_code_changes_nothing(shop, tmp_path):
    with shop.client() as client:
        assert client.get().body == b"one"
        write_version(tmp_path / "shop.py", "two")
        restart(shop)
        assert client.get().body == b"two"
        for broken, said in (
            ("def app(:", "SyntaxError"),
            ("import nosuch", "No module named 'nosuch'"),
            ("import os; os.abort()", "SIGABRT"),
            ("import os; os._exit(7)", "exit status: 7"),
            ("import os; os._exit(0)", "ends the process before it is imported"),
            ("import sys; sys.exit(0)", "SystemExit"),
        ):
            (tmp_path / "shop.py").write_text(broken)
            start = len(shop.err.text())
            shop.signal(signal.SIGHUP)
            shop.err.wait("SIGHUP: nothing changes, because the new code", start=start)
            shop.err.wait(said, start=start)
            assert client.get().body == b"two"
    assert shop.err.text().count(AGAIN) == 1


def test_code_that_hangs_at_import_changes_nothing(server, tmp_path):
    write_version(tmp_path / "shop.py", "one")
    running = server("shop:app", "--worker-start-timeout", "1s", cwd=tmp_path)
    (tmp_path / "shop.py").write_text("import time; time.sleep(600)")
    running.signal(signal.SIGHUP)
    running.err.wait(r"the new code has not come up within 1 s \(--worker-start-timeout\)")
    assert running.get().body == b"one"


def test_sigterm_ends_a_process_that_is_about_to_start_again(server):
    running = server("probe")
    with running.client() as busy, running.client() as other:
        busy.request("GET /hold/a HTTP/1.1")
        assert other.get("/held/a").body == b"yes"
        running.signal(signal.SIGHUP)
        running.err.wait("SIGHUP: stopping; [12] requests?")
        running.signal(signal.SIGTERM)
        running.err.wait("SIGTERM: the process ends, and does not start again")
        running.signal(signal.SIGINT)
        assert running.wait() == 0
    assert AGAIN not in running.err.text()


def test_application_behind_two_dashes_is_tried_and_served(server):
    restart(server("probe", "--"))


@pytest.mark.parametrize("restarts", [5])
def test_busy_clients_lose_no_request_by_restarts(server, restarts):
    running = server("probe")
    with busy_clients(running, least=restarts):
        for _ in range(restarts):
            restart(running)
            # A client that connects while the process starts is served by it.
            assert running.get().status == 200


def test_sighups_one_after_another_are_all_taken(server):
    running = server("probe")
    for _ in range(20):
        running.signal(signal.SIGHUP)
    running.err.wait(AGAIN)
    running.err.wait(READY, start=running.err.text().index(AGAIN))
    assert running.get().status == 200
    os.kill(running.pid, 0)
