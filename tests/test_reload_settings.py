"""Settings that a reload reads again, while the supervisor goes on."""

import contextlib
import pathlib
import signal
import subprocess

import pytest

from process import MAYPOLE, clean_environment, eventually
from test_reload import GOOD, reload

#: A configuration file that takes as long as the file `held` exists.
HELD = """
import os, pathlib, time
pathlib.Path("evaluates").write_text(str(os.getpid()))
while os.path.exists("held"):
    time.sleep(0.01)
workers = {workers}
"""


@pytest.fixture
def slow(server, tmp_path):
    """A service whose configuration file in Python takes its time. The result has `hold`, `release` and `evaluates`."""
    (tmp_path / "shop.py").write_text(GOOD % "first")
    settings, held, seen = (tmp_path / name for name in ("gunicorn.conf.py", "held", "evaluates"))
    settings.write_text(HELD.format(workers=1))
    running = server("shop:application", "-c", settings, cwd=tmp_path)
    seen.unlink()
    running.hold = held.touch
    running.release = held.unlink
    running.evaluates = lambda: eventually(lambda: seen.exists() and seen.read_text(), what="the evaluation")
    running.set_workers = lambda workers: settings.write_text(HELD.format(workers=workers))
    return running


def test_supervisor_serves_signals_while_a_file_in_python_is_read(slow):
    slow.hold()
    slow.signal(signal.SIGHUP)
    slow.evaluates()
    slow.signal(signal.SIGTTIN)
    slow.err.wait(r"worker 2 \(pid \d+\) serves")
    assert slow.get().body == b"first"
    slow.release()
    slow.err.wait("reloaded: 1 worker ")


def test_reload_that_is_asked_for_meanwhile_reads_the_file_once_more(slow):
    slow.hold()
    slow.signal(signal.SIGHUP)
    slow.evaluates()
    slow.set_workers(3)
    slow.signal(signal.SIGHUP)
    slow.err.wait("SIGHUP: another reload follows")
    slow.release()
    slow.err.wait("reloaded: 3 workers ")


def test_stop_ends_the_process_that_reads_the_file(slow):
    slow.hold()
    slow.signal(signal.SIGHUP)
    process = pathlib.Path("/proc", slow.evaluates())
    slow.stop()

    def has_ended():
        with contextlib.suppress(OSError):
            return "Z" in (process / "stat").read_text().split()
        return True

    eventually(has_ended, what="its end")


def test_command_learns_that_the_service_stops(slow):
    slow.hold()
    command = subprocess.Popen([MAYPOLE, "reload", str(slow.pid)], env=clean_environment(), stderr=subprocess.PIPE)
    slow.evaluates()
    slow.stop()
    _, err = command.communicate(timeout=60)
    assert command.returncode == 1 and b"nothing is reloaded, because the service stops" in err, err


def test_command_learns_that_a_file_in_python_is_wrong(slow, tmp_path):
    (tmp_path / "gunicorn.conf.py").write_text("raise ValueError('no such host')\n")
    ended = reload(slow)
    assert ended.returncode == 1 and "no such host" in ended.stderr and "the old code serves" in ended.stderr
    assert slow.get().body == b"first"


def test_supervisor_follows_what_a_reload_changes(server, tmp_path):
    (tmp_path / "shop.py").write_text(GOOD % "first")
    settings, log = tmp_path / "shop.toml", tmp_path / "error.log"
    settings.write_text("[maypole]\nworkers = 1\npid = 'old.pid'\n")
    running = server("shop:application", "-c", settings, cwd=tmp_path)
    assert (tmp_path / "old.pid").read_text() == f"{running.pid}\n"
    settings.write_text(
        f"[maypole]\nworkers = 1\npid = 'new.pid'\nerror_logfile = '{log}'\nlog_level = 'warning'\nproc_name = 'other'\n"
    )
    assert reload(running).returncode == 0
    assert (tmp_path / "new.pid").read_text() == f"{running.pid}\n" and not (tmp_path / "old.pid").exists()
    assert b"[other]" in pathlib.Path(f"/proc/{running.pid}/cmdline").read_bytes()
    assert "reloaded:" not in running.err.text() + log.read_text()
    settings.write_text(f"[maypole]\nworkers = 1\npid = '{tmp_path}'\nerror_logfile = '{log}'\n")
    assert reload(running).returncode == 0
    eventually(lambda: "reloaded: 1 worker" in log.read_text(), what="the line in the new log")
    assert "the supervisor itself keeps its old setting (--pid): " in log.read_text()
    assert (tmp_path / "new.pid").exists()

