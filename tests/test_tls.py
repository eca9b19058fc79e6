"""HTTPS: handshakes, requests and responses over TLS, and clients that do it wrong."""

import contextlib
import json
import re
import signal
import ssl
import subprocess
import threading

import pytest

from client import BODY_PIECE, PATIENCE, Client, pattern_sha
from process import Lines, eventually
from status import Status
from tls import AUTHORITY, TLS, ByHand, TlsClient, context

VERSIONS = [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3]
HELLO = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"


@pytest.fixture(scope="module")
def secured(module_server):
    return module_server("secured", *TLS)


@pytest.mark.parametrize("version", VERSIONS)
def test_requests_of_every_kind_over_tls(secured, version):
    settings = context(version)
    with TlsClient(secured.address, settings) as client:
        assert client.socket.selected_alpn_protocol() == "http/1.1"
        seen = json.loads(client.get("/environ?a=b").body)["environ"]
        assert (seen["wsgi.url_scheme"], seen["HTTPS"], seen["REMOTE_ADDR"]) == ("https", "on", "127.0.0.1")
        # Several requests in one record, and one request in several.
        client.send(HELLO * 5)
        assert [client.response().body for _ in range(5)] == [b"Hello, World!\n"] * 5
        for byte in HELLO:
            client.send(bytes([byte]))
        assert client.response().status == 200
        size = 5_000_001
        body = (bytes(range(256)) * (size // 256 + 1))[:size]
        assert client.post("/sha", body).body.split()[:2] == [b"%d" % size, pattern_sha(size).encode()]
        assert client.post("/echo", body[:200_000]).body == body[:200_000]
        client.request("POST /echo HTTP/1.1", "Transfer-Encoding: chunked", body=b"3\r\nabc\r\n" * 1000 + b"0\r\n\r\n")
        assert client.response().body == b"abc" * 1000
        for path in ("/file", "/whole?n=3000000", "/big?n=3000000", "/blocks?n=3000000"):
            assert client.get(path).body == (bytes(range(256)) * 12_000)[:3_000_000], path
        assert client.get("/file", method="HEAD").get("Content-Length") == "3000000"
        assert client.post("/unread", b"x" * 100_000).status == 200
        client.assert_open()
        client.request("GET / HTTP/1.1", "Connection: close")
        assert client.response().status == 200
        client.assert_ended()


def test_curl_and_openssl(secured):
    url = f"https://localhost:{secured.port}"
    for version in ("--tlsv1.2", "--tlsv1.3"):
        done = subprocess.run(
            ["curl", "-sS", "--cacert", AUTHORITY, version, "-T", "-", f"{url}/echo", f"{url}/whole?n=100000"],
            input=b"data" * 50_000, capture_output=True, timeout=PATIENCE)
        assert (done.returncode, done.stderr, len(done.stdout)) == (0, b"", 200_000 + 100_000), done.stderr
    for version in ("-tls1_2", "-tls1_3"):
        done = subprocess.run(
            ["openssl", "s_client", "-connect", f"localhost:{secured.port}", "-CAfile", AUTHORITY, version, "-quiet",
             "-verify_return_error", "-servername", "localhost", "-ign_eof"],
            input=b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n", capture_output=True, timeout=PATIENCE)
        assert b"Hello, World!" in done.stdout, (version, done.stderr)


@pytest.mark.smoke
@pytest.mark.parametrize("version", VERSIONS)
def test_client_that_ends_in_order_is_told_the_same(secured, version):
    """RFC 8446 §6.1: each side sends close_notify before it closes. unwrap() raises an error without it."""
    with TlsClient(secured.address, context(version)) as client:
        client.socket.unwrap()
    with TlsClient(secured.address, context(version)) as client:
        assert client.get().body == b"Hello, World!\n"
        client.socket.unwrap()
    with TlsClient(secured.address, context(version)) as client:
        assert client.get().body == b"Hello, World!\n"
        # The end of an idle client reaches the coroutine that waits for all of them.
        assert client.quiet(0.5)
        client.socket.unwrap()


def test_client_that_asks_for_new_keys(secured):
    with subprocess.Popen(
        ["openssl", "s_client", "-connect", f"localhost:{secured.port}", "-CAfile", AUTHORITY, "-tls1_3", "-crlf"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as client:
        out, err = Lines(client.stdout), Lines(client.stderr)
        out.wait(r"Verify return code: 0")
        for _ in range(3):
            for lines, wanted, log in ((b"K\n", "KEYUPDATE", err), (b"GET / HTTP/1.1\nHost: a\n\n", "Hello, World!", out)):
                start = len(log.text())
                client.stdin.write(lines)
                client.stdin.flush()
                log.wait(wanted, start=start)
        client.stdin.close()
        client.wait(PATIENCE)
        out.wait_end()
        err.wait_end()


@pytest.mark.parametrize("version", VERSIONS)
def test_session_is_resumed(secured, version):
    settings = context(version)
    with TlsClient(secured.address, settings) as client:
        client.assert_open()
        session = client.socket.session
    with TlsClient(secured.address, settings, session=session) as client:
        client.assert_open()
        assert client.socket.session_reused


@pytest.mark.parametrize("version", VERSIONS)
def test_handshake_and_request_in_single_bytes(secured, version):
    with ByHand(secured.address, context(version)) as client:
        last = client.shake_hands(piece_bytes=1)
        client.send_each(last)
        client.finish()
        client.send_each(client.sealed(HELLO))
        assert client.read(12) == b"HTTP/1.1 200"


def test_request_in_the_same_packet_as_the_end_of_the_handshake(secured):
    with ByHand(secured.address) as client:
        last = client.shake_hands()
        client.socket.sendall(last + client.sealed(HELLO) + client.sealed(HELLO)[:50])
        assert client.read(12) == b"HTTP/1.1 200"


def test_plain_http_gets_a_sentence_or_a_redirect(secured, server):
    with Client(secured.address) as client:
        response = client.get("/x?y=z")
        assert (response.status, response.get("Connection")) == (400, "close")
        assert response.body == b"This address speaks HTTPS only: use https:// in place of http://.\n"
        client.assert_closed()
    secured.err.wait(r"\[INFO\] 127\.0\.0\.1:\d+: 400: plain HTTP on an address that speaks TLS, GET /x\n")
    with Client(secured.address) as client:
        assert client.send(b"\0nonsense\r\n\r\n").response().status == 400
    redirecting = server("secured", "--https-redirect", *TLS)
    with Client(redirecting.address) as client:
        client.send("HEAD /x?y=z HTTP/1.1\r\n")
        response = client.send("Host: shop.example:8443\r\n\r\n").response("HEAD")
        assert (response.status, response.get("Location")) == (308, "https://shop.example:8443/x?y=z")
    with Client(redirecting.address) as client:
        assert client.send("GET / HTTP/1.0\r\n\r\n").response().status == 400, "no host is known"


def test_handshake_that_fails_has_one_line(server):
    running = server("secured", *TLS)
    for settings in (context(trusts=False), context(alpn=("h3",))):
        for _ in range(3):
            with pytest.raises(ssl.SSLError):
                TlsClient(running.address, settings).close()
    text = running.err.wait(r"\[INFO\] 127\.0\.0\.1:\d+: the TLS handshake has failed: (.*)\n")
    assert "UnknownCA" in text[1] and text[1].endswith(", which the client sent"), text
    # A client that opens a connection and closes it has no line.
    Client(running.address).close()
    running.stop()
    assert running.err.wait_end().count("the TLS handshake has failed") <= 2


def test_unfinished_handshakes_hold_no_coroutine(server):
    running = server("secured", "--header-timeout", "60s", "--status-bind", "127.0.0.1:0", *TLS)
    status = Status(running)
    with contextlib.ExitStack() as stack:
        for n in range(40):
            client = stack.enter_context(ByHand(running.address))
            if n < 30:
                client.socket.sendall(client.sealed()[:100])
            else:
                # These have got the server's part.
                client.shake_hands()
        assert eventually(lambda: status.metric('maypole_connections_idle{worker="1"}') == 40)
        assert eventually(lambda: status.metric('maypole_coroutines{worker="1"}') == 0)
        with TlsClient(running.address) as client:
            client.assert_open()


def test_handshake_that_is_late_is_ended(server):
    running = server("secured", "--header-timeout", "500ms", *TLS)
    with ByHand(running.address) as client:
        client.socket.sendall(client.sealed()[:100])
        assert client.socket.recv(100) == b""
    running.err.wait(r"\[INFO\] 127\.0\.0\.1:\d+: the TLS handshake has not ended in time, --header-timeout is 500ms\n")


def test_part_of_a_record_has_the_time_of_a_head(server):
    running = server("secured", "--header-timeout", "2s", *TLS)
    with ByHand(running.address) as client:
        client.socket.sendall(client.shake_hands())
        client.socket.sendall(client.sealed(HELLO))
        client.read(12)
        client.socket.sendall(client.sealed(HELLO)[:-1])
        with contextlib.suppress(ssl.SSLWantReadError):
            while client.receive():
                pass
    running.err.wait(r"408: a request head of which 0 bytes came in ")


def test_slow_senders_and_readers_are_cut(server):
    running = server("secured", "--body-timeout", "1s", "--write-timeout", "1s", *TLS)
    with TlsClient(running.address) as client:
        client.request("POST /sha HTTP/1.1", "Content-Length: 10", body=b"x")
        assert client.response().status == 408
        client.assert_ended()
    with TlsClient(running.address, receive_buffer=4096) as client:
        client.request("GET /endless?name=a HTTP/1.1")
        running.err.wait(r'the response to "GET /endless\?name=a HTTP/1.1" is cut off: the client took nothing for 1s')
        client.rest()
        assert client.was_cut


def test_end_is_told_only_if_nothing_is_missing(server):
    running = server("secured", "--keep-alive", "500ms", *TLS)
    with TlsClient(running.address) as client:
        client.assert_open()
        client.assert_ended()
    with TlsClient(running.address) as client:
        client.request("GET /cut HTTP/1.1")
        assert b"the first block" in client.rest()
        assert client.was_cut


def test_drain_serves_and_then_ends_in_order(server):
    running = server("secured", *TLS)
    with TlsClient(running.address) as idle, TlsClient(running.address) as busy, TlsClient(running.address) as other:
        idle.assert_open()
        busy.request("GET /hold/a HTTP/1.1")
        assert other.get("/held/a?n=1").status == 200
        other.send("GET /release/a HTTP/1.1\r\n")
        running.signal(signal.SIGTERM)
        running.err.wait("SIGTERM: stopping")
        idle.assert_ended()
        for client in (other.send("Host: a\r\n\r\n"), busy):
            response = client.response()
            assert (response.status, response.get("Connection")) == (200, "close")
            client.assert_ended()
    assert running.wait() == 0


def test_reload_ends_idle_clients_in_order_and_serves_new_ones(server):
    running = server("secured", "-w", "2", *TLS)
    with TlsClient(running.address) as idle:
        idle.assert_open()
        running.signal(signal.SIGHUP)
        idle.assert_ended()
        running.err.wait(r"reload")
        with TlsClient(running.address) as client:
            client.assert_open()


def test_proxy_header_comes_before_the_handshake(server):
    running = server("secured", "--proxy-protocol", "v1", *TLS)
    header = b"PROXY TCP4 192.0.2.7 192.0.2.1 51000 443\r\n"
    with TlsClient(running.address, first=header) as client:
        seen = json.loads(client.get("/environ").body)["environ"]
        assert (seen["REMOTE_ADDR"], seen["wsgi.url_scheme"]) == ("192.0.2.7", "https")
    with ByHand(running.address) as client:
        client.send_each(header + client.sealed())
        while not client.outgoing.pending:
            client.receive()
            last = client.sealed()
            if last:
                break
        client.socket.sendall(last + client.sealed(HELLO))
        assert client.read(12) == b"HTTP/1.1 200"


def test_trusted_proxy_names_the_scheme(secured):
    with TlsClient(secured.address) as client:
        seen = json.loads(client.get("/environ", "X-Forwarded-Proto: http").body)["environ"]
        assert (seen["wsgi.url_scheme"], "HTTPS" in seen) == ("http", False)


def test_connection_is_taken_over(server):
    running = server("secured", *TLS)
    with TlsClient(running.address) as client:
        client.request("GET /socket HTTP/1.1", "Connection: Upgrade", "Upgrade: echo", body=b"first ")
        assert client.head().status == 101
        sent = b"first " + BODY_PIECE[:300_000]
        assert client.exchange(sent[6:], len(sent)) == sent
        client.send(b"!")
        assert client.rest() == b"!the end" and not client.was_cut
    with TlsClient(running.address) as client:
        client.request("GET /socket HTTP/1.1", "Connection: Upgrade", "Upgrade: echo")
        assert client.head().status == 101
        running.signal(signal.SIGTERM)
        assert client.rest() == b"the end" and not client.was_cut
    assert running.wait() == 0


def test_many_clients_at_once(secured):
    failed = []

    def work():
        try:
            for _ in range(3):
                with TlsClient(secured.address) as client:
                    for n in range(5):
                        assert client.post("/echo", b"%d" % n * 1000).body == b"%d" % n * 1000
        except Exception as error:
            failed.append(error)

    threads = [threading.Thread(target=work) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
    assert not failed, failed
    assert eventually(lambda: "panicked" not in secured.err.text())
    assert re.search("listening on", secured.err.text())
