"""The examples for server-sent events and long polling in a real Chromium: pages that wait, through reloads and restarts."""

import concurrent.futures
import contextlib
import json
import os
import signal
import sqlite3
import subprocess
import sys
import threading
import urllib.parse

import pytest

from browser import CHROMIUM, browser
from event_sources import EventSources
from ports import free_port
from process import EXAMPLES, READY, clean_environment, eventually
from test_reload import reload
from test_succession import succeed  # noqa: F401

pytest.importorskip("maypole.sse")
CLIENTS = int(os.environ.get("TEST_CLIENTS", 100))
needs_browser = pytest.mark.skipif(not CHROMIUM, reason="there is no Chromium on this machine")


class Chat:
    """The chat with Flask."""

    application, cwd, name = "chat_flask:app", EXAMPLES, "Chat"

    def __init__(self, tmp_path):
        self.env = {"CHAT_FILE": str(tmp_path / "chat.sqlite3")}

    def post(self, address_of, text):
        body = urllib.parse.urlencode({"name": "test", "text": text}).encode()
        assert address_of.post("/send", body, "Content-Type: application/x-www-form-urlencoded").status == 204

    @staticmethod
    def shown(text):
        return f"test: {text}"

    def write_while_down(self, text):
        with contextlib.closing(sqlite3.connect(self.env["CHAT_FILE"])) as db, db:
            db.execute("INSERT INTO messages (name, text) VALUES ('test', ?)", (text,))

    def run(self, *words):
        subprocess.run([sys.executable, *words], cwd=self.cwd, env=clean_environment(**self.env), check=True, timeout=120)


class Notes(Chat):
    """The notes with Django."""

    application, cwd, name = "manage:application", EXAMPLES / "sse_django", "Notes"

    def __init__(self, tmp_path):
        self.env = {"DJANGO_DATABASE": str(tmp_path / "site.sqlite3")}
        self.run("manage.py", "migrate", "--verbosity", "0")

    def post(self, address_of, text):
        with address_of.client() as client:
            page = client.get("/")
            token = page.body.partition(b'name="csrfmiddlewaretoken" value="')[2].partition(b'"')[0].decode()
            cookie = page.get("Set-Cookie").partition(";")[0]
            body = urllib.parse.urlencode({"csrfmiddlewaretoken": token, "text": text}).encode()
            fields = ["Content-Type: application/x-www-form-urlencoded", f"Cookie: {cookie}"]
            assert client.post("/add", body, *fields).status == 204

    @staticmethod
    def shown(text):
        return text

    def write_while_down(self, text):
        self.run("-c", "import sys; import manage; from notes.models import Note; Note.objects.create(text=sys.argv[1])", text)


@pytest.fixture(params=[Chat, Notes], ids=["flask", "django"])
def site(request, tmp_path):
    pytest.importorskip("flask" if request.param is Chat else "django")
    return request.param(tmp_path)


def start(server, site, port, *words):
    return server(site.application, "--bind", f"127.0.0.1:{port}", *words, env=site.env, cwd=site.cwd, bind=False)


def lines(page):
    return json.loads(page.value("JSON.stringify([...document.querySelectorAll('li')].map(line => line.textContent))"))


def wait_for_lines(page, expected):
    def seen():
        found = lines(page)
        return found if len(found) >= len(expected) else None

    assert eventually(seen, what="that the page shows all lines") == expected


def is_open(page, site):
    return page.value("document.title") == f"{site.name}: open"


@needs_browser
def test_page_shows_lines_of_itself_and_of_others(server, site, tmp_path):
    started = start(server, site, free_port(), "--workers", "2")
    with browser(tmp_path / "browser") as page:
        page.open(f"{started.address}/")
        eventually(lambda: is_open(page, site), what="the stream")
        site.post(started, "one & <two>")
        wait_for_lines(page, [site.shown("one & <two>")])
        page.value("document.querySelector('[name=text]').value = 'mine'; document.querySelector('form').requestSubmit()")
        expected = [site.shown("one & <two>"), site.shown("mine").replace("test:", "me:")]
        wait_for_lines(page, expected)
        # A new page begins with what was said.
        page.open(f"{started.address}/?again")
        wait_for_lines(page, expected)
        assert page.complaints == [] or all("favicon" in complaint or "404" in complaint for complaint in page.complaints)


@needs_browser
def test_page_misses_nothing_while_workers_are_replaced(server, site, tmp_path):
    started = start(server, site, free_port(), "--workers", "2")
    texts = [f"line {number}" for number in range(200)]
    with browser(tmp_path / "browser") as page:
        page.open(f"{started.address}/")
        eventually(lambda: is_open(page, site), what="the stream")
        mark = len(started.err.text())
        thread = threading.Thread(target=lambda: [site.post(started, text) for text in texts])
        thread.start()
        eventually(lambda: len(lines(page)) > 3, what="the first lines")
        started.signal(signal.SIGHUP)
        started.err.wait("reloaded: 2 workers ", start=mark, timeout=60)
        thread.join(60)
        wait_for_lines(page, [site.shown(text) for text in texts])


@needs_browser
def test_page_misses_nothing_while_the_server_is_down(server, site, tmp_path):
    port = free_port()
    started = start(server, site, port, "--workers", "2")
    with browser(tmp_path / "browser") as page:
        page.open(f"{started.address}/")
        eventually(lambda: is_open(page, site), what="the stream")
        site.post(started, "before")
        wait_for_lines(page, [site.shown("before")])
        started.signal(signal.SIGTERM)
        started.wait()
        eventually(lambda: not is_open(page, site), what="that the page notices the end")
        site.write_while_down("meanwhile")
        started = start(server, site, port, "--workers", "2")
        eventually(lambda: is_open(page, site), timeout=60, what="the stream after the restart")
        site.post(started, "after")
        wait_for_lines(page, [site.shown(text) for text in ("before", "meanwhile", "after")])


@needs_browser
def test_pages_with_long_polling_show_the_same_number(server, tmp_path):
    port = free_port()
    words = ["--bind", f"127.0.0.1:{port}"]
    started = server("longpoll", *words, cwd=EXAMPLES, bind=False)
    with browser(tmp_path / "browser") as page:
        page.open(f"{started.address}/")
        number = "document.getElementById('up')?.textContent"
        for count in range(1, 4):
            assert started.post("/up", b"").status == 204
            eventually(lambda: page.value(number) == str(count), what="the number of another client")
        page.value("document.getElementById('up').click()")
        eventually(lambda: page.value(number) == "4", what="the page's own number")
        started.signal(signal.SIGTERM)
        started.wait()
        started = server("longpoll", *words, cwd=EXAMPLES, bind=False)
        eventually(lambda: page.value(number) == "0", what="the number after a restart")


def test_longpoll_responds_with_another_number_at_once_and_waits_otherwise(server):
    started = server("validated", env={"EXAMPLES": str(EXAMPLES), "EXAMPLE": "longpoll"})
    assert started.get("/count?7").body == b"0"
    with started.client() as client:
        client.request("GET /count?0 HTTP/1.1")
        assert client.quiet(0.2)
        started.post("/up", b"")
        assert client.response().body == b"1"
    assert "AssertionError" not in started.err.text()


def send(site, started, texts):
    """Sends texts from another thread. Returns the thread."""
    thread = threading.Thread(target=lambda: [site.post(started, text) for text in texts])
    thread.start()
    return thread


@pytest.mark.parametrize("site", [Chat], ids=["flask"], indirect=True)
def test_many_clients_miss_nothing_while_workers_are_replaced_and_while_the_server_is_down(server, site):
    port = free_port()
    started = start(server, site, port, "--workers", "2")
    texts = [f"line {number}" for number in range(120)]
    shown = [json.dumps({"name": "test", "text": text}) for text in texts]
    with EventSources(port, "/events", CLIENTS) as crowd:
        crowd.run(lambda client: client.is_open)
        mark = len(started.err.text())
        sends = send(site, started, texts[:60])
        crowd.run(lambda client: len(client.events) > 5)
        started.signal(signal.SIGHUP)
        crowd.run(lambda client: len(client.events) >= 60)
        started.err.wait("reloaded: 2 workers ", start=mark, timeout=60)
        sends.join(60)
        sends = send(site, started, texts[60:70])
        sends.join(60)
        started.signal(signal.SIGTERM)
        started.wait()
        for text in texts[70:80]:
            site.write_while_down(text)
        started = start(server, site, port, "--workers", "2")
        sends = send(site, started, texts[80:])
        crowd.run(lambda client: len(client.events) >= len(texts))
        sends.join(60)
        assert all(client.events == shown for client in crowd.clients)
        assert all(client.connections >= 2 for client in crowd.clients)


def replace_workers(started, _):
    start = len(started.err.text())
    started.signal(signal.SIGHUP)
    started.err.wait("reloaded: 2 workers ", start=start, timeout=60)


def start_again(started, _):
    start = len(started.err.text())
    done = reload(started)
    assert done.returncode == 0, done.stderr
    started.err.wait(READY, start=start)


def replace_supervisor(started, succeed):  # noqa: F811
    succeed(started)
    assert started.process.wait(60) == 0


#: What takes the place of what serves: the options, and what is done.
REPLACEMENTS = {
    "workers": (["--workers", "2"], replace_workers),
    "process": ([], start_again),
    "supervisor": (["--workers", "2"], replace_supervisor),
}


@pytest.mark.parametrize("what", REPLACEMENTS)
@pytest.mark.parametrize("site", [Chat], ids=["flask"], indirect=True)
def test_many_clients_and_a_browser_get_each_event_once_while_all_is_replaced(server, site, succeed, tmp_path, what):  # noqa: F811
    words, replace = REPLACEMENTS[what]
    port = free_port()
    started = start(server, site, port, *words)
    texts = [f"line {number}" for number in range(90)]
    with contextlib.ExitStack() as stack:
        crowd = stack.enter_context(EventSources(port, "/events", CLIENTS))
        crowd.run(lambda client: client.is_open)
        page = stack.enter_context(browser(tmp_path / "browser")) if CHROMIUM else None
        if page:
            page.open(f"{started.address}/")
            eventually(lambda: is_open(page, site), what="the stream of the page")
        sends = send(site, started, texts[:60])
        crowd.run(lambda client: len(client.events) > 5)
        with concurrent.futures.ThreadPoolExecutor() as beside:
            replaced = beside.submit(replace, started, succeed)
            crowd.run(lambda client: len(client.events) >= 60 and client.is_open)
            replaced.result(60)
        sends.join(60)
        sends = send(site, started, texts[60:])
        crowd.run(lambda client: len(client.events) >= len(texts))
        sends.join(60)
        assert all(client.events == [json.dumps({"name": "test", "text": text}) for text in texts] for client in crowd.clients)
        assert all(client.connections >= 2 for client in crowd.clients)
        if page:
            wait_for_lines(page, [site.shown(text) for text in texts])
