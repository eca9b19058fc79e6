"""WebSockets that rest in operation: workers and their replacement, a stop, proxies, forks, clients that vanish."""

import json
import signal
import socket
import struct
import threading

import pytest

from client import PATIENCE, Client
from deployment import fronts, haproxy, nginx, place, shop  # noqa: F401 (fixtures)
from process import APPS, eventually, halt
from test_resting_websocket import closing, frame, receive
from test_succession import succeed  # noqa: F401 (a fixture)
from test_websocket import CLOSE, PING, PONG, TEXT, WebSocket
from test_websocket_tls import APP, connect, said

# Of tcp(7): the module `socket` has no name for it.
TCP_REPAIR = 19


def process_of(websocket):
    return int(said(websocket, "which").split()[0])


def dismissed(websocket):
    """Waits for the close of the server, replies to it, and returns its code."""
    kind, content = receive(websocket)
    assert kind == CLOSE
    websocket.send(CLOSE, content[:2])
    websocket.client.assert_closed()
    websocket.client.close()
    return struct.unpack("!H", content[:2])[0]


# --- workers, and their replacement --------------------------------------------------------------------------------


@pytest.mark.parametrize("how", [(), ("--preload",)], ids=["plain", "preload"])
def test_reload_closes_with_1001_and_clients_reach_the_new_workers(server, how):
    running = server(APP, "-w", "2", *how)
    sockets = [connect(running) for _ in range(8)]
    old = {process_of(websocket) for websocket in sockets}
    running.signal(signal.SIGHUP)
    new = set()
    for websocket in sockets:
        assert dismissed(websocket) == 1001
        # A client that connects at once reaches a process that serves.
        again = connect(running)
        new.add(process_of(again))
        again.client.close()
    running.err.wait("on_close 1001 the server stops")
    assert new and not new & old


def test_another_program_takes_the_place_and_sockets_come_back(server, succeed):  # noqa: F811
    running = server(APP, "-w", "1")
    websocket = connect(running)
    old = process_of(websocket)
    succeed(running)
    assert dismissed(websocket) == 1001
    with connect(running) as again:
        assert process_of(again) != old
    eventually(lambda: running.get().status == 200, what="the new program serves")


def test_reload_of_a_single_process_closes_with_1001(server):
    running = server(APP)
    websocket = connect(running)
    running.signal(signal.SIGHUP)
    assert dismissed(websocket) == 1001
    with connect(running) as again:
        assert said(again, "new").endswith("new")


def test_worker_that_has_served_enough_closes_its_sockets_with_1001(server):
    running = server(APP, "-w", "1", "--max-requests", "5")
    websocket = connect(running)
    old = process_of(websocket)
    # Messages are no requests.
    for number in range(20):
        assert said(websocket, f"{number}").endswith(f" {number}")
    while int(running.get().body) == old:
        pass
    assert dismissed(websocket) == 1001
    with connect(running) as again:
        assert process_of(again) != old


# --- a stop --------------------------------------------------------------------------------------------------------


def test_stop_waits_for_a_message_that_is_handled(server, tmp_path):
    running = server(APP, "--graceful-timeout", "60s")
    websocket = connect(running)
    assert said(websocket, f"hold {tmp_path}/go") == "holding"
    running.signal(signal.SIGTERM)
    assert dismissed(websocket) == 1001
    (tmp_path / "go").touch()
    assert running.wait() == 0
    assert "on_close 1001 the server stops" in running.err.text()


def test_stop_cuts_off_a_message_that_takes_too_long(server, tmp_path):
    running = server(APP, "--graceful-timeout", "1s")
    websocket = connect(running)
    assert said(websocket, f"hold {tmp_path}/go") == "holding"
    running.signal(signal.SIGTERM)
    assert dismissed(websocket) == 1001
    running.wait()
    running.err.wait("--graceful-timeout cut off 1 call")


def test_client_that_replies_to_no_close_does_not_hold_the_stop(server):
    running = server(APP, "--graceful-timeout", "60s")
    with connect(running) as websocket:
        running.signal(signal.SIGTERM)
        assert receive(websocket)[0] == CLOSE
        assert running.wait() == 0


def test_embedded_server_closes_with_1001_at_its_stop_and_serves_again():
    maypole = pytest.importorskip("maypole")
    closes = []

    def application(environ, start_response):
        environ["maypole.websocket"].accept(lambda ws, message: ws.send(message), lambda ws, *close: closes.append(close))
        return []

    with maypole.Server(application, "127.0.0.1:0") as running:
        for number in range(1, 3):
            with WebSocket(running.addresses[0]) as websocket:
                assert websocket.send(TEXT, b"text").receive() == (TEXT, b"text")
                stop = threading.Thread(target=running.stop)
                stop.start()
                assert dismissed(websocket) == 1001
                stop.join(PATIENCE)
                assert not stop.is_alive() and closes == [(1001, "the server stops")] * number
            running.start()


def test_one_thread_keeps_the_order_of_each_socket(server, tmp_path):
    running = server(APP, "--threads", "1")
    slow, other = connect(running), connect(running)
    assert said(slow, f"hold {tmp_path}/go") == "holding"
    for number in range(50):
        for websocket in (slow, other):
            websocket.send(TEXT, b"%d" % number)
    (tmp_path / "go").touch()
    assert receive(slow) == (TEXT, b"held")
    for websocket in (slow, other):
        assert [int(receive(websocket)[1].split()[1]) for _ in range(50)] == list(range(50))


def test_slow_message_holds_only_its_own_socket(server, tmp_path):
    running = server(APP)
    slow, other = connect(running), connect(running)
    assert said(slow, f"hold {tmp_path}/go") == "holding"
    slow.send(TEXT, b"after")
    for number in range(50):
        assert said(other, f"{number}").endswith(f" {number}")
    (tmp_path / "go").touch()
    assert receive(slow) == (TEXT, b"held")
    assert receive(slow)[1].endswith(b" after")


# --- proxies, prefixes and mounts -------------------------------------------------------------------------------------


def test_trusted_proxy_and_prefix_decide_the_environ(server):
    running = server(APP, "--prefix", "/app")
    fields = ("X-Forwarded-For: 192.0.2.1", "X-Forwarded-Proto: https", "X-Forwarded-Host: shop.example")
    with connect(running, "/app/rooms", fields=fields) as websocket:
        assert json.loads(said(websocket, "environ")) == {
            "REMOTE_ADDR": "192.0.2.1", "wsgi.url_scheme": "https", "SCRIPT_NAME": "/app", "PATH_INFO": "/rooms",
            "HTTP_HOST": "shop.example"}
    with Client(running.address) as client:
        client.request("GET /elsewhere HTTP/1.1")
        assert client.response().status == 404


def test_mounted_application_has_websockets(server):
    running = server(f"{APP}:application", "--mount", f"/live={APP}:application")
    with connect(running, "/live/rooms") as mounted, connect(running, "/rooms") as main:
        seen = [json.loads(said(websocket, "environ")) for websocket in (mounted, main)]
    assert [(one["SCRIPT_NAME"], one["PATH_INFO"]) for one in seen] == [("/live", "/rooms"), ("", "/rooms")]


def through(front, running):
    """Checks a WebSocket through a proxy: messages, its close, and that of a server that stops."""
    address = f"http://127.0.0.1:{front.port}"
    with WebSocket(address) as websocket:
        for text in ("a", "b" * 10_000):
            assert said(websocket, text).endswith(text)
        websocket.send(CLOSE, struct.pack("!H", 1000) + b"bye")
        assert receive(websocket) == (CLOSE, struct.pack("!H", 1000) + b"bye")
        websocket.client.assert_closed()
    running.err.wait("on_close 1000 bye")
    with WebSocket(address) as websocket:
        assert said(websocket, "again").endswith("again")
        running.signal(signal.SIGTERM)
        assert receive(websocket)[1][:2] == struct.pack("!H", 1001)
        websocket.send(CLOSE, struct.pack("!H", 1001))
        websocket.client.assert_closed()
    assert running.wait() == 0


def code():
    return {"shop/wsgi.py": (APPS / f"{APP}.py").read_text()}


def test_resting_websocket_through_nginx(shop, nginx):  # noqa: F811
    test = "test_websocket_through_nginx"
    running = shop("behind-nginx", test, files=code())
    through(nginx("behind-nginx", test, {"127.0.0.1:8000": f"127.0.0.1:{running.port}"}), running)


def test_resting_websocket_through_haproxy(shop, haproxy):  # noqa: F811
    test = "test_haproxy_in_http_mode"
    running = shop("behind-haproxy", test, files=code())
    front = haproxy("behind-haproxy", test, {"127.0.0.1:8000": f"127.0.0.1:{running.port}", "inter 2s": "inter 200ms"})
    eventually(lambda: front.get().status == 200, what="that requests pass")
    through(front, running)


# --- clients that vanish, and forks -----------------------------------------------------------------------------------


def test_client_that_stops_without_a_word_is_found_by_pings(server):
    running = server(APP, env={"PINGS": "0.3"})
    # The client's kernel acknowledges the pings, but the client does not reply.
    with connect(running) as websocket:
        running.err.wait("on_close 1006 ")
        websocket.client.close()


def test_client_that_is_gone_without_a_fin_is_found_by_a_ping(server):
    # The first ping comes when the client has gone, also on a busy machine.
    running = server(APP, env={"PINGS": "3"})
    before = running.descriptors()
    websocket = connect(running)
    assert said(websocket, "here").endswith("here")
    try:
        # A socket in this state closes without a packet, as if its machine had lost its power.
        websocket.client.socket.setsockopt(socket.IPPROTO_TCP, TCP_REPAIR, 1)
    except PermissionError:
        pytest.skip("only root may take a socket away silently")
    websocket.client.socket.close()
    running.err.wait("on_close 1006 ")
    eventually(lambda: running.descriptors() <= before, what="the descriptor is closed")


def test_child_of_a_message_cannot_use_the_socket_and_the_parent_can(server):
    running = server(APP)
    with connect(running) as websocket:
        assert "cannot be used in a child process" in said(websocket, "fork")
        assert said(websocket, "on").endswith("on")
        websocket.client.send(frame(0x88, struct.pack("!H", 1000)))
        assert closing(websocket) == 1000


def test_server_that_was_held_up_keeps_the_clients_that_have_replied(server):
    running = server(APP, env={"PINGS": "0.5"})
    with connect(running) as websocket:
        assert receive(websocket)[0] == PING
        halt(running.pid)
        websocket.send(PONG)
        # In this time, a client that does not reply would be given up.
        assert websocket.client.quiet(1)
        running.signal(signal.SIGCONT)
        assert next_text(websocket, "there").endswith("there")
        # A client that leaves is told of in the same way.
        assert "on_close 1006" not in running.err.text()


def test_client_that_has_to_wait_for_a_slow_message_is_not_given_up(server, tmp_path):
    running = server(APP, env={"PINGS": "0.3"})
    with connect(running) as websocket:
        assert next_text(websocket, f"hold {tmp_path}/go") == "holding"
        # The server receives no more than some of these.
        websocket.client.send(b"".join(frame(0x81, b"%d" % number) for number in range(100)))
        websocket.send(PONG)
        with connect(running) as other:
            for _ in range(5):
                assert receive(other)[0] == PING
                other.send(PONG)
        (tmp_path / "go").touch()
        assert text_of(websocket) == b"held"
        assert [int(text_of(websocket).split()[1]) for _ in range(100)] == list(range(100))


def text_of(websocket):
    """Returns the next text. Replies to the pings before it."""
    while (got := receive(websocket))[0] == PING:
        websocket.send(PONG, got[1])
    assert got[0] == TEXT, got
    return got[1]


def next_text(websocket, message):
    websocket.send(TEXT, message.encode())
    return text_of(websocket).decode()
