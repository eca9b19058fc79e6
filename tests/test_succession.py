"""A new supervisor takes the place of the running one (SIGUSR2)."""

import contextlib
import os
import pathlib
import re
import shutil
import signal

import pytest

from process import APPS, MAYPOLE, READY, eventually
from test_hooks import ALL as HOOKS

STARTS = r"SIGUSR2: a new supervisor starts, pid (\d+)"


@pytest.fixture
def succeed():
    """Gives a function that sends SIGUSR2 and waits until the new supervisor serves, or until it starts. It returns the
    new supervisor's process, which is stopped at the end of the test."""
    started = []

    def take_over(running, serves=True):
        start = len(running.err.text())
        os.kill(started[-1] if started else running.pid, signal.SIGUSR2)
        pid = int(running.err.wait(STARTS, start=start)[1])
        started.append(pid)
        if serves:
            running.err.wait(rf"pid {pid}, listening on", start=start)
        return pid

    yield take_over
    for pid in started:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGTERM)
    for pid in started:
        eventually(lambda pid=pid: not pathlib.Path(f"/proc/{pid}").exists(), what="the end of the new supervisor")


def test_new_supervisor_serves_and_the_old_one_ends(server, succeed, tmp_path):
    running = server("probe", "-w", "2", "--pid", tmp_path / "pid")
    with running.client() as client:
        assert client.get("/").status == 200
        new = succeed(running)
        assert running.process.wait(20) == 0
        assert (tmp_path / "pid").read_text().strip() == str(new)
        # The connection has moved to a worker of the new supervisor.
        assert client.get("/").status == 200
    assert running.get().status == 200
    newest = succeed(running)
    eventually(lambda: not pathlib.Path(f"/proc/{new}").exists(), what="the end of the second supervisor")
    assert (tmp_path / "pid").read_text().strip() == str(newest)
    assert running.get().status == 200


def test_file_of_a_unix_socket_stays_until_the_last_supervisor_ends(server, succeed, tmp_path):
    running = server("probe", "-w", "1", "--bind", f"unix:{tmp_path}/socket", bind=False)
    new = succeed(running)
    assert running.process.wait(20) == 0
    assert running.get().status == 200
    os.kill(new, signal.SIGTERM)
    eventually(lambda: not (tmp_path / "socket").exists(), what="the removal of the file")


def test_supervisor_that_does_not_come_up_changes_nothing(server, tmp_path):
    code = tmp_path / "shop.py"
    code.write_text("from wsgiref.simple_server import demo_app as application\n")
    running = server("shop", "-w", "1", "--pid", tmp_path / "pid", cwd=tmp_path)
    code.write_text("import nosuch\n")
    running.signal(signal.SIGUSR2)
    running.err.wait("has ended before it served; this one serves on")
    assert running.get().status == 200
    assert (tmp_path / "pid").read_text().strip() == str(running.pid)
    assert len(READY.findall(running.err.text())) == 1


#: Is imported at once by the first process, and by each later one as soon as there is a file `go`. It writes a file
#: `waits` before.
WAITS = (APPS / "probe.py").read_text() + """
import pathlib
import time

if pathlib.Path("imported").exists():
    pathlib.Path("waits").touch()
    while not pathlib.Path("go").exists():
        time.sleep(0.01)
pathlib.Path("imported").touch()
"""


def test_old_supervisor_that_stops_meanwhile_leaves_the_service_to_the_new_one(server, succeed, tmp_path):
    (tmp_path / "shop.py").write_text(WAITS)
    running = server("shop", "-w", "1", "--bind", f"unix:{tmp_path}/socket", bind=False, cwd=tmp_path)
    new = succeed(running, serves=False)
    running.signal(signal.SIGUSR2)
    running.err.wait(f"SIGUSR2: no new supervisor takes over: {new} starts already")
    assert running.get().status == 200
    running.signal(signal.SIGTERM)
    assert running.process.wait(20) == 0
    # The client waits for the new supervisor.
    with running.client() as client:
        client.request("GET / HTTP/1.1")
        (tmp_path / "go").touch()
        assert client.response().status == 200


def test_new_supervisor_starts_after_a_reload(server, succeed, tmp_path):
    (tmp_path / "shop.py").write_text(WAITS)
    running = server("shop", "-w", "1", cwd=tmp_path)
    running.signal(signal.SIGHUP)
    running.err.wait("SIGHUP: reloading")
    running.signal(signal.SIGUSR2)
    running.err.wait("SIGUSR2: a new supervisor starts after the reload")
    start = len(running.err.text())
    (tmp_path / "go").touch()
    new = int(running.err.wait(STARTS, start=start)[1])
    running.err.wait("reloaded: 1 worker with the new settings", start=start)
    running.err.wait(rf"pid {new}, listening on", start=start)
    assert running.process.wait(20) == 0
    assert running.get().status == 200
    os.kill(new, signal.SIGTERM)
    running.err.wait(rf"\[{new}\] \[INFO\] stopped")


#: Answers /wait as soon as there is a file `go`.
SLOW = """
import os
import pathlib
import time

def application(environ, start_response):
    if environ["PATH_INFO"] == "/wait":
        pathlib.Path("inside").touch()
        while not pathlib.Path("go").exists():
            time.sleep(0.01)
    start_response("200 OK", [])
    return [b"%d" % os.getpid()]
"""


def test_client_moves_though_the_first_receiver_in_the_new_supervisor_dies(server, succeed, tmp_path):
    (tmp_path / "shop.py").write_text(SLOW)
    running = server("shop", "-w", "1", "--log-level", "debug", cwd=tmp_path)
    with running.client() as client:
        client.request("GET /wait HTTP/1.1")
        eventually((tmp_path / "inside").exists, what="that the request runs")
        new = succeed(running)
        # The old worker accepts no more once it has been told to stop.
        running.err.wait("stopping; 1 request")
        receiver = int(running.err.wait(rf"\[{new}\] \[DEBUG\] worker 1 \(pid (\d+)\) serves")[1])
        start = len(running.err.text())
        os.kill(receiver, signal.SIGKILL)
        running.err.wait(rf"\[{new}\] \[INFO\] worker 1 \(pid \d+\) serves", start=start)
        (tmp_path / "go").touch()
        old = int(client.response().body)
        # The connection was at the old worker, and moves to the second worker of the new supervisor. The old one serves
        # a request that comes before it has found the first receiver dead.
        eventually(lambda: int(client.get("/").body) not in (receiver, old), what="that the connection moves")
    assert running.process.wait(20) == 0


def test_template_and_hooks_are_those_of_the_new_supervisor(server, succeed, tmp_path):
    (tmp_path / "hooks.py").write_text(HOOKS + "\ndef pre_exec(server): line('pre_exec', server)\n")
    running = server("probe", "-w", "2", "--preload", "--hooks", tmp_path / "hooks.py")
    before = running.err.wait("hook when_ready in .*").end()
    new = succeed(running)
    assert running.process.wait(20) == 0
    assert running.get().status == 200
    text = running.err.text()[before:]
    service = re.findall(r"hook (pre_exec|on_starting|when_ready|on_exit) in (\d+)", text)
    [old] = {pid for name, pid in service if name == "pre_exec"}
    of_new = [name for name, pid in service if pid != old]
    assert [name for name, pid in service if pid == old] == ["pre_exec", "on_exit"] and of_new == ["on_starting", "when_ready"]
    # The old workers have stopped by then.
    assert service[-1] == ("on_exit", old)
    assert re.search(rf"\[{new}\] \[INFO\] maypole .*, forked by the template \(pid \d+\)\n", text)


def test_new_version_of_the_program_is_started(server, succeed, tmp_path):
    for name in ("first", "second"):
        try:
            os.link(MAYPOLE, tmp_path / name)
        except OSError:
            shutil.copy(MAYPOLE, tmp_path / name)
    (tmp_path / "maypole").symlink_to("first")
    command = [tmp_path / "maypole", "-w", "1", "--bind", "127.0.0.1:0", "--access-logfile", "none", "probe"]
    running = server("probe", command=command)
    (tmp_path / "maypole").unlink()
    (tmp_path / "maypole").symlink_to("second")
    new = succeed(running)
    assert os.readlink(f"/proc/{new}/exe") == str(tmp_path / "second")
    assert running.process.wait(20) == 0
