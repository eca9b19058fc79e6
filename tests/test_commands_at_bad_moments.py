"""Commands for a service that starts, that reloads, or that stops."""

import os

import pytest

from process import APPS, eventually, run
from test_reload_alone import outcome, started

KINDS = pytest.mark.parametrize("kind", [(), ("-w", "2")], ids=["alone", "workers"])

#: An application that waits at its import until a test has written to the FIFO `gate`.
GATED = """
import os
from probe import application
count = len(os.listdir("imports"))
open(f"imports/{count}", "x").close()
open("gate").read()
"""


def ask(running, *words):
    return run(*words, running.pid)


@pytest.fixture
def gated(server, tmp_path):
    """Starts an application that is imported once the test opens the gate."""
    os.mkfifo(tmp_path / "gate")
    (tmp_path / "imports").mkdir()
    (tmp_path / "shop.py").write_text(GATED)

    def start(*kind):
        running = server("shop:application", *kind, "--pythonpath", APPS, cwd=tmp_path, ready=False)
        running.wait_import = lambda number: eventually((tmp_path / "imports" / str(number)).exists, what="the import")
        running.wait_import(0)
        running.code = tmp_path / "shop.py"
        running.open_gate = lambda: (tmp_path / "gate").write_text("open")
        return running

    return start


def test_process_that_starts_says_what_it_cannot_do(gated):
    running = gated()
    assert "starting: the application is being imported" in ask(running, "status").stdout
    for words, sentence in (
        (["reload"], "the application is still being imported"),
        (["drain"], "the application is still being imported"),
        (["scale", "2"], "has no supervisor, so it has no workers"),
    ):
        ended = ask(running, *words)
        assert ended.returncode == 1 and sentence in ended.stderr
    assert ask(running, "log-level", "debug").returncode == 0
    running.open_gate()
    assert running.wait_ready().get().status == 200


def test_reload_of_a_service_that_starts_follows_the_start(gated):
    running = gated("-w", "1")
    with started("reload", running.pid) as reload:
        running.err.wait("maypole reload: reloading")
        running.code.write_text("from probe import application\n")
        running.open_gate()
        assert outcome(reload) == (0, "reloaded: 1 worker with the new settings\n", "")
    assert running.wait_ready().get().status == 200


@KINDS
def test_service_that_stops_refuses_changes_and_can_be_ended(server, kind):
    running = server("probe", *kind)
    with running.client() as client:
        client.request("GET /hold/a HTTP/1.1")
        eventually(lambda: "/hold/a" in ask(running, "requests").stdout, what="the request")
        with started("stop", running.pid) as stop:
            running.err.wait("maypole stop: stopping")
            for words, sentence in (
                (["reload"], "nothing is reloaded, because the "),
                (["scale", "3"], "the service stops" if kind else "has no supervisor"),
                (["drain"], "the service stops" if kind else "the process stops"),
            ):
                ended = ask(running, *words)
                assert ended.returncode == 1 and sentence in ended.stderr, ended
            shown = ask(running, "status")
            assert shown.returncode == 1 and shown.stdout.splitlines()[1] == "draining: the service stops"
            assert "/hold/a" in ask(running, "requests").stdout
            assert ask(running, "quit").stdout == "stopped\n"
            assert outcome(stop) == (0, "stopped\n", "")
    assert running.wait() == 0


def test_stop_during_a_reload_of_workers_ends_the_service(gated):
    running = gated("-w", "1")
    running.open_gate()
    running.wait_ready()
    with started("reload", running.pid) as reload:
        running.wait_import(1)
        assert ask(running, "stop").stdout == "stopped\n"
        assert outcome(reload) == (1, "", "error: nothing is reloaded, because the service stops\n")
    assert running.wait() == 0
