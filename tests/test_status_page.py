"""The page for people, in a real browser: its policy, numbers that move, a restart, and many processes."""

import re

import pytest

from browser import CHROMIUM, browser
from ports import free_port
from process import eventually
from status import Status

needs_browser = pytest.mark.skipif(not CHROMIUM, reason="there is no Chromium on this machine")
REQUESTS = "document.getElementById('totals').rows[1].cells[1].textContent"
OLDEST = "document.getElementById('requests').textContent"
LOGGED = "document.getElementById('logged').textContent"
NOTE = "document.getElementById('errors-note').textContent"
NOTICE = "document.getElementById('notice').textContent"
# The time of a turn with 64 processes and full plots, in milliseconds.
TURN = """fetch('/stats.json').then((response) => response.json()).then((stats) => {
    const one = stats.processes[0];
    stats.processes = Array.from({ length: 64 }, (_, at) => ({ ...one, number: at + 1, pid: 1000 + at }));
    const begin = performance.now();
    for (let turn = 0; turn < 200; turn++) show({ ...stats, uptime_seconds: stats.uptime_seconds + turn });
    return (performance.now() - begin) / 200;
})"""


def test_page_without_its_script_shows_numbers_and_loads_itself_anew(server):
    running = server("probe", "-w", "2", "--status-bind", "0", "--proc-name", "<shop>")
    assert running.get().status == 200
    status = Status(running)
    # A request is counted once its response has been sent.
    eventually(lambda: status.json()["total"]["requests"] == 1, what="the count of the request")
    response = status.ask("/")
    page = response.body.decode()
    assert response.get("Content-Type") == "text/html; charset=utf-8"
    policy = response.get("Content-Security-Policy")
    assert "default-src 'none'" in policy and "unsafe" not in policy and "http" not in policy
    assert "<h1>&lt;shop&gt;</h1>" in page and "serving: 2 of 2 processes serve" in page
    assert len(re.findall(r"<tr><td>\d</td><td>\d+</td><td>serving</td>", page)) == 2
    assert '<tr><th scope="row">2xx</th><td>1</td></tr>' in page
    assert '<noscript><meta http-equiv="refresh"' in page and not re.search(r"\son\w+=|\sstyle=|//\w", page)


@needs_browser
def test_numbers_move_and_a_restart_is_survived(server, tmp_path):
    bind = "--status-bind", free_port()
    running = server("probe", *bind)
    status = Status(running)
    with browser(tmp_path) as page:
        page.open(f"http://{status.address}/")
        eventually(lambda: page.value("document.querySelectorAll('polyline[points], polygon[points]').length") == 16)
        for number in (1, 2):
            assert running.get().status == 200
            eventually(lambda number=number: page.value(REQUESTS) == str(number), what="a number that moves")
        with running.client() as client:
            client.send(b"GET /hold/<b> HTTP/1.1\r\nHost: a\r\n\r\n")
            eventually(lambda: "GET /hold/<b> HTTP/1.1" in page.value(OLDEST), what="the oldest request")
            assert "apps/probe.py:" in page.value(OLDEST) and " in hold" in page.value(OLDEST)
            assert running.get("/release/<b>").status == 200
            assert client.response().status == 200
        eventually(lambda: page.value(OLDEST) == "", what="a table without requests")
        assert page.value(LOGGED) == "" and page.value(NOTE) == "There is none."
        assert running.get("/fail?<b>").status == 500
        eventually(lambda: "ValueError: made to fail" in page.value(LOGGED), what="the error")
        assert "GET /fail?<b> HTTP/1.1" in page.value(LOGGED) and page.value(NOTE) == ""
        assert page.value(NOTICE) == "" and page.complaints == []
        running.stop()
        eventually(lambda: page.value(NOTICE).startswith("No answer since"), what="the notice")
        again = server("probe", *bind)
        eventually(lambda: page.value(NOTICE) == "" and page.value(REQUESTS) == "0", what="the numbers of the new one")
        assert again.get().status == 200
        eventually(lambda: page.value(REQUESTS) == "1", what="a number that moves")


@needs_browser
def test_many_processes_do_not_make_the_page_slow(server, tmp_path):
    status = Status(server("probe", "--status-bind", "0"))
    with browser(tmp_path) as page:
        page.show(390, 844, "dark")
        page.open(f"http://{status.address}/")
        eventually(lambda: page.value("typeof show") == "function", what="the script")
        # On a busy machine the best of several counts.
        eventually(lambda: page.value(TURN) < 200, what="a quick turn")
        assert page.value("document.getElementById('processes').rows.length") == 64
        assert page.value("document.documentElement.scrollWidth") <= 390
