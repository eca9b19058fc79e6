"""`manage.py runmaypole` with its reloader and static files, and Django's live server for tests."""

import pathlib
import shutil
import signal

import pytest

from process import EXAMPLES, PROGRAMS
from running import change, program, see

# Django 6 names the kind of server.
STARTED = r"Starting (?:WSGI )?development server at http://[^:]*:(\d+)/"


@pytest.fixture
def site(tmp_path):
    pytest.importorskip("django")
    shutil.copytree(EXAMPLES / "django_site", tmp_path, dirs_exist_ok=True)
    return tmp_path


def runmaypole(server, site, *arguments, **more):
    return program(server, "manage.py", "runmaypole", "127.0.0.1:0", *arguments, cwd=site, ready=STARTED, out=True, **more)


def test_runmaypole_serves_the_site_and_its_static_files(server, site):
    import django
    running = runmaypole(server, site, "--noreload")
    response = running.get()
    assert (response.body, response.get("Server")) == (b"Hello from Django\n", "maypole")
    path = "admin/css/base.css"
    expected = (pathlib.Path(django.__file__).parent / "contrib/admin/static" / path).read_bytes()
    assert running.get("/static/" + path).body == expected
    assert running.get("/nowhere").status == 404
    running.err.wait(r'"GET / HTTP/1.1" 200 18')
    running.err.wait(r'"GET /nowhere HTTP/1.1" 404 \d+')
    running.signal(signal.SIGINT)
    assert running.wait() == 0


def test_runmaypole_reloads(server, site):
    running = runmaypole(server, site)
    with running.client() as idle:
        assert idle.get().body == b"Hello from Django\n"
        said = len(running.out.text())
        change(running, site / "manage.py", 'HttpResponse("Hello from', 'HttpResponse("Hello again from', "changed, reloading")
        see(running, STARTED, out=True, start=said)
        assert running.get().body == b"Hello again from Django\n"
        # The process with the old code has ended, although a client was connected.
        idle.assert_closed()
    running.signal(signal.SIGINT)
    running.wait()


def test_runmaypole_takes_settings(server, site):
    running = runmaypole(server, site, "--noreload", "--server-header", "shop", "--nothreading")
    assert running.get().get("Server") == "shop"
    running.signal(signal.SIGINT)
    assert running.wait() == 0


def test_runmaypole_with_workers_serves_and_logs_requests(server, site):
    ready = r"listening on http://127.0.0.1:(\d+).*2 workers"
    command = ["manage.py", "runmaypole", "127.0.0.1:0", "--workers", "2"]
    running = program(server, *command, "--noreload", cwd=site, ready=ready)
    assert running.get().body == b"Hello from Django\n"
    running.out.wait(r'"GET / HTTP/1.1" 200 18')
    running.signal(signal.SIGINT)
    assert running.wait() == 0
    refused = program(server, *command, cwd=site, ready=None)
    assert refused.wait() != 0
    assert "the reloader restarts one process, not workers: add --noreload" in refused.err.wait_end()


def test_runmaypole_that_gets_sigterm_right_after_an_answer_loses_no_access_line(server, site):
    for _ in range(3):
        running = runmaypole(server, site, "--noreload")
        with running.client() as client:
            client.request("GET /last HTTP/1.1", "Connection: close").head()
            running.signal(signal.SIGTERM)
            assert running.wait() == 0
        assert '"GET /last HTTP/1.1" 404' in running.err.wait_end()


@pytest.mark.parametrize("arguments, sentence", [
    (("--threads", "many"), "threads"),
    (("--thread-count", "1"), "unrecognized arguments: --thread-count"),
])
def test_runmaypole_with_wrong_settings_says_so(server, site, arguments, sentence):
    running = program(server, "manage.py", "runmaypole", "127.0.0.1:0", "--noreload", *arguments, cwd=site, ready=None)
    assert running.wait() != 0
    text = running.err.wait_end()
    assert sentence in text and "Traceback" not in text


@pytest.mark.parametrize("database", ["", "test.sqlite3"], ids=["in memory", "in a file"])
def test_live_server_of_the_test_runner(server, tmp_path, database):
    pytest.importorskip("django")
    shutil.copytree(PROGRAMS / "django_live", tmp_path, dirs_exist_ok=True)
    name = str(tmp_path / database) if database else ""
    running = program(server, "manage.py", "test", "--noinput", cwd=tmp_path, env={"DJANGO_DATABASE": name}, ready=None)
    code = running.wait(60)
    text = running.err.wait_end()
    assert code == 0, text
    assert "Ran 5 tests" in text and "ResourceWarning" not in text
