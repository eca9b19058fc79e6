"""Commands of docs/howto whose server has another ready line than Maypole. Each runs as the page has it.

tests/test_snippets.py runs the other snippets of these pages.
"""

import re
import shlex
import signal
import subprocess
import sys
import urllib.request

import pytest

from client import PATIENCE
from ports import free_port
from process import ROOT, clean_environment
from running import get, program

pytest.importorskip("maypole")

HOWTO = ROOT / "docs" / "howto"
BLOCK = re.compile(r"<!-- snippet: (.*?) -->\n+```(\w+)\n(.*?)^```", re.M | re.S)


def blocks(page):
    """Returns the comments and the texts of a page's snippets."""
    return [(how, text) for how, _, text in BLOCK.findall((HOWTO / f"{page}.md").read_text())]


def snippet(page, test):
    """Returns the snippet that the page leaves to a test."""
    (found,) = [text for how, text in blocks(page) if how == f"test {test}"]
    return found


def write_files(page, directory, *names):
    for how, text in blocks(page):
        kind, _, name = how.partition(" ")
        if kind == "file" and name in names:
            (directory / name).write_text(text)


def arguments(page, test, port):
    """Returns the snippet's command line without `python`, and with another port."""
    line = snippet(page, test).strip()
    assert "\n" not in line
    first, *words = shlex.split(line)
    assert words.count(port) == 1
    words[words.index(port)] = str(free_port())
    return words if first == "python" else ["-m", first, *words]


def ends(running, number, code):
    running.signal(number)
    assert running.wait() == code, running.err.text()


def test_runmaypole_of_the_page(server, tmp_path):
    pytest.importorskip("django")
    for how, text in blocks("frameworks"):
        if how == "run" and ("django-admin" in text or "INSTALLED_APPS" in text):
            text = text.replace("django-admin", f"{shlex.quote(sys.executable)} -m django")
            subprocess.run(["sh", "-ec", text], cwd=tmp_path, env=clean_environment(), timeout=3 * PATIENCE, check=True)
    command = arguments("frameworks", "test_runmaypole_of_the_page", "8000")
    running = program(server, *command, cwd=tmp_path, ready=r"Starting \S+ server at http://127.0.0.1:(\d+)/", out=True)
    # Django serves only hosts with the names of this machine.
    with urllib.request.urlopen(f"http://127.0.0.1:{running.port}/", timeout=PATIENCE) as response:
        assert response.status == 200
    running.kill()


def test_flask_maypole_of_the_page(server, tmp_path):
    pytest.importorskip("flask")
    write_files("frameworks", tmp_path, "shop.py")
    command = arguments("frameworks", "test_flask_maypole_of_the_page", "8000")
    running = program(server, *command, cwd=tmp_path, ready=r"Running on http://127.0.0.1:(\d+)")
    assert get(running.port).body == b"Hello from Flask\n"
    ends(running, signal.SIGINT, 0)


def test_run_simple_of_the_page(server, tmp_path):
    pytest.importorskip("flask")
    write_files("frameworks", tmp_path, "shop.py")
    text = snippet("frameworks", "test_run_simple_of_the_page")
    assert text.count(" 5000,") == 1
    (tmp_path / "serve.py").write_text(text.replace(" 5000,", " 0,"))
    running = program(server, "serve.py", cwd=tmp_path, ready=r"Running on http://127.0.0.1:(\d+)")
    assert get(running.port).body == b"Hello from Flask\n"
    ends(running, signal.SIGINT, 0)


def launcher(server, directory, test, file):
    """Runs a program of the page with its two workers: SIGHUP replaces them, SIGTERM ends it."""
    write_files("launchers", directory, file)
    command = arguments("launchers", test, "8774")
    assert command[0] == file
    running = program(server, *command, cwd=directory, ready=r"listening on http://127.0.0.1:(\d+)")
    assert get(running.port).body == b"Hello from a worker\n"
    workers = r"(?s)(.*?listening on http://\S+, pool size){%d}"
    running.err.wait(workers % 2)
    running.signal(signal.SIGHUP)
    running.err.wait(workers % 4)
    assert get(running.port).status == 200
    ends(running, signal.SIGTERM, 0)


def test_oslo_service_of_the_page(server, tmp_path):
    pytest.importorskip("oslo_service")
    launcher(server, tmp_path, "test_oslo_service_of_the_page", "service.py")


def test_cotyledon_service_of_the_page(server, tmp_path):
    pytest.importorskip("cotyledon")
    launcher(server, tmp_path, "test_cotyledon_service_of_the_page", "cotyledon_service.py")
