"""The threads that call the application behave as threads of Python's library: coverage, traces, profiles, life."""

import json

import pytest

from running import program

# The parts of a thread object differ between versions of Python.
pytestmark = pytest.mark.smoke

SHOP = """
import threading

def price(path):
    if path == "/cheap":
        return b"1"
    total = 0
    for number in range(10):
        total += number
    return b"%d" % total

def app(environ, start_response):
    body = price(environ["PATH_INFO"])
    start_response("200 OK", [("Content-Length", str(len(body)))])
    return stream(body)

def stream(body):
    for place in range(len(body)):
        yield body[place:place + 1]
"""

TEST = """
from urllib.request import urlopen
import shop

def test_prices(maypole_server):
    server = maypole_server(shop.app)
    assert urlopen(server.url + "/cheap").read() == b"1"
    assert urlopen(server.url + "/dear").read() == b"45"
"""

THREADS = """
import json, sys, threading, urllib.request
import maypole

seen = {}
calls = []

def tracer(frame, event, argument):
    calls.append(frame.f_code.co_name)

def app(environ, start_response):
    thread = threading.current_thread()
    seen["thread"] = thread
    seen["facts"] = {
        "dummy": isinstance(thread, threading._DummyThread), "listed": thread in threading.enumerate(),
        "daemon": thread.daemon, "alive": thread.is_alive(), "ident": thread.ident == threading.get_ident(),
        "native": thread.native_id == threading.get_native_id(), "name": thread.name.startswith("maypole-exec-"),
        "trace": sys.gettrace() is not None, "profile": sys.getprofile() is not None,
    }
    start_response("200 OK", [])
    return [b"ok"]

def ask(server):
    urllib.request.urlopen(server.addresses[0]).read()
    return seen["facts"]

first = maypole.Server(app, "127.0.0.1:0")
first.start()
facts = [ask(first)]
threading.settrace(tracer)
threading.setprofile(tracer)
second = maypole.Server(app, "127.0.0.1:0")
second.start()
facts.append(ask(second))
traced = "app" in calls
threading.settrace(None)
threading.setprofile(None)
third = maypole.Server(app, "127.0.0.1:0")
third.start()
facts.append(ask(third))
for server in first, second, third:
    assert server.stop()
thread = seen["thread"]
thread.join(10)
print(json.dumps([facts, traced, thread.is_alive(), thread in threading.enumerate()]))
"""


def test_coverage_sees_what_runs_on_the_threads_of_the_server(server, tmp_path):
    pytest.importorskip("coverage")
    (tmp_path / "shop.py").write_text(SHOP)
    (tmp_path / "test_shop.py").write_text(TEST)
    # This is the tracer for threads, even if Python has sys.monitoring.
    env = {"COVERAGE_CORE": "ctrace"}
    command = "-m", "coverage", "run", "--include", "shop.py", "-m", "pytest", "-p", "no:cacheprovider", "test_shop.py"
    running = program(server, *command, cwd=tmp_path, env=env, ready=None)
    assert running.wait(60) == 0, running.out.wait_end()
    report = program(server, "-m", "coverage", "json", "-o", "report.json", cwd=tmp_path, ready=None)
    assert report.wait(60) == 0, report.out.wait_end() + report.err.wait_end()
    measured = json.loads((tmp_path / "report.json").read_text())["files"]["shop.py"]
    assert measured["missing_lines"] == [] and measured["summary"]["percent_covered"] == 100


def test_threads_are_threads_and_take_the_hooks_of_a_later_start(server, tmp_path):
    (tmp_path / "threads.py").write_text(THREADS)
    running = program(server, "threads.py", cwd=tmp_path, ready=None)
    assert running.wait(60) == 0, running.err.wait_end()
    facts, traced, alive, listed = json.loads(running.out.wait_end())
    plain = {"dummy": False, "listed": True, "daemon": True, "alive": True, "ident": True, "native": True, "name": True}
    assert facts[0] == {**plain, "trace": False, "profile": False}
    assert facts[1] == {**plain, "trace": True, "profile": True}
    assert facts[2] == {**plain, "trace": False, "profile": False}
    assert traced and not alive and not listed
