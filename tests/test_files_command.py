"""`maypole files DIR`: a process that serves the files of a directory and nothing else, without Python."""

import contextlib
import re
import signal

import pytest

from client import Client
from process import MAYPOLE, eventually, run, thread_names
from tls import TLS, TlsClient, context

# Python does not start with this home.
NO_PYTHON = {"PYTHONHOME": "/nowhere"}
LISTENING = r"maypole \S+ \(without Python\), pid \d+, listening on (.+?), files of (.*)\n"


@pytest.fixture
def site(tmp_path):
    root = tmp_path / "public"
    (root / "deep").mkdir(parents=True)
    (root / "index.html").write_text("<p>index")
    (root / "deep" / "a.css").write_text("body {}")
    (root / ".env").write_text("secret")
    return root


@pytest.fixture
def serving(server):
    """Starts `maypole files` with these words, in an environment in which Python cannot start."""

    def start(*words, env=NO_PYTHON, **more):
        command = [MAYPOLE, "files", *map(str, words)]
        started = server("files", command=command, ready=False, env=env, **more)
        started.addresses = started.err.wait(LISTENING)[1].split(", ")
        return started

    return start


def threads(pid):
    return set(thread_names(pid).values())


def test_directory_is_served_without_python(serving, server, site):
    running = serving(site, "--bind", "127.0.0.1:0")
    with running.client() as client:
        answer = client.get("/")
        assert (answer.status, answer.body, answer.get("Content-Type")) == (200, b"<p>index", "text/html; charset=utf-8")
        assert client.get("/deep/a.css").get("ETag") and client.get("/deep").status == 404
        assert client.get("/.env").status == 404 and client.get("/none").status == 404
        assert client.post("/", b"x").status == 405
        client.request("OPTIONS * HTTP/1.1")
        assert client.response().status == 404
    assert not {name for name in threads(running.pid) if name.startswith(("maypole-exec", "maypole-monitor"))}
    # An application needs Python, which does not start in this environment: the same program fails.
    failed = server("probe", env=NO_PYTHON, ready=False)
    assert failed.wait() != 0


def test_settings_of_a_server_work(serving, site, tmp_path):
    (tmp_path / "more").mkdir()
    (tmp_path / "more" / "b.txt").write_text("more")
    running = serving("public", "--bind", f"unix:{tmp_path}/s", "--bind", "127.0.0.1:0", "--chdir", tmp_path, "--static", "/more=more",
                      "--static-cache-control", "no-cache", "--access-logfile", "-", "--access-logformat", "%(r)s %(s)s %(B)s",
                      "--pid", "files.pid", "--server-header", "shop", "--limit-request-line", "64", "--umask", "027")
    address = running.addresses[1]
    with Client(address) as client:
        answer = client.get("/more/b.txt")
        assert (answer.body, answer.get("Cache-Control"), answer.get("Server")) == (b"more", "no-cache", "shop")
    with Client(address) as client:
        assert client.get("/" + "a" * 100).status == 414
    with Client(f"unix:{tmp_path}/s") as client:
        assert client.get("/deep/a.css").body == b"body {}"
    running.out.wait(r"GET /more/b.txt HTTP/1.1 200 4\n")
    assert (tmp_path / "files.pid").read_text().strip() == str(running.pid)
    running.stop()
    assert not (tmp_path / "files.pid").exists()


def test_tls_and_its_certificates(serving, site):
    running = serving(site, "--bind", "127.0.0.1:0", *TLS)
    with TlsClient(running.address, context()) as client:
        assert client.get("/deep/a.css").body == b"body {}"
    running.signal(signal.SIGHUP)
    running.err.wait("SIGHUP: the certificates were read again")
    with TlsClient(running.address, context()) as client:
        assert client.get("/").status == 200


def test_log_files_are_opened_again_and_signals_are_answered(serving, site, tmp_path):
    log = tmp_path / "access.log"
    running = serving(site, "--bind", "127.0.0.1:0", "--access-logfile", log)
    assert running.get("/").status == 200
    # The line follows the response.
    eventually(lambda: "GET / " in log.read_text(), what="that the request is in the log")
    log.rename(tmp_path / "access.log.1")
    running.signal(signal.SIGUSR1)
    running.err.wait("SIGUSR1: ")
    assert running.get("/").status == 200
    running.signal(signal.SIGHUP)
    running.err.wait("SIGHUP: there is nothing to read again; changed settings need a new start")
    running.signal(signal.SIGQUIT)
    running.err.wait(r"SIGQUIT: \d connections?, 0 requests\n")
    running.stop()
    assert "GET / " in log.read_text() and "GET / " in (tmp_path / "access.log.1").read_text()


@contextlib.contextmanager
def download(serving, site):
    """Begins a long download, and tells the process to stop. Gives the process and the client."""
    with open(site / "long.bin", "wb") as file:
        file.truncate(64 << 20)
    running = serving(site, "--bind", "127.0.0.1:0")
    with running.client() as client:
        client.request("GET /long.bin HTTP/1.1")
        client.read_until(b"\r\n\r\n")
        running.signal(signal.SIGTERM)
        running.err.wait("SIGTERM: stopping; 1 request may run for 30 s more")
        yield running, client


def test_running_download_ends_before_the_process(serving, site):
    with download(serving, site) as (running, client):
        client.read_exactly(64 << 20)
    running.err.wait("after SIGTERM: every request has ended")
    assert running.wait() == 0


def test_second_signal_ends_the_process_at_once(serving, site):
    with download(serving, site) as (running, _):
        running.signal(signal.SIGINT)
        running.err.wait("cut off 1 request")
        assert running.wait() == 0


def test_wrong_command_lines_are_named(site, tmp_path):
    (tmp_path / "settings.toml").write_text("[maypole]\nthreads = 4\n")
    for words, status, said in [
        ([], 2, "no directory is named"),
        ([tmp_path / "none"], 3, "it must be a directory, and .*/none does not exist"),
        ([site, "--workers", "2"], 2, r"--workers is not for `maypole files`, which serves no application \(command line\)"),
        ([site, "--reload"], 2, "--reload is not for"),
        ([site, "--status-bind", "127.0.0.1:0"], 2, "--status-bind is not for"),
        ([site, "--hooks", "x.py"], 2, "--hooks is not for"),
        ([site, "-c", tmp_path / "settings.toml"], 2, r"--threads is not for .*settings.toml:2\)"),
        ([site, "--no-such"], 2, "--no-such"),
        ([site, "more"], 2, r"DIR is one directory \(--static adds others\): 'more' is one argument too many"),
        ([site, "--static", f"/={site}"], 2, "--static names / twice"),
    ]:
        done = run("files", *map(str, words))
        assert done.returncode == status and re.search(said, done.stderr), done
    refused = run("files", str(site), env={"MAYPOLE_THREADS": "4"})
    assert "--threads is not for `maypole files`, which serves no application (variable MAYPOLE_THREADS)" in refused.stderr


def test_project_of_an_application_is_not_read(serving, site, tmp_path):
    (tmp_path / "maypole.toml").write_text('[maypole]\napplication = "shop:app"\nworkers = 4\n')
    # Hosting platforms set the number of processes for all services.
    running = serving("public", "--bind", "127.0.0.1:0", cwd=tmp_path, env={**NO_PYTHON, "WEB_CONCURRENCY": "4"})
    assert running.get("/deep/a.css").status == 200


def test_check_and_help(site):
    done = run("files", str(site), "--check-config", env=NO_PYTHON)
    assert (done.returncode, done.stdout) == (0, "OK: the settings and the log files are usable, and the directories exist\n")
    shown = run("files", "--help", env={"COLUMNS": "80"}).stdout
    assert max(map(len, shown.splitlines())) <= 80 and "maypole files DIR" in shown
    options = set(re.findall(r"^  (?:-\w, )?(--[\w-]+)", shown, re.M))
    assert {"--bind", "--certfile", "--static", "--keep-alive", "--user", "--access-logfile"} <= options
    assert not options & {"--threads", "--workers", "--pool-size", "--reload", "--mount", "--sendfile-root", "--status-bind"}
    assert "maypole files DIR" in run("--help").stdout
