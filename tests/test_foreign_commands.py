"""Commands for the service of another user: root may give them, a stranger may not."""

import os
import pwd
import shutil
import subprocess

import pytest

from client import PATIENCE
from process import APPS, MAYPOLE, Server, clean_environment

MAIL, STRANGER = "mail", "games"


def prefix(user):
    """Returns the words that make a command run as another user, who may still read the files of the tests."""
    ids = pwd.getpwnam(user)
    return ["setpriv", f"--reuid={ids.pw_uid}", f"--regid={ids.pw_gid}", "--clear-groups",
            "--inh-caps=+dac_override", "--ambient-caps=+dac_override"]


def command(user, *words):
    """Runs a command as a user. Returns its exit status, its output and its errors."""
    line = [*(prefix(user) if user else []), MAYPOLE, *map(str, words)]
    ended = subprocess.run(line, env=clean_environment(), capture_output=True, text=True, timeout=PATIENCE, cwd=APPS)
    return ended.returncode, ended.stdout, ended.stderr


@pytest.fixture(params=[(), ("-w", "1")], ids=["alone", "workers"])
def foreign(request):
    """Starts the service of another user."""
    if os.geteuid() != 0 or not shutil.which("setpriv"):
        pytest.skip("only root can become another user")
    if subprocess.run([*prefix(MAIL), "true"], capture_output=True).returncode:
        pytest.skip("no capability can be kept here")
    line = [*prefix(MAIL), MAYPOLE, "--bind", "127.0.0.1:0", "--access-logfile", "none", *request.param, "probe"]
    running = Server("probe", [], None, APPS, command=line)
    try:
        yield running.wait_ready()
    finally:
        running.kill()


def test_service_of_another_user_obeys_root_and_its_user_and_no_stranger(foreign):
    refusal = f"error: process {foreign.pid} belongs to user {MAIL}: give the command as {MAIL} or as root\n"
    for words in (["status"], ["requests"], ["dump"], ["top"], ["reload"], ["scale", "2"], ["drain"], ["stop"], ["quit"]):
        assert command(STRANGER, *words, foreign.pid) == (5, "", refusal), words
    assert foreign.get().status == 200
    assert command(MAIL, "log-level", "debug", foreign.pid) == (0, "the log level is debug\n", "")
    assert command(None, "status", foreign.pid)[0] == 0
    status, out, err = command(None, "reload", foreign.pid)
    assert (status, out[:9], err) == (0, "reloaded:", "")
    assert command(None, "stop", foreign.pid) == (0, "stopped\n", "")
    assert foreign.wait() == 0


def test_service_of_root_obeys_no_stranger(server, tmp_path):
    if os.geteuid() != 0 or not shutil.which("setpriv"):
        pytest.skip("only root can become another user")
    socket = tmp_path / "control"
    running = server("probe", "--control", socket)
    refusal = f"error: process {running.pid} belongs to user root: give the command as root\n"
    for words in (["status"], ["stop"]):
        assert command(STRANGER, *words, running.pid) == (5, "", refusal)
        # The capability of this stranger opens the file, and the service looks at the user.
        assert command(STRANGER, *words, "--control", socket) == (5, "", refusal)
    assert running.get().status == 200
