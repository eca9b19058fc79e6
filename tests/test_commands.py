"""The commands for a running service, such as `maypole status` and `maypole stop`."""

import contextlib
import json
import os
import re
import signal
import subprocess

import pytest

from client import PATIENCE
from process import MAYPOLE, ROOT, clean_environment, eventually, run

KINDS = pytest.mark.parametrize("kind", [(), ("-w", "2")], ids=["alone", "workers"])


def ask(running, *words):
    """Runs a command for a server. The result has returncode, stdout and stderr."""
    return run(*words, running.pid)


@pytest.fixture
def gated(server, tmp_path):
    """Starts a service with a request that waits inside the application. Gives it, the request's client, and the file
    that ends the wait."""
    gate = tmp_path / "gate"
    with contextlib.ExitStack() as stack:

        def start(*options):
            running = server("gated", *options, env={"GATE": str(gate)})
            client = stack.enter_context(running.client()).request("GET /gate0 HTTP/1.1")
            running.err.wait("called /gate0\n")
            return running, client, gate

        yield start


def is_connected(pid):
    """Returns whether a process has a socket."""
    with contextlib.suppress(OSError):
        folder = f"/proc/{pid}/fd"
        return any(os.readlink(f"{folder}/{name}").startswith("socket:") for name in os.listdir(folder))


@KINDS
def test_what_a_service_does_is_shown(server, kind):
    running = server("probe", *kind)
    with running.client() as client:
        client.send(b"GET /hold/a HTTP/1.1\r\nHost: a\r\n\r\n")
        # The frame shows that the call waits.
        rows = eventually(lambda: (rows := json.loads(ask(running, "requests", "--json").stdout)["requests"])
                          and '"hold"' in json.dumps(rows) and rows, what="the request")
        assert [row["request"] for row in rows] == ["GET /hold/a HTTP/1.1"]
        shown = ask(running, "status")
        assert (shown.returncode, shown.stderr) == (0, "")
        lines = shown.stdout.splitlines()
        assert lines[0].startswith("probe: maypole ") and f"pid {running.pid}, up " in lines[0]
        assert lines[1].startswith("ready: ") and lines[4].split()[:3] == ["worker", "pid", "state"]
        assert [line.split()[0] for line in lines[5:]] == (["1", "2"] if kind else ["1"])
        numbers = json.loads(ask(running, "status", "--json").stdout)
        assert numbers["pid"] == running.pid and len(numbers["processes"]) == (2 if kind else 1)
        worker = numbers["processes"][-1]["pid"]
        alone = json.loads(run("status", "--json", worker).stdout)
        assert (alone["pid"], alone["wanted"], [one["pid"] for one in alone["processes"]]) == (worker, 1, [worker])
        assert "processes that serve: 1 of 1" in run("top", worker).stdout
        # A worker that does not answer in time is shown with less.
        table = eventually(lambda: "hold (" in (table := ask(running, "requests")).stdout and table, what="the frame")
        assert table.returncode == 0 and table.stdout.split()[:3] == ["age", "phase", "worker" if kind else "client"]
        assert "GET /hold/a HTTP/1.1" in table.stdout
        stacks = eventually(lambda: "in hold" in (stacks := ask(running, "dump")).stdout and stacks, what="the stack")
        assert stacks.returncode == 0
        running.kill()


def test_number_of_workers_is_changed(server):
    running = server("probe", "-w", "1")
    scaled = ask(running, "scale", "3")
    assert (scaled.returncode, scaled.stdout) == (0, "scaled: 3 workers\n"), scaled.stderr
    running.err.wait("maypole scale: from 1 worker to 3")
    numbers = json.loads(ask(running, "status", "--json").stdout)
    assert [one["number"] for one in numbers["processes"] if one["state"] == "serving"] == [1, 2, 3]
    assert ask(running, "scale", "1").stdout == "scaled: 1 worker\n"
    eventually(lambda: len(json.loads(ask(running, "status", "--json").stdout)["processes"]) == 1, what="the end of two")


def test_worker_that_does_not_come_up_fails_the_command(server, tmp_path):
    code = "import os\nif os.path.exists('full'): raise ValueError('no room')\nfrom wsgiref.simple_server import demo_app\n"
    (tmp_path / "second.py").write_text(code)
    running = server("second:demo_app", "-w", "1", cwd=tmp_path)
    (tmp_path / "full").touch()
    scaled = ask(running, "scale", "2")
    assert scaled.returncode == 1 and "worker 2 of 2 workers does not come up" in scaled.stderr
    assert running.get().status == 200
    (tmp_path / "full").unlink()
    assert ask(running, "scale", "1").returncode == 0


def test_process_without_workers_cannot_be_scaled(server):
    running = server("probe")
    scaled = ask(running, "scale", "2")
    assert scaled.returncode == 1 and "--workers" in scaled.stderr


@KINDS
def test_stop_lets_requests_end_and_waits_for_the_end(gated, tmp_path, kind):
    pid = tmp_path / "pid"
    running, client, gate = gated("--pid", pid, *kind)
    # The second command does not end the requests, as a second signal would.
    first, second = [subprocess.Popen([MAYPOLE, "stop", str(running.pid)], stdout=subprocess.PIPE) for _ in range(2)]
    for process in (first, second):
        eventually(lambda process=process: is_connected(process.pid), what="that the command asks")
    running.err.wait("maypole stop: stopping")
    gate.touch()
    assert client.response().status == 200
    assert (first.wait(PATIENCE), second.wait(PATIENCE)) == (0, 0)
    assert first.stdout.read() == b"stopped\n"
    first.stdout.close(), second.stdout.close()
    assert not pid.exists()
    assert running.wait() == 0
    assert "maypole stop: stopping" in running.err.text() and "at once" not in running.err.text()


@KINDS
def test_quit_cuts_requests_off(server, kind):
    running = server("probe", *kind)
    with running.client() as client:
        client.send(b"GET /hold/a HTTP/1.1\r\nHost: a\r\n\r\n")
        eventually(lambda: json.loads(ask(running, "requests", "--json").stdout)["requests"], what="the request")
        ended = ask(running, "quit")
        assert (ended.returncode, ended.stdout) == (0, "stopped\n"), ended
    assert running.wait() == 0
    assert "maypole quit: stopping" in running.err.text() and "second signal" not in running.err.text()


def test_process_that_imports_the_application_is_stopped_at_once(server, tmp_path):
    (tmp_path / "slow.py").write_text("print('imports', flush=True)\nimport time\ntime.sleep(1000)\n")
    running = server("slow:app", cwd=tmp_path, ready=False)
    running.out.wait("imports")
    assert ask(running, "status").stdout.splitlines()[1] == "starting: the application is being imported"
    assert ask(running, "status").returncode == 1
    assert ask(running, "stop").stdout == "stopped\n"
    assert running.wait() == -signal.SIGTERM


@KINDS
def test_drained_service_stays_and_is_not_ready(gated, kind):
    running, client, gate = gated(*kind)
    command = [MAYPOLE, "drain", str(running.pid)]
    draining = subprocess.Popen(command, env=clean_environment(), stdout=subprocess.PIPE, text=True)
    eventually(lambda: "\ndraining: " in ask(running, "status").stdout, what="that it drains")
    gate.touch()
    assert client.response().status == 200
    drained, _ = draining.communicate(timeout=PATIENCE)
    assert draining.returncode == 0 and drained.startswith("drained: "), drained
    shown = ask(running, "status")
    assert shown.returncode == 1 and shown.stdout.splitlines()[1].startswith("draining: ")
    assert ask(running, "drain").returncode == 0
    if kind:
        assert ask(running, "scale", "1").returncode == 0
        assert running.get().status == 200
    else:
        with pytest.raises(ConnectionRefusedError):
            running.client()


@KINDS
def test_log_level_is_changed(server, kind):
    running = server("probe", *kind, "--log-level", "warning", ready=False)
    # The "listening" line has the level info.
    eventually(lambda: ask(running, "status").returncode == 0, what="a service that is ready")
    changed = ask(running, "log-level", "debug")
    assert (changed.returncode, changed.stdout) == (0, "the log level is debug\n")
    running.err.wait("maypole log-level: the log level is debug instead of warning")
    if kind:
        start = len(running.err.text())
        assert ask(running, "scale", "3").returncode == 0
        running.err.wait(r"\[DEBUG\] worker 3 of 2 serves", start=start)
        assert ask(running, "reload").returncode == 0
        start = len(running.err.text())
        assert ask(running, "scale", "1").returncode == 0
        assert "maypole scale" not in running.err.text()[start:]


@pytest.mark.parametrize("words, sentence", [
    (["scale"], "N is missing; usage: maypole scale N [PID"),
    (["log-level", "loud", "1"], "'loud' is no level: expected one of debug, info, warning, error, critical"),
    (["scale", "many", "1"], "'many' is no number of workers"),
    (["scale", "0", "1"], "expected a whole number from 1 to 256"),
    (["scale", "10000", "1"], "'10000' is no number of workers: expected a whole number from 1 to 256"),
    (["status", "shop"], "'shop' is no process number; usage: maypole status [--json] [PID"),
    (["status", str(ROOT / "README.md")], "README.md' is no process number; for the PID in this file, write --pid /"),
    (["log-level", "4711"], "; the level comes before the PID; usage: maypole log-level LEVEL [PID"),
    (["request", "4711"], "'4711' is one argument too many; did you mean the command 'maypole requests'?"),
    (["dump", "--json"], "there is no option --json"),
    (["status", "1", "2"], "name one service"),
])
def test_wrong_words_are_a_usage_error(words, sentence):
    ended = run(*words)
    assert ended.returncode == 2 and sentence in ended.stderr, ended


def test_several_services_are_listed_with_their_applications(server):
    running = [server("probe"), server("probe", "-w", "1")]
    ended = run("requests")
    assert ended.returncode == 1 and "there are several services; give the PID of one:" in ended.stderr, ended
    for one in running:
        assert re.search(rf"^  {one.pid}  .*maypole.*probe", ended.stderr, re.M), ended.stderr


def test_word_that_is_neither_application_nor_command_is_explained():
    for word, end in [("dumps", "; did you mean the command 'maypole dump'?\n"), ("help", "; maypole --help lists the options and the commands\n")]:
        ended = run(word, "-b", "127.0.0.1:0")
        assert ended.returncode == 4 and f"there is no module '{word}'" in ended.stderr and ended.stderr.endswith(end), ended


def test_service_that_is_not_there_is_a_failure(tmp_path):
    gone = tmp_path / "gone.pid"
    for words in (["status", os.getpid()], ["dump", "--pid", gone], ["scale", "2", "--control", tmp_path / "gone"]):
        ended = run(*words)
        assert ended.returncode == 1 and ended.stderr.startswith("error: "), ended


def test_application_with_the_name_of_a_command_is_named(tmp_path):
    (tmp_path / "status.py").touch()
    (tmp_path / "stop").mkdir()
    (tmp_path / "stop" / "__init__.py").touch()
    assert "write maypole ./status.py" in run("status", "-b", "127.0.0.1:0", cwd=tmp_path).stderr
    assert "name its callable: maypole stop:app" in run("stop", "--pid", "gone", cwd=tmp_path).stderr
    assert "to serve" not in run("dump", "--pid", "gone", cwd=tmp_path).stderr


def test_each_command_explains_itself():
    for name in ("status", "requests", "dump", "top", "reload", "scale", "drain", "stop", "quit", "log-level"):
        ended = run(name, "--help")
        assert ended.returncode == 0 and ended.stdout.startswith(f"usage: maypole {name} ")
