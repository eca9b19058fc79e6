"""The commands for a running service: `maypole status`, `requests`, `dump`, `reload`, `scale`."""

import json
import os

import pytest

from process import eventually, run

KINDS = pytest.mark.parametrize("kind", [(), ("-w", "2")], ids=["alone", "workers"])


def ask(running, *words):
    """Runs a command for a server. The result has returncode, stdout and stderr."""
    return run(*words, running.pid)


@KINDS
def test_what_a_service_does_is_shown(server, kind):
    running = server("probe", *kind)
    with running.client() as client:
        client.send(b"GET /hold/a HTTP/1.1\r\nHost: a\r\n\r\n")
        rows = eventually(lambda: json.loads(ask(running, "requests", "--json").stdout)["requests"], what="the request")
        assert [row["request"] for row in rows] == ["GET /hold/a HTTP/1.1"]
        shown = ask(running, "status")
        assert (shown.returncode, shown.stderr) == (0, "")
        lines = shown.stdout.splitlines()
        assert lines[0].startswith("probe: maypole ") and f"pid {running.pid}, up " in lines[0]
        assert lines[1].startswith("ready: ") and lines[4].split()[:3] == ["worker", "pid", "state"]
        assert [line.split()[0] for line in lines[5:]] == (["1", "2"] if kind else ["1"])
        numbers = json.loads(ask(running, "status", "--json").stdout)
        assert numbers["pid"] == running.pid and len(numbers["processes"]) == (2 if kind else 1)
        table = ask(running, "requests")
        assert table.returncode == 0 and table.stdout.split()[:3] == ["age", "phase", "worker"]
        assert "GET /hold/a HTTP/1.1" in table.stdout and "hold (" in table.stdout
        stacks = ask(running, "dump")
        assert stacks.returncode == 0 and "in hold" in stacks.stdout
        running.kill()


def test_number_of_workers_is_changed(server):
    running = server("probe", "-w", "1")
    scaled = ask(running, "scale", "3")
    assert (scaled.returncode, scaled.stdout) == (0, "scaled: 3 workers\n"), scaled.stderr
    assert "maypole scale: from 1 worker to 3" in running.err.text()
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


@pytest.mark.parametrize("words, sentence", [
    (["scale"], "N is missing; usage: maypole scale N [PID"),
    (["scale", "many", "1"], "'many' is no number of workers"),
    (["scale", "0", "1"], "expected a whole number from 1 to 256"),
    (["status", "shop"], "'shop' is no process number; usage: maypole status [--json] [PID"),
    (["dump", "--json"], "there is no option --json"),
    (["status", "1", "2"], "name one service"),
])
def test_wrong_words_are_a_usage_error(words, sentence):
    ended = run(*words)
    assert ended.returncode == 2 and sentence in ended.stderr, ended


def test_service_that_is_not_there_is_a_failure(tmp_path):
    gone = tmp_path / "gone.pid"
    for words in (["status", os.getpid()], ["dump", "--pid", gone], ["scale", "2", "--control", tmp_path / "gone"]):
        ended = run(*words)
        assert ended.returncode == 1 and ended.stderr.startswith("error: "), ended


def test_each_command_explains_itself():
    for name in ("status", "requests", "dump", "reload", "scale"):
        ended = run(name, "--help")
        assert ended.returncode == 0 and ended.stdout.startswith(f"usage: maypole {name} ")
