"""The fixture `maypole_server`, in separate runs of pytest."""


from running import program

USES = """
import threading
from urllib.error import HTTPError
from urllib.request import urlopen

def app(environ, start_response):
    start_response("200 OK", [])
    return [environ["PATH_INFO"].encode()]

before = set(threading.enumerate())

def test_two_servers(maypole_server):
    first, second = maypole_server(app), maypole_server(app, server_header="second", threads=2)
    assert first.url == f"http://{first.host}:{first.port}" and first.port != second.port
    assert urlopen(first.url + "/a").read() == b"/a"
    assert urlopen(second.url + "/b").headers["Server"] == "second"
    global port
    port = first.port

def test_they_are_gone(maypole_server):
    import socket, pytest
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port))

def test_wrong_setting(maypole_server):
    import pytest
    with pytest.raises(TypeError, match="threads"):
        maypole_server(app, thread=1)
"""

HANGS = """
import threading
from urllib.request import urlopen

def test_hangs(maypole_server):
    inside = threading.Event()

    def app(environ, start_response):
        inside.set()
        threading.Event().wait(7)
        start_response("200 OK", [])
        return []

    server = maypole_server(app)
    threading.Thread(target=lambda: urlopen(server.url), daemon=True).start()
    assert inside.wait(10)
"""

IDLE = """
import sys

def test_nothing_is_loaded():
    assert not [name for name in sys.modules if name.partition(".")[0] == "maypole"]
"""


def pytest_run(server, tmp_path, text):
    (tmp_path / "test_it.py").write_text(text)
    running = program(server, "-m", "pytest", "-p", "no:cacheprovider", "test_it.py", cwd=tmp_path, ready=None)
    code = running.wait(60)
    return code, running.out.wait_end() + running.err.wait_end()


def test_fixture_serves_and_closes(server, tmp_path):
    code, text = pytest_run(server, tmp_path, USES)
    assert code == 0 and "3 passed" in text, text


def test_fixture_tells_of_a_request_that_does_not_end(server, tmp_path):
    code, text = pytest_run(server, tmp_path, HANGS)
    assert code == 1 and "a request still ran 5 s after the test was over" in text, text


def test_fixture_that_is_not_used_loads_nothing(server, tmp_path):
    code, text = pytest_run(server, tmp_path, IDLE)
    assert code == 0, text
    running = program(server, "-m", "pytest", "--fixtures", cwd=tmp_path, ready=None)
    running.wait(60)
    assert "maypole_server" in running.out.wait_end()
