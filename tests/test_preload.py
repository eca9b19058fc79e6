"""`--preload`: one process imports the application, and forks the workers."""

import json
import os
import pathlib
import re
import signal


import pytest

from process import eventually
from test_workers import SERVES, serving

#: The line of the first template and its workers, or that of a later template.
READY = r"(?:forked by the|\] the) template \(pid (\d+)\)"

APP = """
import json, os
VERSION, IMPORTED_IN = %r, os.getpid()

def application(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [json.dumps([VERSION, IMPORTED_IN, os.getpid()]).encode()]
"""


@pytest.fixture
def shop(server, tmp_path):
    """Starts a preloaded application whose code a test can change. The result has `write` and `facts`."""
    code = tmp_path / "shop.py"

    def start(*args, text=APP % "first", **more):
        code.write_text(text)
        running = server("shop", "--preload", *args, cwd=tmp_path, **more)
        running.write = code.write_text
        running.facts = lambda: json.loads(running.get().body)
        return running

    return start


def template(running, start=0):
    return int(running.err.wait(READY, start=start)[1])


def facts(running):
    return json.loads(running.get().body)


@pytest.mark.smoke
def test_workers_share_one_import(server):
    running = server("preloaded", "--preload", "-w", "3")
    imported_in = template(running)
    pids, seen, numbers = set(serving(running).values()), {}, set()
    while set(seen) != pids:
        found = facts(running)
        seen[found["pid"]] = found
        numbers.add(found["random"])
    assert all(found["imported_in"] == imported_in and found["parent"] == running.pid for found in seen.values())
    assert all(found["frozen"] and found["multiprocess"] and not found["run_once"] for found in seen.values())
    assert len(numbers) >= len(pids), "the workers draw the same random numbers"
    running.stop()
    eventually(lambda: not any(pathlib.Path(f"/proc/{pid}").exists() for pid in [imported_in, *pids]))
    # What the import has left in a buffer is written once.
    assert running.out.text() == "imported"


def test_application_itself_is_not_imported_by_workers_without_it(server):
    running = server("preloaded", "-w", "2")
    found = facts(running)
    assert found["imported_in"] == found["pid"] and not found["frozen"]


def test_threads_of_the_import_are_named(server):
    running = server("preloaded:start_thread()", "--preload")
    running.err.wait(r"the import has started 1 thread, which the workers do not have \('refresher'\): start threads in")
    assert not any("refresher" in name for name in facts(running)["threads"])


def private_kib(pid):
    """Returns how much memory a process does not share with others."""
    text = pathlib.Path(f"/proc/{pid}/smaps_rollup").read_text()
    return sum(int(kib) for kib in re.findall(r"^Private_\w+:\s+(\d+) kB", text, re.M))


def test_workers_share_the_memory_of_the_import(server, tmp_path):
    (tmp_path / "large.py").write_text("""
DATA = [str(number) for number in range(600_000)]

def application(environ, start_response):
    start_response("200 OK", [])
    return [DATA[-1].encode()]
""")

    def largest(*options):
        running = server("large", "-w", "2", *options, cwd=tmp_path)
        assert running.get().body == b"599999"
        return max(private_kib(pid) for pid in serving(running).values())

    assert largest("--preload") < largest() / 2


def test_reload_brings_new_code_by_a_new_template(shop):
    running = shop("-w", "2")
    old, start = template(running), len(running.err.text())
    assert running.facts()[:2] == ["first", old]
    running.write(APP % "second")
    running.signal(signal.SIGHUP)
    running.err.wait("reloaded: 2 workers", start=start)
    new = template(running, start)
    assert new != old and running.facts()[:2] == ["second", new]
    eventually(lambda: not pathlib.Path(f"/proc/{old}").exists(), what="the end of the old template")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("import nosuch\n", "No module named 'nosuch'"),
        ("import os\nos._exit(7)\n", "exit status 7"),
        ("import time\ntime.sleep(1000)\n", "not started within 500 ms"),
    ],
)
def test_broken_new_version_keeps_the_old_template(shop, tmp_path, text, reason):
    settings = tmp_path / "maypole.toml"
    settings.write_text("[maypole]\n")
    running = shop("-w", "2", "-c", settings)
    old, start = template(running), len(running.err.text())
    running.write(text)
    if "sleep" in text:
        settings.write_text("[maypole]\nworker_start_timeout = '500ms'\n")
    running.signal(signal.SIGHUP)
    failed = running.err.wait(r"the reload has failed, and the old code serves: (.*)", start=start)[1]
    assert reason in failed, failed
    assert running.facts()[:2] == ["first", old]
    # The old template still forks.
    pid = serving(running)[1]
    os.kill(pid, signal.SIGKILL)
    running.err.wait(rf"worker 1 \(pid (?!{pid}\))\d+\) serves", start=start)
    assert {running.facts()[1] for _ in range(8)} == {old}


def test_template_that_dies_is_started_again(shop):
    running = shop("-w", "1")
    old, start, pid = template(running), len(running.err.text()), serving(running)[1]
    os.kill(old, signal.SIGKILL)
    running.err.wait(rf"the template \(--preload, pid {old}\) has ended unexpectedly: signal SIGKILL", start=start)
    assert running.facts() == ["first", old, pid]
    os.kill(pid, signal.SIGKILL)
    running.err.wait(SERVES, start=start)
    assert running.facts()[1] == template(running, start) != old


@pytest.mark.parametrize(("text", "code"), [("import nosuch\n", 4), ("import os\nos._exit(7)\n", 4)])
def test_import_that_fails_at_the_start_ends_the_service(shop, text, code):
    running = shop("-w", "2", text=text, ready=False)
    assert running.wait() == code
    assert "worker 1 cannot start: " in running.err.text() or "has ended before it served" in running.err.text()


def test_hooks_around_the_fork_run_in_the_template_and_in_the_worker(shop, tmp_path):
    (tmp_path / "hooks.py").write_text("""
import os
LOADED_IN = os.getpid()
def pre_fork(server, worker): server.log.info("pre_fork %d in %d", worker.age, os.getpid())
def post_fork(server, worker): server.log.info("post_fork %d in %d, loaded in %d", worker.age, os.getpid(), LOADED_IN)
def post_worker_init(worker): worker.log.info("post_worker_init in %d", os.getpid())
def worker_exit(server, worker): server.log.info("worker_exit in %d after %d", os.getpid(), worker.nr)
""")
    running = shop("-w", "1", "--hooks", "hooks.py")
    parent, pid = template(running), serving(running)[1]
    assert running.get().status == 200
    running.stop()
    text = running.err.text()
    for line in [
        f"pre_fork 1 in {parent}",
        f"post_fork 1 in {pid}, loaded in {parent}",
        f"post_worker_init in {pid}",
        f"worker_exit in {pid} after 1",
    ]:
        assert text.count(line + "\n") == 1, line
