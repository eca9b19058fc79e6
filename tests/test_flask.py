"""`flask maypole`: the application as `flask run` finds it, the reloader and the debugger."""

import signal

import pytest

from process import EXAMPLES, eventually
from running import change, program

RUNNING = r"Running on http://127\.0\.0\.1:(\d+)"

APP = """
from flask import Flask

app = Flask(__name__)

@app.get("/")
def index():
    return "first"

@app.get("/fail")
def fail():
    raise LookupError("on purpose")
"""


def flask(server, app, *arguments, cwd, before=(), **more):
    pytest.importorskip("flask")
    command = ["-m", "flask", "--app", app, *before, "maypole", "--port", 0, *arguments]
    return program(server, *command, cwd=cwd, **{"ready": RUNNING, **more})


def test_flask_maypole_serves_the_application(server):
    running = flask(server, "flask_app", "--threads", "4", "--server-header", "shop", cwd=EXAMPLES)
    response = running.get()
    assert (response.body, response.get("Server")) == (b"Hello from Flask\n", "shop")
    running.err.wait(r'127\.0\.0\.1 - \[.*\] "GET / HTTP/1\.1" 200 17')
    running.signal(signal.SIGINT)
    assert running.wait() == 0


def test_flask_maypole_that_gets_sigterm_right_after_an_answer_loses_no_access_line(server):
    for _ in range(3):
        running = flask(server, "flask_app", cwd=EXAMPLES)
        with running.client() as client:
            client.request("GET /last HTTP/1.1", "Connection: close").head()
            running.signal(signal.SIGTERM)
            assert running.wait() == 0
        assert '"GET /last HTTP/1.1" 404' in running.err.wait_end()


def test_flask_maypole_in_debug_mode_reloads_and_debugs(server, tmp_path):
    app = tmp_path / "app.py"
    app.write_text(APP)
    running = flask(server, "app", cwd=tmp_path, before=["--debug"])
    assert running.get().body == b"first"
    assert b"__debugger__" in running.get("/fail").body
    # The server shows why code cannot be imported, and waits for the next change.
    change(running, app, '"first"', '"fir', "Detected change")
    eventually(lambda: b"SyntaxError" in running.get().body)
    change(running, app, '"fir', '"second"', "Detected change")
    eventually(lambda: running.get().body == b"second")
    running.signal(signal.SIGTERM)
    running.wait()


@pytest.mark.parametrize("arguments, sentence", [
    (("--threads", "many"), "threads"),
    (("--thread", "1"), "No such option"),
    (("--host", "192.0.2.1"), "Cannot assign requested address"),
])
def test_flask_maypole_with_wrong_options_says_so(server, arguments, sentence):
    running = flask(server, "flask_app", *arguments, cwd=EXAMPLES, ready=None)
    assert running.wait() != 0
    text = running.err.wait_end()
    assert sentence in text and "Traceback" not in text


def test_flask_maypole_with_workers_serves_and_logs_requests(server):
    running = flask(server, "flask_app", "--workers", "2", cwd=EXAMPLES, ready=r"listening on http://127.0.0.1:(\d+).*2 workers")
    assert running.get().body == b"Hello from Flask\n"
    running.out.wait(r'"GET / HTTP/1\.1" 200 17')
    running.signal(signal.SIGINT)
    assert running.wait() == 0


def test_flask_maypole_with_workers_has_no_reloader(server):
    running = flask(server, "flask_app", "--workers", "2", "--reload", cwd=EXAMPLES, ready=None)
    assert running.wait() != 0
    assert "workers have neither the reloader nor the debugger: add --no-reload --no-debugger" in running.err.wait_end()


def test_flask_maypole_help_names_the_settings(server):
    running = flask(server, "flask_app", "--help", cwd=EXAMPLES, ready=None)
    assert running.wait() == 0
    text = running.out.wait_end()
    assert "--keep-alive TIME" in text and "--reload" in text and "--chdir" not in text
