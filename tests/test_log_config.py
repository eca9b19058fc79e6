"""Python's logging as the log of the command: `--log-config`."""

import json
import os
import re

import pytest

from process import APPS, eventually, run

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
    # The last line may not be whole yet.
    found = [json.loads(line) for line in (tmp_path / "lines").read_text().split("\n")[:-1]]
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


GUNICORN = """
import json, logging
bind = "127.0.0.1:0"
threads = 4
access_log_format = "%(m)s %(U)s %({X-A}i)s 100%%"
logconfig = "nosuch.conf"


class Atoms(logging.Formatter):
    def format(self, record):
        names = ("h", "U", "s", "B", "D", "{X-A}i", "{content-type}o", "{none}i")
        return json.dumps({"logger": record.name, "format": record.msg, "level": record.levelname,
                           "text": record.getMessage(), **{name: record.args[name] for name in names}})


def only_requests(record):
    return record.name == "gunicorn.access"


logconfig_dict = {
    "formatters": {"json": {"()": Atoms}},
    "handlers": {"file": {"class": "logging.FileHandler", "filename": "lines", "formatter": "json", "filters": ["own"]},
                 "error_console": {"class": "logging.StreamHandler"}},
    "filters": {"own": {"()": lambda: only_requests}},
    "root": {"level": "INFO", "handlers": ["file", "error_console"]},
    "loggers": {},
}
"""


@pytest.mark.parametrize("workers", [(), ("--workers", "1", "--preload")], ids=["alone", "preload"])
def test_dictionary_and_atoms_of_gunicorn_are_those_of_its_file(server, tmp_path, workers):
    (tmp_path / "gunicorn.conf.py").write_text(GUNICORN)
    options = ["-c", "gunicorn.conf.py", "--pythonpath", APPS, *workers]
    running = server("probe", *options, cwd=tmp_path, bind=False)
    assert running.get("/echo", "X-A: 20% \"b\"").status == 200
    running.stop()
    assert lines(tmp_path, "gunicorn.access") == [("INFO", 'GET /echo 20% \\"b\\" 100%')]
    (found,) = map(json.loads, (tmp_path / "lines").read_text().splitlines())
    assert found["format"] == "%(m)s %(U)s %({x-a}i)s 100%%"
    assert (found["h"], found["U"], found["s"], found["{none}i"]) == ("127.0.0.1", "/echo", "200", "-")
    assert (found["{X-A}i"], type(found["B"]), type(found["D"])) == ('20% \\"b\\"', int, int)
    assert found["{content-type}o"].startswith("text/plain")


BLOCKS = """
import logging, sys, threading

class Blocks(logging.Handler):
    def emit(self, record):
        print("blocks for ever", file=sys.stderr, flush=True)
        threading.Event().wait()

logconfig_dict = {
    "handlers": {
        "a": {"class": "logging.FileHandler", "filename": "lines"},
        "b": {"class": "logging.handlers.MemoryHandler", "capacity": 9, "flushLevel": 50, "target": "a"},
        "c": {"()": Blocks},
        "console": {"class": "logging.StreamHandler"},
    },
    "root": {"handlers": ["console"]},
    "loggers": {"maypole.access": {"handlers": ["b", "c"], "propagate": False}},
}
"""


@pytest.mark.parametrize("workers", [(), ("--workers", "1")], ids=["alone", "worker"])
def test_handler_that_never_returns_delays_the_stop_once_and_other_handlers_end(server, tmp_path, workers):
    (tmp_path / "logging.conf.py").write_text(BLOCKS)
    options = ["--log-config", "logging.conf.py", "--pythonpath", APPS, "--access-logformat", "%(U)s", *workers]
    running = server("probe", *options, cwd=tmp_path)
    assert running.get("/pid").status == 200
    running.err.wait("blocks for ever")
    assert running.get("/echo").status == 200
    running.stop()
    # At its end, `logging` waits for each handler: the one that holds lines back has written them all the same.
    assert "/pid\n" in (tmp_path / "lines").read_text()
    text = running.err.text()
    assert "Python has not ended" not in text, text
    # A line that the blocked handler kept from Python's logging.
    assert re.search(r"\[INFO\] /echo$", text, re.M), text
