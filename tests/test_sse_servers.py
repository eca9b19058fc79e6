"""`maypole.sse` and `maypole.wait` with real servers: Maypole, and others, where the thread that iterates waits."""

import contextlib
import shutil
import signal
import subprocess
import sys

import pytest

from client import PATIENCE
from process import APPS, EXAMPLES, PROGRAMS, clean_environment, eventually
from running import program

pytest.importorskip("maypole.sse")

APPLICATION = "events:application"
OTHERS = {
    "wsgiref": ([PROGRAMS / "wsgiref_server.py", APPLICATION], r"port (\d+)"),
    # Its environ has REMOTE_PORT as a number, which wsgiref.validate refuses.
    "werkzeug": ([PROGRAMS / "werkzeug_server.py", "events:unchecked"], r"port (\d+)"),
    "gunicorn": (["-m", "gunicorn", "--threads", "8", "-b", "127.0.0.1:0", APPLICATION], r"Listening at: http://127\.0\.0\.1:(\d+)"),
    "waitress": (["-m", "waitress", "--listen", "127.0.0.1:0", "--threads", "8", APPLICATION], r"Serving on http://127\.0\.0\.1:(\d+)"),
}


@pytest.fixture(params=["maypole", *OTHERS])
def served(request, server):
    """The application at a server, with a heart-beat after 100 ms."""
    if request.param == "maypole":
        yield server("events")
        return
    if request.param != "wsgiref":
        pytest.importorskip(request.param)
    words, ready = OTHERS[request.param]
    running = program(server, *words, cwd=APPS, ready=ready)
    yield running
    running.kill()


def subscribe(served, topic="news", *fields):
    """Returns a client whose stream is open."""
    client = served.client().request(f"GET /events/{topic} HTTP/1.1", *fields)
    assert client.head().get("Content-Type") == "text/event-stream; charset=utf-8"
    client.read_until(b"retry: 100\n\n")
    return client


def subscribers(served, topic="news"):
    return int(served.get(f"/subscribers/{topic}").body)


def test_each_subscriber_gets_the_events_and_heartbeats(served):
    with subscribe(served) as one, subscribe(served) as two, subscribe(served, "sport") as other:
        assert subscribers(served) == 2
        for data in ("first", "two\nlines", "gr\u00fc\u00dfe"):
            id = served.post("/send/news", data.encode()).body
            lines = b"".join(b"data: %s\n" % line for line in data.encode().split(b"\n"))
            for client in (one, two):
                client.read_until(b"id: %s\n%s\n" % (id, lines))
        other.read_until(b":\n\n")
        assert b"data" not in other.buffer


def test_client_that_leaves_is_no_subscriber(served):
    stays = subscribe(served)
    with subscribe(served), subscribe(served):
        assert subscribers(served) == 3
    eventually(lambda: subscribers(served) == 1, what="the end of the subscriptions")
    served.post("/send/news", b"a")
    stays.read_until(b"data: a\n\n")
    stays.close()


def test_client_that_comes_again_misses_nothing(served):
    with subscribe(served) as client:
        id = served.post("/send/news", b"a").body.decode()
        client.read_until(b"data: a\n\n")
    for data in (b"b", b"c"):
        served.post("/send/news", data)
    with subscribe(served, "news", f"Last-Event-ID: {id}") as client:
        missed = client.read_until(b"data: c\n\n")
        assert b"data: b\n\n" in missed and b"data: a\n\n" not in missed


def test_close_ends_the_responses(served):
    with subscribe(served) as client:
        served.post("/close", b"")
        # The last chunk, or the end of the connection.
        eventually(lambda: subscribers(served) == 0)
        client.socket.shutdown(1)
        assert b"data" not in client.rest()


def test_head_responds_at_once(served):
    response = served.get("/events/news", method="HEAD")
    assert (response.status, response.get("Content-Type")) == (200, "text/event-stream; charset=utf-8")
    assert subscribers(served) == 0


def test_long_poll_responds_when_the_event_is_set(served):
    with served.client() as one, served.client() as two:
        for client in (one, two):
            client.request("GET /wait/news HTTP/1.1", "Connection: close")
        # A request that waits has no sign for others: the events are sent until both have one.
        eventually(lambda: served.post("/send/news", b"it") and all(readable(client) for client in (one, two)))
        assert [client.response().body for client in (one, two)] == [b"it", b"it"]


def test_long_poll_responds_when_the_time_is_over(served):
    assert served.get("/wait/news?50ms", "Connection: close").body == b"nothing"


def test_websocket_that_rests_is_refused_by_another_server_with_its_name(request, served):
    """`maypole.websocket` has no fallback: a library such as flask-sock is one."""
    name = request.node.callspec.params["served"]
    name = {"wsgiref": "WSGIServer/0.2", "werkzeug": "Werkzeug/"}.get(name, name)
    said = served.get("/socket").body.decode()
    if name == "maypole":
        assert said == "no handshake"
    else:
        assert said.startswith(name)
        assert said.endswith(" does not keep WebSockets that rest; serve the application with Maypole, or use flask-sock")


def readable(client):
    """Returns whether something has come for a client."""
    return bool(client.buffer) or not client.quiet(0.05)


def test_maypole_ends_streams_when_the_client_leaves_and_on_a_stop(server):
    """Neither waits for a heartbeat or for `--graceful-timeout`."""
    started = server("events", env={"HEARTBEAT": "1h"})
    stays = subscribe(started)
    with subscribe(started), subscribe(started):
        assert subscribers(started) == 3
    eventually(lambda: subscribers(started) == 1, what="the end of the subscriptions")
    started.signal(signal.SIGTERM)
    started.wait()
    # The chunk of the first block, and the last chunk.
    assert stays.rest() == b"\r\n0\r\n\r\n"


def test_middleware_that_keeps_empty_blocks_holds_a_thread_and_events_arrive(server):
    started = server("events_kept", env={"HEARTBEAT": "60s"})
    with subscribe(started) as client:
        for data in (b"one", b"two", b"three"):
            started.post("/send/news", data)
            client.read_until(b"data: %s\n\n" % data)
        with subscribe(started) as other:
            started.post("/send/news", b"four")
            for one in (client, other):
                one.read_until(b"data: four\n\n")
            started.post("/close", b"")
    # A line of the log may come after the response.
    started.err.wait("middleware keeps the block")
    assert started.err.text().count("middleware keeps the block") == 1


def test_middleware_that_compresses_leaves_a_stream_alone(server):
    pytest.importorskip("django")
    started = server("events_compressed")
    with started.client() as client:
        head = client.request("GET /events HTTP/1.1", "Accept-Encoding: gzip").head()
        assert head.get("Content-Encoding") is None
        client.read_until(b":\n\n")
        assert started.post("/send", b"one").body == b"1"
        client.read_until(b"data: one\n\n")
    assert "middleware" not in started.err.text()


def test_streams_with_http2_hold_no_thread_either(server):
    curl = shutil.which("curl")
    if not curl or "HTTP2" not in subprocess.run([curl, "--version"], capture_output=True, text=True).stdout:
        pytest.skip("there is no curl with HTTP/2")
    started = server("events", "--threads", "2", env={"HEARTBEAT": "1h"})
    line = [curl, "-sN", "--http2-prior-knowledge", "--max-time", str(PATIENCE), f"{started.address}/events/news"]
    with contextlib.ExitStack() as stack:
        # Each is killed before its pipe is closed and its end awaited.
        programs = [stack.enter_context(subprocess.Popen(line, stdout=subprocess.PIPE)) for _ in range(6)]
        for program in programs:
            stack.callback(program.kill)
        eventually(lambda: subscribers(started) == 6, what="the streams")
        started.post("/send/news", b"it")
        for program in programs:
            assert any(b"data: it" in line for line in iter(program.stdout.readline, b""))
        for program in programs[:4]:
            program.kill()
        eventually(lambda: subscribers(started) == 2, what="the end of the subscriptions")
        started.post("/close", b"")
        assert [program.wait(PATIENCE) for program in programs[4:]] == [0, 0]


#: Applications with a stream, and the path of it.
STREAMS = {"bare": ("events", APPS, "/events/news"), "flask": ("chat_flask:app", EXAMPLES, "/events"),
           "django": ("manage:application", EXAMPLES / "sse_django", "/events?after=0")}  # fmt: skip


@pytest.mark.parametrize("name", STREAMS)
def test_streams_that_wait_hold_no_thread(server, tmp_path, name):
    application, cwd, path = STREAMS[name]
    if name != "bare":
        pytest.importorskip(name)
    env = {"CHAT_FILE": str(tmp_path / "chat"), "DJANGO_DATABASE": str(tmp_path / "site"), "HEARTBEAT": "60s"}
    if name == "django":
        subprocess.run([sys.executable, "manage.py", "migrate", "--verbosity", "0"], cwd=cwd, env=clean_environment(**env), check=True)
    started = server(application, "--threads", "4", env=env, cwd=cwd)
    with contextlib.ExitStack() as stack:
        for _ in range(40):
            client = stack.enter_context(started.client())
            assert client.request(f"GET {path} HTTP/1.1").head().status == 200
        # All of them are there, and four threads serve others.
        assert started.get("/subscribers/news" if name == "bare" else "/").status == 200
        assert started.application_threads() <= 4
