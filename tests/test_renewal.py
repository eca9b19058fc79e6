"""SIGHUP applies what the settings say of a socket that stays, and of the umask: with workers and without."""

import errno
import os
import signal
import socket

import pytest

from process import READY, halt
from test_workers import workers

APP = """
def application(environ, start_response):
    start_response("200 OK", [])
    [line] = [line for line in open("/proc/self/status") if line.startswith("Umask:")]
    return [line.split()[1].encode()]
"""


@pytest.fixture(params=[0, 1], ids=["alone", "workers"])
def shop(request, server, tmp_path):
    """Starts a server with a file of settings. The result has `reload`, which changes the file and sends SIGHUP."""
    (tmp_path / "shop.py").write_text(APP)
    file = tmp_path / "maypole.toml"

    def write(**settings):
        count = "workers = 1\n" if request.param else ""
        file.write_text("[maypole]\n" + count + "".join(f"{name} = {value!r}\n" for name, value in settings.items()))

    def start(*args, umask=0o022, **settings):
        write(**settings)
        running = server("shop", "-c", file, *args, cwd=tmp_path, umask=umask)

        def reload(**settings):
            write(**settings)
            start = len(running.err.text())
            running.signal(signal.SIGHUP)
            running.err.wait("reloaded: 1 worker" if request.param else READY, start=start)

        running.reload = reload
        return running

    return start


def mode(path):
    return path.stat().st_mode & 0o777


def test_mode_of_a_unix_socket_follows_the_settings(shop, tmp_path):
    path = tmp_path / "socket"
    running = shop("--bind", f"unix:{path}", unix_socket_mode="600")
    inode = path.stat().st_ino
    assert mode(path) == 0o600
    running.reload(unix_socket_mode="660")
    assert mode(path) == 0o660
    running.reload(umask="027")
    assert (mode(path), path.stat().st_ino) == (0o750, inode)


def test_umask_follows_the_settings(shop):
    running = shop(umask=0o037)
    assert running.get().body == b"0037"
    running.reload(umask="007")
    assert running.get().body == b"0007"
    running.reload()
    assert running.get().body == b"0037"


def test_backlog_follows_the_settings(shop, tmp_path):
    path = tmp_path / "socket"
    running = shop("--bind", f"unix:{path}", backlog=100)
    running.reload(backlog=2)
    # The supervisor first: it reaps no worker that ends meanwhile.
    halt(running.pid)
    halt(*workers(running))
    clients, errors = [], []
    for _ in range(5):
        client = socket.socket(socket.AF_UNIX)
        client.setblocking(False)
        clients.append(client)
        errors.append(client.connect_ex(str(path)))
    os.killpg(running.pid, signal.SIGCONT)
    for client in clients:
        client.close()
    # The kernel takes one more than the backlog.
    assert errors == [0, 0, 0, errno.EAGAIN, errno.EAGAIN]
