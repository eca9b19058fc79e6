"""The sockets of `--status-bind` and `--control` over a reload, a restart and a new supervisor."""

import json
import os
import signal
import stat

import pytest

from client import Client
from process import eventually
from status import Status
from test_restart import restart
from test_succession import WAITS, succeed

__all__ = ["succeed"]

KINDS = pytest.mark.parametrize("kind", [(), ("-w", "1")], ids=["alone", "workers"])


def shown_pid(address):
    """Returns the process that shows the status at this address."""
    with Client(address) as client:
        return json.loads(client.send("GET /stats.json HTTP/1.1\r\nHost: localhost\r\n\r\n").response().body)["pid"]


def test_new_supervisor_takes_the_sockets_of_the_status(server, succeed, tmp_path):
    file = tmp_path / "control"
    running = server("probe", "-w", "1", "--status-bind", "0", "--control", file)
    status = Status(running)
    addresses = [status.address, f"unix:{file}"]
    inode = file.stat().st_ino
    assert [shown_pid(address) for address in addresses] == [running.pid] * 2
    assert status.text("/readyz")[0] == 200
    for _ in range(2):
        new = succeed(running)
        for address in addresses:
            eventually(lambda address=address, new=new: shown_pid(address) == new, what="the new supervisor's status")
    assert running.process.wait(20) == 0
    assert file.stat().st_ino == inode and stat.S_IMODE(file.stat().st_mode) == 0o600
    assert status.text("/readyz")[0] == 200
    os.kill(new, signal.SIGTERM)
    eventually(lambda: not file.exists(), what="the removal of the file")


def test_client_of_the_old_supervisor_still_gets_its_response(server, succeed, tmp_path):
    (tmp_path / "shop.py").write_text(WAITS)
    running = server("shop", "-w", "1", "--status-bind", "0", "--min-rate", "0", cwd=tmp_path)
    with running.client() as holding:
        # The old processes stay until this request has ended.
        holding.request("POST /environ HTTP/1.1", "Content-Length: 1")
        eventually(lambda: Status(running).json()["processes"][0]["connections"] == 1, what="the connection")
        new = succeed(running, serves=False)
        eventually((tmp_path / "waits").exists, what="that the new worker imports")
        # The status server gives a connection ten seconds, so that it is made when nearly all is done.
        with Client(Status(running).address) as client:
            (tmp_path / "go").touch()
            running.err.wait(rf"pid {new}, listening on")
            response = client.send("GET /stats.json HTTP/1.1\r\nHost: localhost\r\n\r\n").response()
        assert (response.status, json.loads(response.body)["pid"]) == (200, running.pid)
        assert holding.send("x").response().status == 200
    # A signal in the last moment would end it.
    assert running.wait() == 0


def test_supervisor_that_does_not_come_up_leaves_the_status(server, tmp_path):
    code, file = tmp_path / "shop.py", tmp_path / "control"
    code.write_text("from wsgiref.simple_server import demo_app as application\n")
    running = server("shop", "-w", "1", "--status-bind", "0", "--control", file, cwd=tmp_path)
    status = Status(running)
    code.write_text("import nosuch\n")
    running.signal(signal.SIGUSR2)
    running.err.wait("has ended before it served; this one serves on")
    assert shown_pid(status.address) == shown_pid(f"unix:{file}") == running.pid


def settings(path, **values):
    path.write_text("[maypole]\n" + "".join(f"{name} = {value!r}\n" for name, value in values.items()))


def reload(running, kind):
    """Reads the settings again, and waits until they hold."""
    if not kind:
        return restart(running)
    start = len(running.err.text())
    running.signal(signal.SIGHUP)
    running.err.wait("reloaded: 1 worker with the new settings", start=start)


@KINDS
def test_reload_keeps_the_sockets_and_follows_the_settings(server, tmp_path, kind):
    file, first, second = tmp_path / "maypole.toml", tmp_path / "first", tmp_path / "second"
    settings(file, status_bind=["127.0.0.1:0"], control=str(first))
    running = server("probe", *kind, "--config", file)
    status, inode = Status(running), first.stat().st_ino
    reload(running, kind)
    assert shown_pid(status.address) == shown_pid(f"unix:{first}") == running.pid
    assert first.stat().st_ino == inode
    settings(file, status_bind=["127.0.0.1:0", "localhost:0"], control=str(second))
    reload(running, kind)
    eventually(lambda: not first.exists(), what="the removal of the file")
    for address in (status.address, f"unix:{second}"):
        assert shown_pid(address) == running.pid
    settings(file, status_bind=["127.0.0.1:0"], status_allow=["10.0.0.0/8"])
    reload(running, kind)
    eventually(lambda: not second.exists(), what="the removal of the file")
    eventually(lambda: status.ask("/livez").status == 403, what="the new readers")


def test_reload_that_fails_leaves_the_status(server, tmp_path):
    file, taken = tmp_path / "maypole.toml", tmp_path / "taken"
    settings(file, status_bind=["127.0.0.1:0"])
    running = server("probe", "-w", "1", "--config", file)
    status = Status(running)
    taken.write_text("a file that is no socket")
    settings(file, status_bind=["127.0.0.1:0"], control=str(taken))
    running.signal(signal.SIGHUP)
    running.err.wait(f"cannot bind unix:{taken}: the file exists and is not a socket")
    assert shown_pid(status.address) == running.pid
    assert taken.read_text() == "a file that is no socket"


@KINDS
def test_file_of_control_is_removed_at_the_end(server, tmp_path, kind):
    file = tmp_path / "control"
    running = server("probe", *kind, "--control", file)
    assert file.is_socket()
    running.stop()
    assert not file.exists()
