"""What the log says of a start and of a stop: few lines, however many workers there are."""

import os
import re
import signal

import pytest

from test_workers import serving, workers

#: A file of gunicorn with hooks. Maypole never calls the last one.
GUNICORN = """
workers = 2
def when_ready(server): pass
def post_fork(server, worker): pass
def worker_exit(server, worker): pass
def worker_int(worker): print("interrupted")
"""

#: The kinds of a start, with what the log says of each, besides where the service listens.
STARTS = {
    "alone": ([], []),
    "workers": (["-w", "4"], []),
    "preload": (["-w", "2", "--preload"], []),
    "reload": (["--reload"], []),
    "status": (
        ["-w", "2", "-c", "maypole.toml", "--status-bind", "127.0.0.1:0", "--control", "commands"],
        ["settings from maypole.toml", r"status and metrics on http://127\.0\.0\.1:\d+; commands on unix:\S+/commands"],
    ),
    "gunicorn": (["-c", "gunicorn.conf.py"], ["gunicorn.conf.py: 2 settings have no effect here, or a different one:"]),
}


def messages(text):
    """Returns the first lines of the log's entries, without time, process and level."""
    return re.findall(r"^\[2.*?\] \[\d+\] \[\w+\] (.*)$", text, re.M)


@pytest.mark.parametrize("kind", STARTS)
def test_start_has_three_lines_at_most_and_a_stop_two(server, tmp_path, kind):
    options, said = STARTS[kind]
    (tmp_path / "shop.py").write_text("from wsgiref.simple_server import demo_app as application\n")
    (tmp_path / "maypole.toml").write_text("[maypole]\nthreads = 4\n")
    name = "gunicorn.conf.py" if kind == "gunicorn" else "unread.conf.py"
    (tmp_path / name).write_text(GUNICORN)
    running = server("shop", *options, cwd=tmp_path)
    assert running.get().status == 200
    before = len(running.err.text())
    running.stop()
    text = running.err.text()
    start, stop = messages(text[:before]), messages(text[before:])
    assert len(start) == len(said) + 1 <= 3 and start[-1].startswith("maypole "), text
    assert all(re.fullmatch(pattern, line) for pattern, line in zip(said, start)), text
    assert len(stop) == 2 and stop[0].startswith("SIGTERM: stopping"), text
    assert re.fullmatch(r"stopped .* after SIGTERM: every request has ended", stop[1]), text
    assert text.count("worker_int") == (kind == "gunicorn"), text


def test_line_of_the_start_names_the_workers_and_the_template(server):
    running = server("probe", "-w", "3", "--preload")
    line = messages(running.err.text())[-1]
    template = int(re.search(r", 3 workers \(pid [\d, ]+\), forked by the template \(pid (\d+)\)$", line)[1])
    assert sorted([template, *serving(running).values()]) == sorted(workers(running)), line


def test_end_of_a_stop_counts_what_was_cut_off(server):
    running = server("probe", "-w", "1", "--graceful-timeout", "1s")
    with running.client() as client:
        client.request("GET /hold/a HTTP/1.1")
        assert running.get("/held/a").body == b"yes"
        running.stop()
    text = running.err.text()
    assert re.search(r"\[WARNING\] stopped .* after SIGTERM: 1 request was cut off\n\Z", text), text
    assert len(messages(text.partition("SIGTERM")[2])) == 2, text


def test_end_of_a_stop_counts_workers_that_were_killed(server):
    running = server("probe", "-w", "2")
    pid = serving(running)[1]
    os.kill(pid, signal.SIGSTOP)
    running.signal(signal.SIGTERM)
    running.err.wait("SIGTERM: stopping 2 workers")
    os.kill(pid, signal.SIGKILL)
    assert running.wait() == 0
    assert re.search(r"\[WARNING\] stopped .* after SIGTERM: 1 worker did not stop by itself\n\Z", running.err.text())
