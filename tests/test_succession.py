"""A new supervisor takes the place of the running one (SIGUSR2)."""

import contextlib
import os
import pathlib
import signal

import pytest

from process import READY, eventually

STARTS = r"SIGUSR2: a new supervisor starts, pid (\d+)"


@pytest.fixture
def succeed():
    """Gives a function that sends SIGUSR2 and waits until the new supervisor serves and the old one has ended. It returns
    the new supervisor's process, which is stopped at the end of the test."""
    started = []

    def take_over(running):
        start = len(running.err.text())
        os.kill(started[-1] if started else running.pid, signal.SIGUSR2)
        pid = int(running.err.wait(STARTS, start=start)[1])
        started.append(pid)
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
