"""`maypole.eventlet` as a server: connections, limits, logs, stop, refused arguments, and whole programs.

A test with the fixture `both` runs on the real eventlet as well.
"""

import hashlib
import json
import re
import signal
import subprocess
import sys
import time

import pytest

from client import BODY_PIECE, PATIENCE, Closed
from process import APPS, EXAMPLES, RUNNING, Server, clean_environment, eventually
from eventlet_scripts import LAST, UP, Script, both, chunked, library, maypole, own, shared  # noqa: F401


# --- connections ------------------------------------------------------------------------------------------------------


def test_http10_client_is_kept_where_it_asks(both):
    with both().client() as client:
        response = client.request("GET / HTTP/1.0", "Connection: keep-alive").response()
        assert response.get("Connection") == "keep-alive"
        client.assert_open()


def test_max_http_version_of_1_0(shared):
    with shared(max_http_version="HTTP/1.0").client() as client:
        response = client.get("/pieces")
        assert response.get("Transfer-Encoding") is None and response.get("Connection") == "close"
        assert response.body == b"a" * 10 + b"b" * 10 + b"c" * 10


def test_client_with_http2_is_served(maypole):
    """Eventlet has no HTTP/2. Its `get_socket` cannot have the connection of several requests."""
    # Smoke tests run where the package h2 is missing.
    from http2 import Http2Client

    with Http2Client(maypole) as client:
        streams = [client.request("/") for _ in range(3)]
        assert {client.response(stream).status for stream in streams} == {200}
        upload = client.get("/upload", method="POST", body=b"x" * 100_000)
        assert upload.status == 200 and b"100000" in upload.body
        assert client.get("/socket").status == 500
        assert client.get("/").status == 200
    maypole.err.wait("a connection of HTTP/2 cannot be taken over")


def test_keepalive_false_closes(both):
    with both(keepalive=False).client() as client:
        assert client.get("/").get("Connection") == "close"
        client.assert_closed()


def test_keepalive_is_a_time(both):
    with both(keepalive=1, socket_timeout=30).client() as client:
        begun = time.monotonic()
        client.assert_open()
        client.assert_closed()
        assert 0.5 < time.monotonic() - begun < PATIENCE / 2


def test_socket_timeout_closes_an_idle_connection_silently(both):
    with both(socket_timeout=1).client() as client:
        client.assert_open()
        client.assert_closed()


def request_line(length):
    return b"GET /" + b"a" * (length - len("GET / HTTP/1.1")) + b" HTTP/1.1"


@pytest.mark.parametrize("arguments, limit", [({}, 8192), ({"url_length_limit": 200}, 200)])
def test_request_line_limit(both, arguments, limit):
    server = both(**arguments)
    for length, status in [(limit - 3, 200), (limit - 2, 414)]:
        with server.client() as client:
            client.send(request_line(length) + b"\r\nHost: a\r\n\r\n")
            assert client.response().status == status, length


@pytest.mark.parametrize("arguments, limit", [({}, 8192), ({"globals": {"MAX_HEADER_LINE": 100}}, 100)])
def test_header_line_limit(both, library, arguments, limit):
    server = both(**arguments)
    for length, status in [(limit - 3, 200), (limit - 2, 431 if library == "maypole" else 400)]:
        with server.client() as client:
            client.send(b"GET / HTTP/1.1\r\nHost: a\r\nX: " + b"a" * (length - 3) + b"\r\n\r\n")
            assert client.response().status == status, length


def test_header_total_limit(both):
    with both(globals={"MAX_TOTAL_HEADER_SIZE": 1000}, url_length_limit=200).client() as client:
        client.send(b"GET / HTTP/1.1\r\nHost: a\r\n" + b"X: " + b"a" * 500 + b"\r\nY: " + b"a" * 1000 + b"\r\n\r\n")
        assert client.response().status in (400, 431)


@pytest.mark.parametrize("fields", [["Content-Length: 3", "Transfer-Encoding: chunked"], ["Content-Length: -1"],
                                    ["Content-Length: x"]])
def test_bad_framing_is_400(both, fields):
    with both().client() as client:
        client.request("POST / HTTP/1.1", *fields)
        assert client.response().status == 400


def test_idle_connections_hold_no_place(shared):
    server = shared(max_size=1)
    with server.client() as one, server.client() as two, server.client() as three:
        for client in (one, two, three):
            client.assert_open()


def test_custom_pool_bounds_requests(shared):
    server = shared(pool=1)
    with server.client() as slow, server.client() as next_one:
        begun = time.monotonic()
        slow.request("GET /sleep?s=0.4 HTTP/1.1")
        next_one.request("GET /sleep?s=0.4 HTTP/1.1")
        assert slow.response().body == next_one.response().body == b"slept"
        assert time.monotonic() - begun > 0.7


# --- the socket, hooks ------------------------------------------------------------------------------------------------


def test_socket_is_the_applications(both):
    server = both()
    with server.client() as client:
        client.request("GET /socket HTTP/1.1")
        assert client.response().body == b"raw"
        client.send(b"anything")
        client.assert_closed()
    assert "echo anything" in server.events("echo anything")


def test_already_handled_sends_nothing(both):
    with both().client() as client:
        client.request("GET /silent HTTP/1.1")
        client.assert_closed()


def test_already_handled_with_a_body_sends_nothing(maypole):
    with maypole.client() as client:
        client.request("POST /silent HTTP/1.1", "Content-Length: 5", body=b"12345")
        client.assert_closed()


def test_posthooks_run_after_close(both):
    server = both()
    server.get("/hooks?name=plain")
    events = server.events("hook plain word 1 /hooks")
    assert events.index("close plain") < events.index("hook plain word 1 /hooks")


@pytest.mark.parametrize("kind", ["list", "iterated", "file", "replaced", "method"])
def test_environ_may_be_cleared(maypole, kind):
    start = len(maypole.err.text())
    with maypole.client() as client:
        response = client.get(f"/clears?name={kind}&kind={kind}")
        assert (response.status, response.body) == (200, b"cleared"), maypole.err.text()[start:]
        assert client.get(f"/clears?name=head{kind}&kind={kind}", method="HEAD").status == 200
        client.assert_open()
    assert f"hook {kind} cleared" in maypole.events(f"hook {kind} cleared")
    assert "Traceback" not in maypole.err.text()[start:]


def test_failure_after_the_environ_was_cleared_is_a_500(maypole):
    start = len(maypole.err.text())
    assert maypole.get("/clears?name=raises&kind=raises").status == 500
    maypole.logged("LookupError: made to fail after clearing", start)
    assert "KeyError" not in maypole.err.text()[start:]


def test_startup_line_comes_before_the_first_access_line():
    result = python("""
        import socket, threading
        from maypole import eventlet as wsgi

        class Log:
            lines, seen = [], threading.Event()

            def info(self, message, *arguments):
                if "starting up" in message:
                    # Were requests served already, the line of the one that waits would come now.
                    self.seen.wait(0.5)
                self.lines.append(message)
                if "GET /" in message:
                    self.seen.set()
                    wsgi.is_accepting = False

            debug = info

        def application(environ, start_response):
            start_response("200 OK", [])
            return [b"early"]

        sock = socket.create_server(("127.0.0.1", 0))
        client = socket.create_connection(sock.getsockname())
        client.sendall(b"GET / HTTP/1.1\\r\\nHost: a\\r\\n\\r\\n")
        wsgi.server(sock, application, log=Log())
        print([next(word for word in ("starting", "GET", "exited") if word in line) for line in Log.lines])
        """.replace("\n        ", "\n"))
    assert result.stdout.strip() == "['starting', 'GET', 'exited']", result.stdout + result.stderr


def test_posthook_that_fails_does_no_harm(maypole):
    start = len(maypole.err.text())
    with maypole.client() as client:
        assert client.get("/hooks?name=broken&broken=1").body == b"hooked"
        client.assert_open()
    assert "hook broken word 1 /hooks" in maypole.events("hook broken word 1 /hooks")
    maypole.logged("LookupError: a hook made to fail", start)


def test_proxy_protocol_is_a_setting(shared):
    server = shared(proxy_protocol="v1", protocol={"default_request_version": "HTTP/1.0"})
    with server.client() as client:
        client.send(b"PROXY TCP4 192.0.2.7 192.0.2.1 5000 80\r\n")
        seen = json.loads(client.get("/environ?proxied").body)
    assert (seen["REMOTE_ADDR"], seen["REMOTE_PORT"]) == ("192.0.2.7", "5000")
    server.logged(r"(?m)^192\.0\.2\.7 - - .*proxied")


# --- logs -------------------------------------------------------------------------------------------------------------


def test_access_line_has_the_default_format(both):
    server = both()
    start = len(server.err.text())
    response = server.get("/?line=default")
    line = (r'^127\.0\.0\.1 - - \[\d\d/[A-Z][a-z]{2}/\d{4} \d\d:\d\d:\d\d\] "GET /\?line=default HTTP/1\.1" 200 (\d+) '
            r"\d+\.\d{6}$")
    match = server.logged(f"(?m){line}", start)
    assert int(match[1]) == len(response.head) + len(response.body)


def test_access_line_has_the_format_that_was_given(both):
    log_format = "at:%(client_ip)s:%(client_port)s %(request_line)s %(status_code)d %(wall_seconds).7f"
    server = both(log_format=log_format)
    server.get("/?line=given", "X-Forwarded-For: 10.0.0.1, 10.0.0.2")
    server.logged(r"at:10\.0\.0\.1,10\.0\.0\.2,127\.0\.0\.1:\d+ GET /\?line=given HTTP/1\.1 200 \d+\.\d{7}\n")


def test_forwarded_for_can_be_left_out(both):
    server = both(log_x_forwarded_for=False)
    server.get("/?line=without", "X-Forwarded-For: 10.0.0.1")
    server.logged(r"(?m)^127\.0\.0\.1 - - .*line=without")


def test_forwarded_for_is_escaped(maypole):
    maypole.get("/?line=escaped", "X-Forwarded-For: 1\t\x9b2J")
    maypole.logged(r"(?m)^1\\t\\x9b2J,127\.0\.0\.1 - - .*line=escaped")


def test_logger_is_used_as_it_is(both):
    server = both(logger=True)
    server.get("/raises?line=logger")
    server.logged(r"INFO \(\d+\) wsgi starting up on http://127\.0\.0\.1:\d+")
    server.logged(r"INFO Traceback \(most recent call last\)")
    server.logged(r'INFO 127\.0\.0\.1 - - \[.*\] "GET /raises\?line=logger HTTP/1\.1" 500')


def test_no_log_output_hides_everything(own, library):
    script = Script(library, log_output=False, logger=True, globals={})
    try:
        # This server logs no line when it is ready.
        script.process.send_signal(signal.SIGTERM)
        script.process.wait(PATIENCE)
        assert "wsgi" not in script.err.wait_end()
    finally:
        script.kill()
        RUNNING.remove(script)


# --- the end ----------------------------------------------------------------------------------------------------------


def ended(server):
    assert server.wait() == 0
    return server.out.wait_end()


def test_system_exit_ends_here(own, library):
    server = own(library)
    server.get("/")
    server.signal(signal.SIGTERM)
    assert "returned None\ndescriptor -1\n" in ended(server)
    assert "wsgi exiting" in server.err.text()
    server.logged(r"\(\d+\) wsgi exited, is_accepting=True")


def test_keyboard_interrupt_ends_here(own):
    server = own()
    server.signal(signal.SIGINT)
    assert "returned None\ndescriptor -1\n" in ended(server)


def test_other_exception_goes_on_after_the_drain(own):
    server = own()
    with server.client() as client:
        client.request("GET /sleep?s=0.7 HTTP/1.1")
        server.events("sleeping")
        server.signal(signal.SIGUSR1)
        assert client.response().body == b"slept"
    assert "raised RuntimeError: made to end\ndescriptor -1\n" in ended(server)


def test_is_accepting_false_ends_it(own):
    server = own()
    assert server.get("/stop").body == b"hello"
    assert "returned None\ndescriptor -1\nthreads ['MainThread']" in ended(server)
    server.logged("wsgi exited, is_accepting=False")


def test_listener_that_is_shut_down_ends_it(own):
    server = own()
    server.get("/")
    server.signal(signal.SIGUSR2)
    assert "raised OSError: [Errno 22]" in ended(server)


def test_listener_that_is_closed_ends_it(own):
    server = own()
    assert server.get("/close_listener").body == b"hello"
    assert "raised OSError: [Errno 9]" in ended(server)


def test_drain_closes_idle_connections_and_finishes_requests(own, library):
    server = own(library)
    with server.client() as idle, server.client() as busy:
        idle.assert_open()
        busy.request("GET /sleep?s=1 HTTP/1.1")
        server.events("sleeping")
        server.signal(signal.SIGTERM)
        idle.assert_closed()
        assert busy.response().body == b"slept"
    ended(server)


def test_drain_is_bounded(own):
    server = own(graceful_timeout=0.5)
    with server.client() as client:
        client.request("GET /sleep?s=30 HTTP/1.1")
        server.events("sleeping")
        begun = time.monotonic()
        server.signal(signal.SIGTERM)
        server.logged("wsgi exited")
        assert time.monotonic() - begun < 10
        server.kill()


def test_request_that_was_marked_idle_ends_with_the_server(own):
    server = own(graceful_timeout=60)
    with server.client() as client:
        client.request("GET /idle HTTP/1.1")
        ticks = client.chunks(client.head())
        assert next(ticks) == b"tick\n"
        server.signal(signal.SIGTERM)
        with pytest.raises(Closed):
            for _ in ticks:
                pass
    ended(server)
    assert "marked idle" in server.err.text() and "Traceback" not in server.err.text()


def test_server_event_gets_the_server(both):
    server = both(server_event=True, url_length_limit=300)
    assert "server_event Server 300 True" in server.events("server_event Server 300 True")
    assert server.json("/outstanding") == 1


# --- what is refused --------------------------------------------------------------------------------------------------


def python(code, *args):
    """Runs Python code in a separate process."""
    return subprocess.run([sys.executable, "-W", "ignore", "-c", code, *args], env=clean_environment(),
                          capture_output=True, text=True, timeout=3 * PATIENCE, cwd=APPS)


SOCKET = "import socket; from maypole import eventlet as wsgi; s = socket.create_server(('127.0.0.1', 0))\n"


@pytest.mark.parametrize("code, error", [
    ("class P(wsgi.HttpProtocol):\n    def get_environ(self): pass\n    def handle(self): pass\n"
     "wsgi.server(s, None, protocol=P)",
     r"TypeError: P overrides .*\n +get_environ: wrap the application.*\n +handle: proxy_protocol="),
    ("class P(wsgi.HttpProtocol):\n    class MessageClass: pass\nwsgi.server(s, None, protocol=P)",
     r"TypeError: P overrides .*\n +MessageClass: default_content_type=''"),
    ("wsgi.server(s, None, protocol=dict)", r"TypeError: protocol must be None or maypole.eventlet.HttpProtocol"),
    ("wsgi.HttpProtocol.parse_request = lambda self: True\nwsgi.server(s, None)",
     r"TypeError: HttpProtocol overrides .*\n +parse_request: limits are settings"),
    ("class Pool:\n    spawn = waitall = None\nwsgi.server(s, None, custom_pool=Pool())",
     r"TypeError: custom_pool must be a maypole.Pool, not __main__.Pool"),
    ("import ssl\ns = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH).wrap_socket(s, server_side=True)\n"
     "wsgi.server(s, None)",
     r"ValueError: the socket is wrapped for TLS, and does not name its certificate; .* certfile= and keyfile="),
    ("wsgi.server(s, None, log_format='%(nothing)s')", r"KeyError: 'nothing'"),
    ("wsgi.server(s, None, pool_sise=3)", r"TypeError: .*pool_size"),
    ("wsgi.server(s, None, max_http_version='HTTP/2')", r"ValueError: "),
])
def test_refused_with_a_sentence(code, error):
    result = python(SOCKET + code)
    assert result.returncode == 1 and re.search(error, result.stderr), result.stderr


def test_lenient_framing_earns_a_warning():
    result = python(SOCKET.replace("import socket", "import socket, warnings; warnings.simplefilter('error')")
                    + "class P(wsgi.HttpProtocol):\n    reject_bad_requests = False\nwsgi.server(s, None, protocol=P)")
    assert "RuntimeWarning: P.reject_bad_requests = False has no effect" in result.stderr


@pytest.mark.parametrize("code, name", [
    ("import eventlet; eventlet.monkey_patch()", "eventlet"),
    ("import gevent.monkey; gevent.monkey.patch_all()", "gevent"),
])
def test_patched_threads_are_refused(code, name):
    result = python(f"{code}\n{SOCKET}wsgi.server(s, None)")
    assert f"RuntimeError: {name} has monkey-patched" in result.stderr, result.stderr


@pytest.mark.parametrize("code", [
    "import eventlet; eventlet.monkey_patch(thread=False, socket=True, os=False, select=False, time=False)",
    "import gevent.monkey; gevent.monkey.patch_socket()",
    "import eventlet, gevent.monkey",
])
def test_other_patches_are_not_refused_for_their_threads(code):
    result = python(f"{code}\nfrom maypole._patched import patched_by; print(patched_by())")
    assert result.stdout == "None\n", result.stderr


# --- whole programs ---------------------------------------------------------------------------------------------------


@pytest.fixture
def swift_shaped():
    script = Script("maypole", script="swift_shaped.py")
    try:
        yield script.wait_ready()
        script.stop()
    finally:
        if script.process.poll() is None:
            script.kill()
        RUNNING.remove(script)


BOUNDARY = "f" * 64


def put(client, name, data, *, multiphase=True):
    """Returns the bytes that Swift's proxy sends for an object, up to the end of the first phase."""
    client.request(
        f"PUT /{name} HTTP/1.1", "Transfer-Encoding: chunked", "Expect: 100-continue",
        f"X-Backend-Obj-Multipart-Mime-Boundary: {BOUNDARY}", "X-Backend-Obj-Metadata-Footer: yes",
        *(["X-Backend-Obj-Multiphase-Commit: yes"] if multiphase else []),
    )
    head = client.head()
    assert head.status == 100 and head.get("X-Obj-Metadata-Footer") == "yes"
    assert head.get("X-Obj-Multiphase-Commit") == ("yes" if multiphase else None)
    footer = json.dumps({"etag": hashlib.sha256(data).hexdigest()}).encode()
    tail = b"--" + BOUNDARY.encode() + (b"" if multiphase else b"--")
    client.send(chunked(
        b"--%s\r\nX-Document: object body\r\n\r\n" % BOUNDARY.encode(),
        *(data[start:start + 65536] for start in range(0, len(data), 65536)),
        b"\r\n--%s\r\nX-Document: object metadata\r\n\r\n%s\r\n%s\r\n" % (BOUNDARY.encode(), footer, tail),
    ) + LAST)


def commit(client):
    client.send(chunked(b"X-Document: put commit\r\n\r\nput_commit_confirmation\r\n--%s--" % BOUNDARY.encode()) + LAST)


@pytest.mark.parametrize("size", [0, 10, 3_000_000])
def test_swift_shaped_multiphase_put(swift_shaped, size):
    data = (BODY_PIECE * 2)[:size]
    with swift_shaped.client() as client:
        put(client, "object", data)
        second = client.head()
        assert second.status == 100
        commit(client)
        response = client.response("PUT")
        assert response.status == 201 and response.get("ETag") == hashlib.sha256(data).hexdigest()
        assert client.get("/object").body == data


def test_swift_shaped_put_without_commit_stores_nothing(swift_shaped):
    with swift_shaped.client() as client:
        put(client, "lost", b"data")
        assert client.head().status == 100
        client.close()
    swift_shaped.logged("499")
    assert swift_shaped.get("/lost").status == 404


def test_swift_shaped_single_phase_put(swift_shaped):
    with swift_shaped.client() as client:
        put(client, "single", b"data", multiphase=False)
        assert client.response("PUT").status == 201
        assert client.get("/single").body == b"data"


def test_swift_shaped_names_and_types_as_they_came(swift_shaped):
    with swift_shaped.client() as client:
        response = client.get("/?raw", "X-Object-Meta-MiXed: 1")
        assert json.loads(response.body) == {"X-Object-Meta-MiXed": "1", "content type": ""}


def test_swift_shaped_heartbeat_leaves_at_once(swift_shaped):
    with swift_shaped.client() as client:
        client.request("GET /?heartbeat HTTP/1.1")
        chunks = client.chunks(client.head())
        assert next(chunks) == b" "
        swift_shaped.get("/?go")
        assert b"".join(chunks) == b"done"


def test_swift_shaped_hangup_ends_it(swift_shaped):
    swift_shaped.signal(signal.SIGHUP)
    assert swift_shaped.wait() == 0
    assert "done" in swift_shaped.out.wait_end()


def test_glance_shaped_workers_are_replaced_and_lose_nothing():
    script = Script("2", script="glance_shaped.py")
    try:
        script.wait_ready()
        first = script.err.wait(r"(?s)\((\d+)\) wsgi starting up.*\((\d+)\) wsgi starting up").group(1, 2)
        with script.client() as client:
            client.request("GET /slow HTTP/1.1")
            slow = script.out.wait(r"slow (\d+)")[1]
            assert slow in first
            script.signal(signal.SIGHUP)
            answers = set()

            def comes_from_a_new_one():
                answers.add(script.get("/pid").body.decode())
                return answers - set(first)

            eventually(comes_from_a_new_one, what="a response of a new worker")
            answers |= {script.get("/pid").body.decode() for _ in range(100)}
            assert client.response().body.decode() == slow
        for pid in first:
            script.out.wait(f"ended {pid} 0")
        after = {script.get("/pid").body.decode() for _ in range(20)}
        assert not after & set(first)
        script.stop()
        assert "ended" in script.out.text() and " 1\n" not in script.out.text()
    finally:
        if script.process.poll() is None:
            script.kill()
        RUNNING.remove(script)


def test_example_runs():
    server = Server(None, (), None, EXAMPLES, command=[sys.executable, "eventlet_server.py", "0"])
    try:
        server.addresses = [server.err.wait(UP)[2]]
        assert server.get("/").body.startswith(b"Hello from ")
        server.signal(signal.SIGINT)
        assert server.wait() == 0
    finally:
        if server.process.poll() is None:
            server.kill()
        RUNNING.remove(server)


def test_format_date_time():
    assert python("from maypole.eventlet import format_date_time as f; print(f(0), f(1764033600))").stdout == (
        "Thu, 01 Jan 1970 00:00:00 GMT Tue, 25 Nov 2025 01:20:00 GMT\n")
