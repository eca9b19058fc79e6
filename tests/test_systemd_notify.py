"""What Maypole tells systemd (sd_notify(3)), with a socket of the test as systemd's end."""

import os
import pathlib
import re
import signal
import socket
import time

import pytest

from client import PATIENCE
from process import APPS, eventually

WORKERS = pytest.mark.parametrize("workers", [(), ("--workers", "2")], ids=["alone", "workers"])


class Systemd:
    """systemd's end of the socket."""

    def __init__(self, address):
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(address)
        self.socket.settimeout(PATIENCE)
        self.env = {"NOTIFY_SOCKET": address.replace("\0", "@")}

    def wait(self, beginning):
        """Returns the first message from now on that begins so."""
        while not (message := self.socket.recv(4096).decode()).startswith(beginning):
            pass
        return message

    def is_silent(self, beginning, seconds):
        """Returns whether no message begins so for some time."""
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            self.socket.settimeout(left)
            try:
                if self.socket.recv(4096).decode().startswith(beginning):
                    return False
            except TimeoutError:
                return True
        return True


@pytest.fixture(params=["path", "abstract"])
def systemd(request, tmp_path):
    return Systemd(str(tmp_path / "notify") if request.param == "path" else f"\0maypole-test-{os.getpid()}-{id(request)}")


@WORKERS
def test_start_and_stop_are_told(server, systemd, workers):
    running = server("probe", *workers, env=systemd.env)
    ready = systemd.wait("READY=1\n")
    assert re.fullmatch(
        r"READY=1\nSTATUS=2 of 2 workers serving, 0 requests running, 0 requests begun" if workers else
        r"READY=1\nSTATUS=0 calls running, 0 requests begun", ready), ready
    with running.client() as client:
        client.request("GET /hold/stop HTTP/1.1")
        systemd.wait("STATUS=2 of 2 workers serving, 1 request running" if workers else "STATUS=1 call running")
        running.signal(signal.SIGTERM)
        systemd.wait("STOPPING=1\n")
        # The request still runs, and the stop may take longer than systemd's limit.
        assert systemd.wait("EXTEND_TIMEOUT_USEC=") == "EXTEND_TIMEOUT_USEC=10000000"
        running.signal(signal.SIGINT)
        assert running.wait() == 0


def test_ready_is_told_only_when_it_serves(server, systemd, tmp_path):
    (tmp_path / "shop.py").write_text("raise ValueError('not today')\n")
    running = server("shop", "--workers", "1", cwd=tmp_path, env=systemd.env, ready=False)
    assert running.wait() == 4
    systemd.socket.settimeout(0.01)
    with pytest.raises(TimeoutError):
        systemd.wait("READY=1")


def test_workers_are_not_systemds_processes(server, systemd):
    running = server("probe", "--workers", "1", env=systemd.env)
    environ = pathlib.Path(f"/proc/{int(running.get('/pid').body)}/environ").read_bytes()
    assert b"VIRTUAL_ENV=" in environ and b"NOTIFY_SOCKET=" not in environ


@WORKERS
def test_reload_is_told_from_its_begin_to_its_end(server, tmp_path, workers):
    code, systemd = tmp_path / "shop.py", Systemd(str(tmp_path / "notify"))
    code.write_text((APPS / "probe.py").read_text())
    running = server("shop", *workers, cwd=tmp_path, env=systemd.env)
    status = systemd.wait("READY=1\n").partition(", ")[0]
    # systemd knows no reload that has failed, so that the status says it.
    code.write_text("raise ValueError('not today')\n")
    running.signal(signal.SIGHUP)
    systemd.wait("RELOADING=1\n")
    failure = "STATUS=the reload has failed, and the old code serves: "
    assert systemd.wait("READY=1\n").startswith(f"READY=1\n{failure}")
    # It stays until the next reload.
    running.get()
    assert systemd.wait("STATUS=").startswith(failure)
    code.write_text((APPS / "probe.py").read_text())
    before = time.monotonic_ns() // 1000
    running.signal(signal.SIGHUP)
    began = systemd.wait("RELOADING=1\n")
    assert before <= int(re.fullmatch(r"RELOADING=1\nMONOTONIC_USEC=(\d+)", began)[1]) <= time.monotonic_ns() // 1000
    assert systemd.wait("READY=1\n").startswith(status)


@WORKERS
def test_watchdog_is_told_while_requests_can_be_served(server, tmp_path, workers):
    systemd = Systemd(str(tmp_path / "notify"))
    running = server("probe", *workers[:1], *("1" for _ in workers[:1]), env={**systemd.env, "WATCHDOG_USEC": "600000"})
    for _ in range(3):
        systemd.wait("WATCHDOG=1")
    if workers:
        worker = int(running.get("/pid").body)
        os.kill(worker, signal.SIGSTOP)
        eventually(lambda: systemd.is_silent("WATCHDOG=1", 1), what="that the watchdog is not told")
        os.kill(worker, signal.SIGCONT)
        systemd.socket.settimeout(PATIENCE)
        systemd.wait("WATCHDOG=1")


def test_watchdog_of_another_process_is_not_told(server, tmp_path):
    systemd = Systemd(str(tmp_path / "notify"))
    server("probe", env={**systemd.env, "WATCHDOG_USEC": "300000", "WATCHDOG_PID": "1"})
    systemd.wait("READY=1\n")
    assert systemd.is_silent("WATCHDOG=1", 0.5)
