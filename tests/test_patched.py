"""Applications in which gevent or eventlet has replaced threads: refused at the start, and after a later patch."""

import subprocess
import sys

import pytest

from client import PATIENCE
from process import clean_environment, run

NOT_IMPORTED = 4
PATCHES = {
    "gevent": "import gevent.monkey; gevent.monkey.patch_all()",
    "eventlet": "import eventlet; eventlet.monkey_patch()",
}
APP = """
import threading

def application(environ, start_response):
    start_response("200 OK", [("Content-Length", "4")])
    return [b"body"]
"""
LATER = """
import importlib

lock = None

def application(environ, start_response):
    path = environ["PATH_INFO"]
    if path == "/patch":
        # As a library that is imported when it is first needed.
        importlib.import_module("lazily")
    start_response("200 OK", [("Content-Length", "4")])
    return [b"body"]
"""


@pytest.fixture(params=PATCHES)
def library(request):
    pytest.importorskip(request.param)
    return request.param


@pytest.mark.parametrize("place", ["before", "package", "factory"])
def test_patched_application_is_refused_at_the_start(tmp_path, library, place):
    patch, spec = PATCHES[library], "shop"
    if place == "factory":
        (tmp_path / "shop.py").write_text(f"{APP}\ndef make():\n    {patch}\n    return application\n")
        spec = "shop:make()"
    elif place == "package":
        (tmp_path / "patches.py").write_text(patch + "\n")
        (tmp_path / "shop.py").write_text("import patches\n" + APP)
    else:
        (tmp_path / "shop.py").write_text(patch + "\n" + APP)
    done = run("--bind", "127.0.0.1:0", spec, cwd=tmp_path)
    assert done.returncode == NOT_IMPORTED
    assert f"'{spec}' cannot be served: {library} has monkey-patched `thread`" in done.stderr
    assert "listening" not in done.stderr


@pytest.mark.parametrize("command", [["-m", "maypole"], ["-c", "import maypole; raise SystemExit(maypole.serve('shop', '127.0.0.1:0'))"]])
def test_patched_application_is_refused_by_the_packages_commands(tmp_path, library, command):
    (tmp_path / "shop.py").write_text(PATCHES[library] + "\n" + APP)
    arguments = ["--bind", "127.0.0.1:0", "shop"] if command[0] == "-m" else []
    done = subprocess.run(
        [sys.executable, *command, *arguments], cwd=tmp_path, env=clean_environment(), capture_output=True, text=True,
        timeout=3 * PATIENCE,
    )
    assert done.returncode == NOT_IMPORTED, done.stderr
    assert f"{library} has monkey-patched `thread`" in done.stderr


@pytest.mark.parametrize("code", [
    "import gevent.monkey; gevent.monkey.patch_socket()",
    "import gevent.monkey; gevent.monkey.patch_all(thread=False)",
    "import eventlet; eventlet.monkey_patch(socket=True)",
    "import gevent, eventlet",
])
def test_threads_that_are_left_alone_are_served(server, tmp_path, code):
    pytest.importorskip("gevent")
    pytest.importorskip("eventlet")
    (tmp_path / "shop.py").write_text(code + "\n" + APP)
    assert server("shop", cwd=tmp_path).get().body == b"body"


def test_patch_during_a_request_is_said_and_ends_service(server, tmp_path, library):
    (tmp_path / "lazily.py").write_text(PATCHES[library] + "\n")
    (tmp_path / "shop.py").write_text(LATER)
    running = server("shop", cwd=tmp_path)
    assert running.get().status == 200
    # The import that patches may itself fail, because its lock has been replaced when it ends.
    assert running.get("/patch").status in (200, 500)
    running.err.wait(f"{library} has monkey-patched `thread`.*while requests were served")
    for _ in range(3):
        assert running.get().status == 500
    assert running.err.text().count("has monkey-patched") == 1
    # Python's end waits for threads that are not real threads. This test does not check how long that takes.
    running.kill()


def test_patch_in_a_request_that_hangs_is_said(server, tmp_path, library):
    (tmp_path / "shop.py").write_text(f"""
import threading
import {library}.{"monkey" if library == "gevent" else "patcher"}
lock = threading.Lock()
lock.acquire()

def application(environ, start_response):
    {PATCHES[library]}
    lock.acquire()
""")
    running = server("shop", cwd=tmp_path)
    with running.client() as client:
        client.request("GET / HTTP/1.1")
        running.err.wait(f"{{library}} has monkey-patched `thread`.*while requests were served".format(library=library))
        assert running.get().status == 500
    running.kill()
