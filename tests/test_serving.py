"""maypole.serving: the servers of wsgiref and werkzeug, in this process if a program would use them so, and a program
of Odoo's shape in a separate process."""

import contextlib
import os
import pathlib
import re
import signal
import socket
import threading

import pytest

from client import Client
from process import EXAMPLES, PROGRAMS, eventually
from running import change, get, program

serving = None


@pytest.fixture(autouse=True)
def the_module():
    global serving
    import maypole.serving as serving


def hello(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [b"hello"]


@contextlib.contextmanager
def forever(server):
    """Serves in a thread until the block ends."""
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield thread
    finally:
        server.shutdown()
        thread.join(10)
        assert not thread.is_alive()
        server.server_close()


def test_make_server_serves_until_shutdown():
    server = serving.make_server("127.0.0.1", 0, hello)
    assert server.server_address == ("127.0.0.1", server.server_port) and server.port == server.server_port
    assert server.fileno() == server.socket.fileno() and server.app is hello
    with forever(server):
        assert get(server.server_port).body == b"hello"
    with pytest.raises(ConnectionRefusedError):
        Client(f"http://127.0.0.1:{server.server_port}")


def test_names_of_wsgiref_make_its_server():
    class Mine(serving.WSGIServer):
        bound = False

        def server_bind(self):
            super().server_bind()
            self.bound = True

    class Quiet(serving.WSGIRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, format, *args):
            pass

    with serving.make_server("127.0.0.1", 0, hello, server_class=Mine, handler_class=Quiet) as server:
        assert server.bound and server.get_app() is hello
        with forever(server):
            assert get(server.server_port).body == b"hello"


def test_shutdown_lets_what_runs_end():
    inside, go_on = threading.Event(), threading.Event()

    def slow(environ, start_response):
        inside.set()
        go_on.wait(10)
        return hello(environ, start_response)

    server = serving.make_server("127.0.0.1", 0, slow)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    with Client(f"http://127.0.0.1:{server.server_port}") as client:
        client.request()
        assert inside.wait(10)
        stopper = threading.Thread(target=server.shutdown)
        stopper.start()
        eventually(lambda: server._server is None or server._server.state == "stopping")
        assert stopper.is_alive() and thread.is_alive()
        go_on.set()
        response = client.response()
        assert (response.body, response.get("Connection")) == (b"hello", "close")
    stopper.join(10)
    thread.join(10)
    assert not stopper.is_alive() and not thread.is_alive()


def test_shutdown_inside_a_request_lets_it_end():
    def last(environ, start_response):
        server.shutdown()
        return hello(environ, start_response)

    server = serving.make_server("127.0.0.1", 0, last)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    assert get(server.server_port).body == b"hello"
    thread.join(10)
    assert not thread.is_alive()


def test_shutdown_before_serve_forever_ends_it_at_once():
    server = serving.make_server("127.0.0.1", 0, hello)
    server.shutdown()
    server.serve_forever()


def test_serve_forever_of_wsgiref_serves_again():
    server = serving.WSGIServer(("127.0.0.1", 0))
    server.set_app(hello)
    for _ in range(3):
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        assert get(server.server_port).status == 200
        server.shutdown()
        thread.join(10)
        assert not thread.is_alive()
    server.server_close()


def test_set_app_changes_what_comes_next():
    server = serving.make_server("127.0.0.1", 0, hello)
    with forever(server):
        assert get(server.server_port).body == b"hello"

        def other(environ, start_response):
            hello(environ, start_response)
            return [b"other"]

        server.set_app(other)
        assert get(server.server_port).body == b"other"


def test_service_actions_are_called():
    class Busy(serving.WSGIServer):
        calls = 0

        def service_actions(self):
            self.calls += 1

    server = Busy(("127.0.0.1", 0))
    server.set_app(hello)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    eventually(lambda: server.calls > 2)
    server.shutdown()
    thread.join(10)
    server.server_close()


def test_threaded_false_is_one_thread():
    def multithread(environ, start_response):
        start_response("200 OK", [])
        return [str(environ["wsgi.multithread"]).encode()]

    for threaded in (False, True):
        server = serving.make_server("127.0.0.1", 0, multithread, threaded=threaded)
        with forever(server):
            assert get(server.server_port).body == str(threaded).encode()


def test_unix_socket_replaces_one_that_was_left(tmp_path):
    path = tmp_path / "socket"
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(path))
    server = serving.make_server(f"unix://{path}", 0, hello)
    with forever(server), Client(f"unix:{path}") as client:
        assert client.get().body == b"hello"
    with socket.socket(socket.AF_UNIX) as alive:
        path.unlink(missing_ok=True)
        alive.bind(str(path))
        alive.listen()
        with pytest.raises(OSError):
            serving.make_server(f"unix://{path}", 0, hello)


def test_thread_that_serves_takes_no_signal():
    server = serving.make_server("127.0.0.1", 0, hello)
    with forever(server) as thread:

        def blocked():
            status = pathlib.Path(f"/proc/self/task/{thread.native_id}/status").read_text()
            return int(re.search(r"^SigBlk:\s+(\w+)", status, re.M)[1], 16)

        # The signal wakes the main thread, on which Python handles signals.
        eventually(lambda: blocked() >> (signal.SIGHUP - 1) & blocked() >> (signal.SIGTERM - 1) & 1)


# --- handle_request -------------------------------------------------------------------------------------------------


def counting():
    count = [0]

    def application(environ, start_response):
        count[0] += 1
        start_response("200 OK", [])
        return [b"%d" % count[0]]

    return application, count


def test_handle_request_serves_one_and_leaves_the_others():
    application, count = counting()
    with serving.make_server("127.0.0.1", 0, application) as server:
        clients = [Client(f"http://127.0.0.1:{server.server_port}").request() for _ in range(3)]
        for number, client in enumerate(clients, 1):
            server.handle_request()
            assert count[0] == number
            assert client.response().body == b"%d" % number
            client.assert_closed()


def test_handle_request_passes_over_who_says_nothing():
    application, count = counting()
    with serving.make_server("127.0.0.1", 0, application) as server:
        with Client(f"http://127.0.0.1:{server.server_port}"), Client(f"http://127.0.0.1:{server.server_port}") as client:
            client.request()
            server.handle_request()
            assert client.response().body == b"1"


def test_handle_request_without_a_request_calls_handle_timeout():
    class Impatient(serving.WSGIServer):
        timeout = 0.05
        timeouts = 0

        def handle_timeout(self):
            self.timeouts += 1

    with Impatient(("127.0.0.1", 0)) as server:
        server.set_app(hello)
        server.handle_request()
        assert server.timeouts == 1
        with Client(f"http://127.0.0.1:{server.server_port}") as client:
            client.request()
            server.timeout = 20
            server.handle_request()
            assert client.response().body == b"hello"
        assert server.timeouts == 1


# --- sockets that are given -----------------------------------------------------------------------------------------


def test_fd_is_served_and_stays_open():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        server = serving.make_server("ignored.example", 1, hello, fd=listener.fileno())
        assert server.server_port == port
        with forever(server):
            assert get(port).body == b"hello"
        assert listener.getsockname()[1] == port
        # The other descriptor still listens, because the server did not shut the socket down.
        socket.create_connection(("127.0.0.1", port)).close()


def test_inherited_fd(monkeypatch):
    for name in ("LISTEN_FDS", "LISTEN_PID", "WERKZEUG_RUN_MAIN", "WERKZEUG_SERVER_FD"):
        monkeypatch.delenv(name, raising=False)
    assert serving.inherited_fd() is None
    monkeypatch.setenv("LISTEN_FDS", "1")
    monkeypatch.setenv("LISTEN_PID", str(os.getpid() + 1))
    assert serving.inherited_fd() is None
    monkeypatch.setenv("LISTEN_PID", str(os.getpid()))
    assert serving.inherited_fd() == 3
    monkeypatch.setenv("WERKZEUG_SERVER_FD", "17")
    assert serving.inherited_fd() == 3
    monkeypatch.setenv("WERKZEUG_RUN_MAIN", "true")
    assert serving.inherited_fd() == 17


# --- what cannot be honoured ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("arguments, error, sentence", [
    ({"ssl_context": "other"}, ValueError, "certfile= and keyfile="),
    ({"processes": 4}, ValueError, "one process"),
    ({"passthrough_errors": True}, ValueError, "gets a 500"),
    ({"thread": 4}, TypeError, "threads"),
    ({"threads": 0}, ValueError, "threads"),
    ({"server_class": socket.socket}, TypeError, "maypole.serving.WSGIServer"),
])
def test_arguments_that_cannot_be_honoured_are_refused(arguments, error, sentence):
    with pytest.raises(error, match=sentence):
        serving.make_server("127.0.0.1", 0, hello, **arguments)


def test_classes_whose_methods_would_not_be_called_are_refused():
    from socketserver import ThreadingMixIn
    from wsgiref.simple_server import WSGIRequestHandler

    class Environ(WSGIRequestHandler):
        def get_environ(self):
            return {}

    with pytest.raises(TypeError, match=r"Environ\.get_environ would never be called"):
        serving.make_server("127.0.0.1", 0, hello, handler_class=Environ)
    with pytest.raises(TypeError, match=r"verify_request would never be called"):
        type("Choosy", (serving.WSGIServer,), {"verify_request": lambda *_: False})
    type("Threading", (ThreadingMixIn, serving.WSGIServer), {})(("127.0.0.1", 0)).server_close()


def test_an_address_in_use_is_an_error():
    with serving.make_server("127.0.0.1", 0, hello) as server, pytest.raises(OSError):
        serving.make_server("127.0.0.1", server.server_port, hello)


# --- run_simple -----------------------------------------------------------------------------------------------------

RUN_SIMPLE = """
import time

from maypole.serving import run_simple

def app(environ, start_response):
    if environ["PATH_INFO"] == "/fail":
        raise LookupError("on purpose")
    if environ["PATH_INFO"] == "/hang":
        time.sleep(60)
    start_response("200 OK", [])
    return [b"first"]

if __name__ == "__main__":
    run_simple("127.0.0.1", 0, app, %s)
"""


def test_run_simple_ends_with_ctrl_c(server, tmp_path):
    script = tmp_path / "simple.py"
    script.write_text(RUN_SIMPLE % "static_files={'/static': '.'}")
    running = program(server, script, cwd=tmp_path)
    assert running.get().body == b"first"
    assert running.get("/static/simple.py").body == script.read_bytes()
    running.signal(signal.SIGINT)
    assert running.wait() == 0


def test_run_simple_reloads_on_the_same_socket(server, tmp_path):
    pytest.importorskip("werkzeug")
    script = tmp_path / "simple.py"
    script.write_text(RUN_SIMPLE % "use_reloader=True, use_debugger=True, reloader_type='stat'")
    running = program(server, script, cwd=tmp_path)
    assert running.get().body == b"first"
    page = running.get("/fail")
    assert page.status == 500 and b"on purpose" in page.body and b"__debugger__" in page.body
    with running.client() as hanging:
        hanging.request("GET /hang HTTP/1.1")
        change(running, script, "first", "second", "Detected change")
        # No client is refused meanwhile, because the socket stays. The old process may respond until it has ended.
        eventually(lambda: running.get().body == b"second")
        # A request that does not end does not delay the new code.
        hanging.assert_closed()
    running.signal(signal.SIGTERM)
    running.wait()


# --- the shape of Odoo ----------------------------------------------------------------------------------------------


@pytest.fixture
def odoo(server):
    return program(server, PROGRAMS / "odoo_shaped.py", 0, cwd=PROGRAMS, out=True)


def test_odoo_shaped_threads_are_seen(odoo):
    lines = odoo.get("/threads").body.decode().splitlines()
    assert "MainThread False" in lines and "odoo.service.httpd True" in lines
    assert any(line.startswith("odoo.service.http.request.") and line.endswith(" True") for line in lines), lines


def test_odoo_shaped_first_signal_finishes_what_runs(odoo):
    with odoo.client() as client, odoo.client() as idle:
        idle.assert_open()
        client.request("GET /slow?0.5 HTTP/1.1")
        odoo.out.wait("slow begins")
        odoo.signal(signal.SIGINT)
        odoo.out.wait("stopping")
        assert client.response().status == 200
        idle.assert_closed()
    assert odoo.wait() == 0
    text = odoo.out.wait_end()
    assert "drained" in text and "over" in text and "joining" not in text


def test_odoo_shaped_second_signal_ends_at_once(odoo):
    with odoo.client() as client:
        client.request("GET /slow?60 HTTP/1.1")
        odoo.out.wait("slow begins")
        odoo.signal(signal.SIGINT)
        odoo.out.wait("stopping")
        odoo.signal(signal.SIGINT)
        assert odoo.wait() == 7
    assert "Forced shutdown." in odoo.err.wait_end()


def test_odoo_shaped_hangup_executes_itself_and_keeps_the_socket(odoo):
    failed = []
    stop = threading.Event()

    def ask():
        while not stop.is_set():
            try:
                if odoo.get().status != 200:
                    failed.append("status")
            except Exception as error:
                failed.append(repr(error))

    before = odoo.get("/generation").body.split()
    asking = threading.Thread(target=ask)
    asking.start()
    for generation in (1, 2):
        odoo.signal(signal.SIGHUP)
        odoo.out.wait(f"took the socket, generation {generation}")
        eventually(lambda: odoo.get("/generation").body.split()[0] == b"%d" % generation)
    stop.set()
    asking.join(20)
    assert not failed, failed[:5]
    assert odoo.get("/generation").body.split() == [b"2", before[1]]
    odoo.signal(signal.SIGINT)
    assert odoo.wait() == 0


def test_odoo_shaped_quit_shows_the_stacks(odoo):
    with odoo.client() as client:
        client.request("GET /slow?1 HTTP/1.1")
        odoo.out.wait("slow begins")
        odoo.signal(signal.SIGQUIT)
        odoo.out.wait(r"# thread odoo\.service\.http\.request\.\d+: .*odoo_shaped\.py")
        odoo.out.wait("# end of dump")
        assert client.response().status == 200
    odoo.signal(signal.SIGINT)
    assert odoo.wait() == 0


# --- examples -------------------------------------------------------------------------------------------------------


def test_example_odoo_like(server):
    running = program(server, EXAMPLES / "odoo_like.py", "127.0.0.1:0", cwd=EXAMPLES, out=True)
    assert running.get().body.startswith(b"Hello from a thread")
    running.signal(signal.SIGINT)
    assert running.wait() == 0
    assert "stopped" in running.out.wait_end()


def test_example_embedded(server):
    running = program(server, EXAMPLES / "embedded.py", 200, cwd=EXAMPLES, out=True)
    first = int(running.get().body.split()[0])
    eventually(lambda: int(running.get().body.split()[0]) > first)
    assert running.wait() == 0
    assert re.search(r"done; [2-9]\d* asked|done; 1\d+ asked", running.out.wait_end())
