"""`--reload` in a real browser: it sees the traceback, waits while new code is imported, and shows the mended page."""

import os
import shutil
import signal
import subprocess

import pytest

BROWSER = shutil.which("chromium") or shutil.which("google-chrome")

# The page tells the server what the browser shows.
SHOP = """
import views
def app(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/html")])
    return [b"<title>mended</title><script>fetch('/shows?' + document.title)</script>"]
"""
BROKEN = "raise ValueError('no <price>')\n"
SERVES = r"(?:worker 1 \(pid \d+\) serves|, 1 worker \(pid \d+\))\n"

pytestmark = pytest.mark.skipif(not BROWSER, reason="there is no Chromium on this machine")


@pytest.fixture
def browse(tmp_path):
    """Starts the browser with further words. It ends with the test."""
    started = []

    def browse(*words, **more):
        directory = tmp_path / f"browser{len(started)}"
        line = [BROWSER, "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"]
        line += [f"--user-data-dir={directory}", *words]
        env = {**os.environ, "HOME": str(tmp_path)}
        process = subprocess.Popen(line, env=env, start_new_session=True, stderr=subprocess.DEVNULL, text=True, **more)
        started.append(process)
        return process

    yield browse
    for process in started:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.wait(20)


def test_browser_shows_the_traceback_and_then_the_mended_page(server, browse, tmp_path):
    site = tmp_path / "site"
    site.mkdir()
    os.mkfifo(site / "gate")
    (site / "shop.py").write_text(SHOP)
    (site / "views.py").write_text(BROKEN)
    started = server("shop:app", "--reload", "--access-logfile", "-", "--access-logformat", "%(r)s %(s)s", cwd=site)
    first = started.err.wait(SERVES)
    address = f"{started.address}/"

    dump = browse("--dump-dom", address, stdout=subprocess.PIPE)
    page, _ = dump.communicate(timeout=60)
    assert "<h1>ValueError: no &lt;price&gt;</h1>" in page and 'line 1, in &lt;module&gt;' in page

    mark = len(started.out.text())
    browse("--remote-debugging-port=0", address)
    # The script of the page asks whether the code is mended.
    started.out.wait(r"GET / HTTP/1.1 500\n(?s:.*)HEAD / HTTP/1.1 500\n", start=mark, timeout=60)
    (site / "views.py").write_text("open('gate').read()\n")
    started.err.wait(r"views.py has changed: restarting")
    # The import waits, and with it each request of the browser. Nothing is refused.
    (site / "gate").write_text("open")
    started.err.wait(SERVES, start=first.end())
    started.out.wait(r"GET /shows\?mended HTTP/1.1 200\n", timeout=60)
