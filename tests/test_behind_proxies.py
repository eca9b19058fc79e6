"""docs/howto/behind-haproxy.md and behind-caddy.md: each snippet with the proxy itself and a real server."""

import json
import re

import pytest

from client import Client
from process import eventually
from deployment import caddy, fronts, haproxy, line_on, place, shop  # noqa: F401 (fixtures)
from test_behind_nginx import FORGED, place_of
from test_websocket import TEXT, WebSocket

HAPROXY, CADDY = "behind-haproxy", "behind-caddy"


def port_of(server):
    return f"127.0.0.1:{server.port}"


def environ(front, *fields):
    return json.loads(front.get("/environ", *fields).body)["environ"]


def answers(front):
    """Waits until HAProxy considers the server to be up. Until then it responds with 503."""
    eventually(lambda: front.get().status == 200, what="that requests pass")
    return front


# --- HAProxy --------------------------------------------------------------------------------------------------------


def test_haproxy_in_http_mode(shop, haproxy):
    test = "test_haproxy_in_http_mode"
    running = shop(HAPROXY, test, "--access-logfile", "-", "--werkzeug-socket")
    front = answers(haproxy(HAPROXY, test, {"127.0.0.1:8000": port_of(running), "inter 2s": "inter 200ms"}))
    seen = environ(front, "X-Forwarded-Proto: https", "X-Forwarded-For: 192.0.2.1", *FORGED)
    assert place_of(seen) == ("shop.example", "80", "")
    assert (seen["HTTP_X_FORWARDED_FOR"], seen["HTTP_X_FORWARDED_PROTO"]) == ("127.0.0.1", "http")
    # The check is a request like any other, to the host that the page names.
    running.out.wait(r'"GET / HTTP/1\.[01]" 200 ')
    running.stop()
    eventually(lambda: "has no server available!" in front.said(), what="a line about the check")
    assert "Layer4 connection problem" in front.said() and "Connection refused" in front.said()
    assert front.get().status == 503


def test_haproxy_tries_the_next_server(shop, haproxy):
    first, second = (shop(HAPROXY, "test_haproxy_in_http_mode", "--server-header", name) for name in ("one", "two"))
    front = answers(haproxy(HAPROXY, "test_haproxy_tries_the_next_server", {
        "127.0.0.1:8001": port_of(first), "127.0.0.1:8002": port_of(second)}))
    assert {front.get().get("Server") for _ in range(20)} == {"one", "two"}
    first.stop()
    # This also holds before a health check has noticed the change.
    assert [front.get().status for _ in range(20)] == [200] * 20


def test_haproxy_with_the_proxy_protocol(shop, haproxy):
    test = "test_haproxy_with_the_proxy_protocol"
    running = shop(HAPROXY, test)
    front = haproxy(HAPROXY, test, {"127.0.0.1:8000": port_of(running)})
    eventually(lambda: _answers(front), what="that connections pass")
    with front.client() as client:
        mine = client.socket.getsockname()
        seen = json.loads(client.get("/environ").body)["environ"]
    assert (seen["REMOTE_ADDR"], int(seen["REMOTE_PORT"])) == mine
    assert running.get().status == 400
    running.err.wait(line_on(HAPROXY, "400: missing or malformed PROXY header"))


def _answers(front):
    try:
        return front.get().status == 200
    except Exception as error:  # noqa: BLE001 (in TCP mode a connection ends without a response while no server is up)
        return not error


def test_server_that_does_not_expect_the_header_says_so(shop, haproxy):
    running = shop(HAPROXY, "test_haproxy_in_http_mode")
    haproxy(HAPROXY, "test_haproxy_with_the_proxy_protocol", {"127.0.0.1:8000": port_of(running)}).client().request()
    running.err.wait(line_on(HAPROXY, "400: malformed method"))


def test_proxy_that_is_not_allowed_gets_403(shop):
    running = shop(HAPROXY, "test_haproxy_with_the_proxy_protocol", replace=[("-from 127.0.0.1", "-from 10.0.0.0/8")])
    assert running.get().status == 403
    running.err.wait(line_on(HAPROXY, "403: "))


# --- Caddy ----------------------------------------------------------------------------------------------------------


def test_caddy_on_a_port(shop, caddy):
    test = "test_caddy_on_a_port"
    running = shop(CADDY, test)
    front = caddy(CADDY, test, {"127.0.0.1:8000": port_of(running)})
    seen = environ(front, "X-Forwarded-For: 192.0.2.1", "X-Forwarded-Proto: https", *FORGED)
    assert (seen["HTTP_X_FORWARDED_FOR"], seen["HTTP_X_FORWARDED_PROTO"]) == ("127.0.0.1", "http")
    assert place_of(seen) == ("shop.example", "80", "")
    running.stop()
    assert front.get().status == 502
    eventually(lambda: re.search(r"dial tcp 127\.0\.0\.1:\d+: connect: connection refused", front.said()), what="a line")


def test_caddy_on_a_unix_socket(shop, caddy):
    test = "test_caddy_on_a_unix_socket"
    running = shop(CADDY, test)
    front = caddy(CADDY, test, {"max_size 100MB": "max_size 1MB"})
    with front.client() as client:
        client.request("GET /drip/one HTTP/1.1", host="shop.example")
        assert client.head().status == 200
        blocks = client.chunks()
        assert next(blocks) == b"first"
        with Client(running.address) as other:
            other.get("/release/one")
        assert next(blocks) == b"second"
    with front.client() as client:
        client.request("POST /sha HTTP/1.1", "Content-Length: 2000000", host="shop.example", body=bytes(2_000_000))
        assert client.response().status == 413
    running.err.wait(line_on(CADDY, "400: "))
    running.stop()
    assert front.get().status == 502
    eventually(lambda: re.search(r"dial unix \S+/shop\.sock: connect: no such file or directory", front.said()), what="a line")


def test_websocket_through_caddy(shop, caddy, place):
    pytest.importorskip("flask_sock")
    from process import ROOT

    application = (ROOT / "tests/apps/websocket.py").read_text() + "\napplication = app\n"
    running = shop(CADDY, "test_caddy_on_a_port", "--werkzeug-socket", files={"shop/wsgi.py": application})
    front = caddy(CADDY, "test_caddy_on_a_port", {
        "127.0.0.1:8000": port_of(running), "http://shop.example": "http://127.0.0.1, http://test.example"})
    with WebSocket(f"http://127.0.0.1:{front.port}") as websocket:
        assert websocket.send(TEXT, b"a").receive() == (TEXT, b"a")
