"""`maypole reload` of a process without workers: it starts again in the same process, and the command waits for that."""

import contextlib
import os
import subprocess

import pytest

from client import PATIENCE
from process import MAYPOLE, clean_environment
from test_reload import GOOD, reload, shop  # noqa: F401

TRYING = "maypole reload: trying the new settings and the new code"

#: An application whose second import waits until a test writes to the FIFO `gate`, and whose third does not.
GATED = """
import os
from probe import application
count = len(os.listdir("imports"))
open(f"imports/{count}", "x").close()
if count == 1:
    open("gate").read()
"""


@contextlib.contextmanager
def started(*words):
    """Runs a command in the background. Ends it at the end, if it has not ended."""
    command = [MAYPOLE, *map(str, words)]
    with subprocess.Popen(command, env=clean_environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


def outcome(process):
    """Waits for a command. Returns its exit status, its output and its errors."""
    out, err = process.communicate(timeout=PATIENCE)
    return process.returncode, out, err


def reloaded(running):
    return 0, f"reloaded: process {running.pid} serves the new code with the new settings\n", ""


@pytest.fixture
def gated(server, tmp_path):
    """Starts an application whose code is tried at a reload once the test opens the gate."""
    (tmp_path / "imports").mkdir()
    os.mkfifo(tmp_path / "gate")
    (tmp_path / "shop.py").write_text(GATED)
    running = server("shop:application", "--pythonpath", os.path.dirname(__file__) + "/apps", cwd=tmp_path)
    running.open_gate = lambda: (tmp_path / "gate").write_text("open")
    return running


def test_new_code_serves_once_the_command_succeeds(shop):  # noqa: F811
    running = shop()
    with running.client() as client:
        assert client.get("/").body == b"first"
        running.write(GOOD % "second")
        ended = reload(running)
        assert (ended.returncode, ended.stdout, ended.stderr) == reloaded(running)
        assert client.get("/").body == b"second"


def test_broken_code_fails_the_command_and_the_old_code_serves(shop):  # noqa: F811
    running = shop()
    for text, reason in (("def application(:\n", "SyntaxError"), ("import nosuch\n", "No module named 'nosuch'")):
        running.write(text)
        ended = reload(running)
        assert (ended.returncode, ended.stdout) == (1, "")
        assert ended.stderr.startswith("error: the reload has failed, and the old code serves: the new code does not come up")
        assert reason in ended.stderr
        assert running.body() == "first"
    running.write(GOOD % "mended")
    assert reload(running).returncode == 0
    assert running.body() == "mended"


def test_settings_are_read_anew_and_wrong_ones_fail_the_command(shop, tmp_path):  # noqa: F811
    settings = tmp_path / "maypole.toml"
    settings.write_text("[maypole]\nthreads = 2\n")
    running = shop("-c", settings)
    settings.write_text("[maypole]\nthreads = 'many'\n")
    ended = reload(running)
    assert ended.returncode == 1 and "many" in ended.stderr
    assert running.body() == "first"
    settings.write_text("[maypole]\npool_size = 7\n")
    assert reload(running).returncode == 0
    running.err.wait("pool size 7")
    # A supervisor takes the place of the program, and its workers serve on another socket of the same address.
    settings.write_text("[maypole]\nworkers = 2\n")
    ended = reload(running)
    assert (ended.returncode, ended.stdout) == (0, "reloaded: a supervisor has started, and 2 workers serve\n"), ended.stderr


def test_code_that_comes_up_only_once_fails_the_command(shop, tmp_path):  # noqa: F811
    running = shop()
    running.write("import os\nos.mkdir('tried')\n" + GOOD % "second")
    ended = reload(running)
    assert ended.returncode == 1
    running.err.wait("FileExistsError")
    assert f"process {running.pid} has started again, and ends because it does not come up" in ended.stderr
    assert running.wait() == 4


def test_reloads_at_the_same_time_all_learn_the_outcome(gated):
    with started("reload", gated.pid) as first, gated.client() as client:
        gated.err.wait(TRYING)
        client.request("GET /sleep?s=2 HTTP/1.1")
        with started("reload", gated.pid) as second:
            gated.err.wait("maypole reload: the new code is tried once more")
            gated.open_gate()
            gated.err.wait("maypole reload: stopping")
            # It comes while the request still runs, or on a slow machine after that.
            with started("reload", gated.pid) as third:
                assert [outcome(one) for one in (first, second, third)] == [reloaded(gated)] * 3
        assert client.response().status == 200


def test_stop_during_a_reload_ends_the_process(gated):
    with started("reload", gated.pid) as reload:
        gated.err.wait(TRYING)
        with started("stop", gated.pid) as stop:
            assert outcome(reload) == (1, "", "error: nothing is reloaded, because the process stops\n")
            assert outcome(stop) == (0, "stopped\n", "")
    # The process that tries the code ends with it, although the gate is closed.
    gated.err.wait_end()
    assert gated.wait() == 0


@pytest.mark.parametrize("command", ["stop", "quit"])
def test_process_that_is_about_to_start_again_can_be_ended(server, tmp_path, command):
    running = server("gated", env={"GATE": str(tmp_path / "gate")})
    with running.client() as client:
        client.request("GET /gate HTTP/1.1")
        running.err.wait("called /gate")
        with started("reload", running.pid) as reload:
            running.err.wait("maypole reload: stopping; 1 request")
            with started(command, running.pid) as end:
                if command == "stop":
                    assert outcome(reload) == (1, "", "error: nothing is reloaded, because the process stops\n")
                    (tmp_path / "gate").touch()
                    assert client.response().status == 200
                else:
                    assert outcome(reload)[:2] == (1, "")
                assert outcome(end) == (0, "stopped\n", "")
    assert running.wait() == 0
    assert "starting again" not in running.err.text()
