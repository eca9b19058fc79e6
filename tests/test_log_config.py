"""Python's logging as the log of the command: `--log-config`."""

import json
import os
import re

import pytest

from process import eventually, run

FORMATTER = '''
import json, logging

class Json(logging.Formatter):
    def format(self, record):
        return json.dumps({"logger": record.name, "level": record.levelname, "text": record.getMessage()})
'''

INI = """
[loggers]
keys=root, gunicorn.error, gunicorn.access

[handlers]
keys=console, file

[formatters]
keys=plain, json

[logger_root]
level=INFO
handlers=console

[logger_gunicorn.error]
level=INFO
handlers=console, file
propagate=0
qualname=gunicorn.error

[logger_gunicorn.access]
level=INFO
handlers=file
propagate=0
qualname=gunicorn.access

[handler_console]
class=StreamHandler
formatter=plain
args=(sys.stderr, )

[handler_file]
class=logging.FileHandler
formatter=json
args=("%(here)s/lines",)

[formatter_plain]
format=%(asctime)s [%(process)d] [%(levelname)s] %(message)s

[formatter_json]
class=lines_of_json.Json
"""


def options(tmp_path, text):
    """Writes a configuration with its formatter, and returns the options for it."""
    (tmp_path / "lines_of_json.py").write_text(FORMATTER)
    file = tmp_path / "logging.conf"
    file.write_text(text)
    return ["--log-config", file, "--pythonpath", tmp_path, "--access-logformat", "%(m)s %(U)s %(s)s"]


def lines(tmp_path, logger):
    found = [json.loads(line) for line in (tmp_path / "lines").read_text().splitlines()]
    return [(line["level"], line["text"]) for line in found if line["logger"] == logger]


@pytest.mark.parametrize("workers", [(), ("--workers", "1"), ("--workers", "1", "--preload")])
def test_configuration_of_gunicorn_takes_the_lines(server, tmp_path, workers):
    running = server("probe", *options(tmp_path, INI), *workers)
    assert running.get("/pid").status == 200
    assert running.get("/fail").status == 500
    with running.client() as client:
        client.send(b"BROKEN\r\n\r\n")
        assert client.response().status == 400
    running.stop()
    access = lines(tmp_path, "gunicorn.access")
    assert access[:2] == [("INFO", "GET /pid 200"), ("INFO", "GET /fail 500")] and len(access) == 3
    errors = lines(tmp_path, "gunicorn.error")
    assert any(level == "ERROR" and text.startswith("GET /fail HTTP/1.1\nTraceback") for level, text in errors)
    # The supervisor has no Python.
    assert any(", listening on " in text for _, text in errors) == (not workers)
    assert re.search(r"\[INFO\] .*, listening on ", running.err.text())


def test_configuration_in_json_may_leave_out_what_gunicorn_has(server, tmp_path):
    handlers = {"file": {"class": "logging.FileHandler", "filename": str(tmp_path / "lines"), "formatter": "json"},
                "error_console": {"class": "logging.StreamHandler"}}
    configuration = {
        "handlers": handlers,
        "formatters": {"json": {"()": "lines_of_json.Json"}},
        "root": {"handlers": ["error_console"]},
        "loggers": {"uvicorn.access": {"handlers": ["file"], "level": "INFO", "propagate": False}},
    }
    running = server("probe", *options(tmp_path, json.dumps(configuration)), "--log-level", "info")
    assert running.get("/pid").status == 200
    running.stop()
    assert lines(tmp_path, "uvicorn.access") == [("INFO", "GET /pid 200")]


def test_handler_that_waits_stops_no_request_and_loses_no_line(server, tmp_path):
    os.mkfifo(tmp_path / "lines")
    # The file is opened at the first line, which waits for a reader.
    access = INI.replace('args=("%(here)s/lines",)', 'args=("%(here)s/lines", "w", None, True)')
    running = server("probe", *options(tmp_path, access.replace("handlers=console, file", "handlers=console")))
    with running.client() as client:
        for number in range(50):
            assert client.get(f"/{number}").status == 404
    with open(tmp_path / "lines") as read:
        texts = [json.loads(read.readline())["text"] for _ in range(50)]
    assert texts == [f"GET /{number} 404" for number in range(50)]
    running.kill()


def test_gil_that_is_held_stops_no_other_answer_and_loses_no_line(server, tmp_path):
    keeper = tmp_path / "keeper"
    os.mkfifo(keeper)
    running = server("reported", *options(tmp_path, INI), env={"KEEPER": str(keeper)})
    with running.client() as stuck:
        stuck.request("GET /keep HTTP/1.1")
        running.err.wait("keeps the GIL\n")
        for _ in range(20):
            with running.client() as client:
                client.send(b"BROKEN\r\n\r\n")
                assert client.response().status == 400
        assert lines(tmp_path, "gunicorn.access") == []
        keeper.write_bytes(b"x")
        assert stuck.response().status == 200
    eventually(lambda: len(lines(tmp_path, "gunicorn.access")) == 21, what="the access lines")
    running.stop()


@pytest.mark.parametrize("workers", [(), ("--workers", "1")])
def test_wrong_configuration_is_not_served(tmp_path, workers):
    for text in [INI.replace("lines_of_json.Json", "lines_of_json.Xml"), '{"handlers": 1}']:
        done = run(*options(tmp_path, text), "--bind", "127.0.0.1:0", *workers, "probe")
        assert done.returncode == 4, done.stderr
        assert f"--log-config {tmp_path}/logging.conf: Python's logging cannot be configured:\nTraceback" in done.stderr
