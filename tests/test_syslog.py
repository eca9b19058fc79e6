"""Log lines in syslog: over each kind of socket, without a daemon, and after the daemon has started again."""

import contextlib
import os
import re
import shutil
import socket
import subprocess

import pytest

from process import eventually

PATIENCE = 60
UNIX = {"unix#dgram": socket.SOCK_DGRAM, "unix#stream": socket.SOCK_STREAM, "unix": socket.SOCK_DGRAM}


class Daemon:
    """A syslog daemon: a socket that collects messages."""

    def __init__(self, kind, path):
        if kind in ("udp", "tcp"):
            self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM if kind == "udp" else socket.SOCK_STREAM)
            self.socket.bind(("127.0.0.1", 0))
            self.address = f"{kind}://127.0.0.1:{self.socket.getsockname()[1]}"
        else:
            self.socket = socket.socket(socket.AF_UNIX, UNIX[kind])
            self.socket.bind(str(path))
            self.address = f"unix://{path}{kind.removeprefix('unix')}"
        self.socket.settimeout(PATIENCE)
        self.stream = None
        if self.socket.type == socket.SOCK_STREAM:
            self.socket.listen()

    def message(self):
        if self.socket.type == socket.SOCK_DGRAM:
            return self.socket.recv(65536).decode()
        if self.stream is None:
            connection, _ = self.socket.accept()
            connection.settimeout(PATIENCE)
            self.stream = connection.makefile("rb")
        return self.stream.readline().decode().removesuffix("\n")

    def wait(self, pattern):
        """Reads messages until one matches the pattern."""
        while not (found := re.fullmatch(pattern, self.message(), re.DOTALL)):
            pass
        return found


@pytest.mark.parametrize("kind", ["unix#dgram", "unix#stream", "unix", "udp", "tcp"])
def test_lines_of_both_logs_arrive(server, tmp_path, kind):
    daemon = Daemon(kind, tmp_path / "log")
    running = server("probe", "--log-syslog", "--log-syslog-to", daemon.address, "--log-syslog-prefix", "shop",
                     "--log-syslog-facility", "local3", "--access-logformat", "%(U)s %(s)s")
    # The facility 19 and the severities 6 and 3.
    daemon.wait(rf"<158>maypole\.shop\.error\[{running.pid}\]: .*listening .*")
    running.get("/one")
    daemon.wait(rf"<158>maypole\.shop\.access\[{running.pid}\]: /one 404")
    running.get("/fail")
    failed = [daemon.message() for _ in range(2)]
    traceback, = [text for text in failed if text.startswith(f"<155>maypole.shop.error[{running.pid}]: ")]
    assert "Traceback" in traceback, failed
    assert f"<158>maypole.shop.access[{running.pid}]: /fail 500" in failed
    running.stop()
    daemon.wait(r"<158>maypole\.shop\.error\[\d+\]: .*stopped.*")


def test_access_lines_stay_out_of_syslog(server, tmp_path):
    daemon = Daemon("unix", tmp_path / "log")
    running = server("probe", "--log-syslog", "--log-syslog-to", daemon.address, "--disable-redirect-access-to-syslog",
                     "--access-logfile", "-", "--access-logformat", "%(U)s")
    running.get("/one")
    running.out.wait("/one\n")
    running.stop()
    tags = []
    while not tags or "stopped" not in tags[-1]:
        tags.append(daemon.message())
    assert all(tag.startswith("<14>maypole.error[") or tag.startswith("<12>maypole.error[") for tag in tags), tags


def test_missing_daemon_is_said_once_and_the_losses_are_counted(server, tmp_path):
    path = tmp_path / "log"
    running = server("probe", "--log-syslog", "--log-syslog-to", f"unix://{path}")
    running.err.wait(rf"syslog at unix://{path} takes no lines: .*; they are lost until it does \(--log-syslog-to\)\n")
    assert running.get("/").status == 200
    daemon = Daemon("unix", path)
    # Syslog is tried again after a second.
    daemon.socket.settimeout(0.1)
    for _ in range(10 * PATIENCE):
        running.get("/two")
        try:
            daemon.message()
            break
        except TimeoutError:
            pass
    running.err.wait(rf"syslog at unix://{path} takes lines again; \d+ lines were lost")
    # After this line, none is on its way to the socket that is closed.
    running.get("/last")
    daemon.socket.settimeout(PATIENCE)
    daemon.wait(".*/last.*")
    # A daemon that starts again loses nothing: the next line finds its new socket.
    daemon.socket.close()
    os.unlink(path)
    daemon = Daemon("unix", path)
    running.get("/three")
    daemon.wait(".*/three.*")
    running.stop()
    assert running.err.text().count("takes no lines") == 1


@pytest.mark.parametrize("workers", [(), ("-w", "1")], ids=["alone", "workers"])
def test_daemon_that_accepts_nothing_holds_no_process(server, tmp_path, workers):
    path = tmp_path / "log"
    with contextlib.ExitStack() as stack:
        daemon = stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
        daemon.bind(str(path))
        daemon.listen(0)
        # From then on, connect(2) waits.
        with pytest.raises(BlockingIOError):
            while True:
                client = stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
                client.setblocking(False)
                client.connect(str(path))
        running = server("probe", *workers, "--log-syslog", "--log-syslog-to", f"unix://{path}#stream")
        assert running.get("/pid").status == 200
        running.stop()
    assert f"syslog at unix://{path}#stream takes no lines: Resource temporarily unavailable" in running.err.text()


RSYSLOG = """
module(load="imuxsock" SysSock.Use="off")
module(load="imtcp")
input(type="imuxsock" Socket="{path}/log")
input(type="imtcp" port="0" listenPortFileName="{path}/port")
template(name="seen" type="string" string="%syslogfacility-text%.%syslogseverity-text% %programname% %syslogtag%%msg%\\n")
action(type="omfile" file="{path}/seen" template="seen")
"""


@pytest.mark.parametrize("kind", ["unix", "tcp"])
@pytest.mark.skipif(shutil.which("rsyslogd") is None, reason="rsyslog is not installed")
def test_rsyslog_knows_the_parts_of_each_message(server, tmp_path, kind):
    (tmp_path / "rsyslog.conf").write_text(RSYSLOG.format(path=tmp_path))
    daemon = subprocess.Popen(["rsyslogd", "-n", "-f", tmp_path / "rsyslog.conf", "-i", tmp_path / "pid"])
    try:
        read = (tmp_path / "port").read_text if kind == "tcp" else (tmp_path / "log").exists
        found = eventually(lambda: (tmp_path / "port").exists() and (tmp_path / "log").exists() and read(), PATIENCE, "rsyslog")
        address = f"tcp://localhost:{found}" if kind == "tcp" else f"unix://{tmp_path}/log"
        running = server("probe", "-w", "1", "--log-syslog", "--log-syslog-to", address, "--log-syslog-prefix", "shop",
                         "--log-syslog-facility", "local3", "--access-logformat", "%(U)s %(s)s")
        assert running.get("/fail").status == 500
        running.stop()
        seen = tmp_path / "seen"
        eventually(lambda: seen.exists() and "stopped " in seen.read_text(), PATIENCE, "the last line")
        text = seen.read_text()
    finally:
        daemon.kill()
        daemon.wait()
    pid = rf"\[{running.pid}\]"
    assert re.search(rf"^local3\.info maypole\.shop\.error maypole\.shop\.error{pid}: maypole .* listening on ", text, re.M), text
    assert re.search(r"^local3\.info maypole\.shop\.access maypole\.shop\.access\[\d+\]: /fail 500$", text, re.M), text
    assert re.search(r"^local3\.err maypole\.shop\.error maypole\.shop\.error\[\d+\]: GET /fail .*#012Traceback", text, re.M), text
