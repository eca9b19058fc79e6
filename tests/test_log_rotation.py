"""Log files that another program renames: SIGUSR1 opens them again, and no line is lost."""

import os
import pathlib
import re
import signal
import subprocess
import threading

import snippets
from client import PATIENCE
from deployment import needs, program_path
from process import ROOT, START_PATIENCE, eventually

OPEN_AGAIN = r"SIGUSR1: the log files are open again\n"


def reopen(running):
    """Sends SIGUSR1 and waits until the log says that the files are open again."""
    start = len(running.err.text())
    running.signal(signal.SIGUSR1)
    running.err.wait(OPEN_AGAIN, start=start)


def ask(running, name, count):
    with running.client() as client:
        for number in range(count):
            assert client.get(f"/x?{name}-{number}").status == 200


def test_rotation_by_rename_loses_no_line(server, tmp_path):
    path = tmp_path / "access"
    running = server("probe", "--access-logfile", path, "--access-logformat", "%(q)s")
    threads = [threading.Thread(target=ask, args=(running, name, 400)) for name in "abc"]
    for thread in threads:
        thread.start()
    rotated = {}
    for number in range(5):
        old = path.rename(tmp_path / f"access.{number}")
        reopen(running)
        rotated[old] = old.stat().st_size
    for thread in threads:
        thread.join(PATIENCE)
    running.stop()
    assert {old: old.stat().st_size for old in rotated} == rotated, "a renamed file has grown"
    lines = [line for file in (*rotated, path) for line in file.read_text().split()]
    assert sorted(lines) == sorted(f"{name}-{number}" for name in "abc" for number in range(400))


def test_error_log_follows(server, tmp_path):
    path = tmp_path / "errors"
    running = server("probe", "--error-logfile", path, "--bind", f"unix:{tmp_path}/socket", bind=False, ready=False)
    running.addresses = [f"unix:{tmp_path}/socket"]
    wait_for_line(path, "listening on")
    old = path.rename(tmp_path / "errors.1")
    running.signal(signal.SIGUSR1)
    wait_for_line(path, re.escape("SIGUSR1: the log files are open again"))
    size = old.stat().st_size
    assert running.get("/fail").status == 500
    running.stop()
    assert "made to fail" in path.read_text() and old.stat().st_size == size


def test_file_that_cannot_be_opened_again_leaves_the_old_one(server, tmp_path):
    path = tmp_path / "access"
    running = server("probe", "--access-logfile", path, "--access-logformat", "%(q)s")
    ask(running, "before", 1)
    old = path.rename(tmp_path / "access.1")
    path.mkdir()
    running.signal(signal.SIGUSR1)
    running.err.wait(rf"\[ERROR\] SIGUSR1: cannot open the log {path} again: Is a directory; its lines go on to")
    ask(running, "after", 1)
    running.stop()
    assert old.read_text().split() == ["before-0", "after-0"]


def test_signal_during_the_import_opens_the_files_once_the_server_runs(server):
    running = server("late", ready=False, stdin=subprocess.PIPE)
    running.err.wait("importing")
    running.signal(signal.SIGUSR1)
    running.process.stdin.close()
    running.wait_ready()
    running.err.wait(OPEN_AGAIN)


def test_handler_of_the_application_stays(server):
    running = server("slow_to_end", env={"END": "handler"})
    running.signal(signal.SIGUSR1)
    running.out.wait("handled")
    running.stop()
    assert not re.search(OPEN_AGAIN, running.err.text())


def test_logrotate_with_the_file_of_the_page(server, tmp_path):
    needs("logrotate")
    [body] = [block.text for block in snippets.blocks(ROOT / "docs/reference/logs.md") if "postrotate" in block.text]
    path = tmp_path / "access.log"
    running = server("probe", "--access-logfile", path, "--access-logformat", "%(q)s")
    for old, new in [
        ("/var/log/shop", str(tmp_path)),
        ("create 0640 shop adm", f"create 0640 {os.geteuid()} {os.getegid()}"),
        ("systemctl kill --kill-who=main --signal=USR1 shop.service", f"kill -USR1 {running.pid}"),
    ]:
        assert old in body
        body = body.replace(old, new)
    (tmp_path / "logrotate.conf").write_text(body)
    os.chmod(tmp_path, 0o755)
    for number in range(2):
        ask(running, number, 1)
        eventually(lambda: path.stat().st_size, what="that the line is written")
        start = len(running.err.text())
        command = [program_path("logrotate"), "--force", "--state", tmp_path / "state", tmp_path / "logrotate.conf"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=3 * PATIENCE)
        assert done.returncode == 0, done.stderr
        running.err.wait(OPEN_AGAIN, start=start)
    ask(running, "last", 1)
    running.stop()
    assert (tmp_path / "access.log.1").read_text() == "1-0\n" and path.read_text() == "last-0\n"
    assert (tmp_path / "access.log.2.gz").exists()


def wait_for_line(path: pathlib.Path, pattern):
    """Waits until a log file has a line. The file may not exist yet."""
    eventually(lambda: path.exists() and re.search(pattern, path.read_text()), START_PATIENCE, f"{pattern!r} in {path}")
