"""The PROXY protocol with a real process: its effect on the application, the access log and unknown clients."""

import json
import socket
import struct

import pytest

PROXIED = "192.0.2.7"


def v1(source=PROXIED, destination="198.51.100.1", ports=(4711, 443)):
    family = "TCP6" if ":" in source else "TCP4"
    return f"PROXY {family} {source} {destination} {ports[0]} {ports[1]}\r\n".encode()


def v2(source=PROXIED, destination="198.51.100.1", ports=(4711, 443), command=1, more=b""):
    family = socket.AF_INET6 if ":" in source else socket.AF_INET
    payload = socket.inet_pton(family, source) + socket.inet_pton(family, destination) + struct.pack("!HH", *ports) + more
    kind = 0x21 if family == socket.AF_INET6 else 0x11
    return b"\r\n\r\n\0\r\nQUIT\n" + struct.pack("!BBH", 0x20 | command, kind, len(payload)) + payload


# The fields that HAProxy adds: a checksum, a unique identifier, padding.
MORE = b"\x03\0\4abcd" + b"\x05\0\5where" + b"\x04\1\0" + b"\0" * 256


@pytest.fixture(scope="module")
def proxied(module_server):
    return module_server("probe", "--proxy-protocol", "auto")


def seen(client, header, pieces=None):
    """Returns the client's address and port in the environ."""
    if pieces:
        for start in range(0, len(header), pieces):
            client.send(header[start:start + pieces])
    else:
        client.send(header)
    environ = json.loads(client.get("/environ").body)["environ"]
    return environ["REMOTE_ADDR"], environ["REMOTE_PORT"]


@pytest.mark.smoke
@pytest.mark.parametrize(("header", "expected"), [
    (v1(), (PROXIED, "4711")),
    (v1("2001:db8::7", "::1", (1, 2)), ("2001:db8::7", "1")),
    (v2(), (PROXIED, "4711")),
    (v2(more=MORE), (PROXIED, "4711")),
    (v2("2001:db8::7", "::1", (65535, 2)), ("2001:db8::7", "65535")),
])
def test_application_sees_the_proxied_client(proxied, header, expected):
    for pieces in (None, 1, 5):
        with proxied.client() as client:
            assert seen(client, header, pieces) == expected
            # The second request of the connection has no PROXY header.
            assert seen(client, b"") == expected


@pytest.mark.parametrize("header", [b"PROXY UNKNOWN\r\n", b"PROXY UNKNOWN ffff::1 ffff::2 1 2\r\n", v2(command=0)])
def test_proxy_that_speaks_for_itself_keeps_its_address(proxied, header):
    with proxied.client() as client:
        address, port = client.socket.getsockname()
        assert seen(client, header) == (address, str(port))


def test_pipelined_requests_behind_the_header_are_answered_in_order(proxied):
    with proxied.client() as client:
        requests = b"".join(b"POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\n%d" % n for n in range(3))
        client.send(v2(more=MORE) + requests)
        assert [client.response().body for _ in range(3)] == [b"0", b"1", b"2"]


@pytest.mark.parametrize("opening", [
    b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", b"PROXY TCP4 192.0.2.7\r\n", b"PROXY UNKNOWN\n", b"P" * 200,
    v2()[:12] + b"\x11" + v2()[13:], b"\x16\x03\x01\x02\0\1\0\1\xfc\3\3",
])
def test_missing_or_malformed_header_is_400_and_closes(proxied, opening):
    with proxied.client() as client:
        client.send(opening)
        assert client.response().status == 400
        client.assert_closed()


@pytest.mark.parametrize("pieces", [5, 100])
def test_head_without_a_header_is_answered_alike_in_any_pieces(proxied, pieces):
    # No request begins before the header has ended, so a client gets a body even if it sends HEAD.
    opening = b"\r\nHEAD / HTTP/1.1\r\n"
    with proxied.client() as client:
        client.send(opening[:pieces])
        assert client.response().body == b"400 Bad Request\n"
        client.assert_closed()


def test_stranger_is_403_and_closed(server):
    strict = server("probe", "--proxy-protocol", "v2", "--proxy-allow-from", "10.0.0.0/8,127.0.0.2")
    for opening in (v2(), b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"):
        with strict.client(source="127.0.0.3") as client:
            client.send(opening)
            assert client.response().status == 403
            client.assert_closed()
    strict.err.wait(r"127\.0\.0\.3:\d+: 403: ")
    with strict.client(source="127.0.0.2") as client:
        assert seen(client, v2()) == (PROXIED, "4711")


def test_header_counts_for_the_header_timeout(server):
    short = server("probe", "--proxy-protocol", "auto", "--header-timeout", "400ms")
    for header in (v1(), v2()):
        with short.client() as client:
            client.send(header[:-1])
            assert client.response().status == 408
            client.assert_closed()


def test_access_log_names_the_proxied_client(server, tmp_path):
    log = tmp_path / "access"
    logging = server("probe", "--proxy-protocol", "v1", "--access-logfile", log, "--access-logformat", "%(h)s %(s)s")
    with logging.client() as client:
        client.send(v1("2001:db8::7", "::1"))
        assert client.get("/").status == 200
    logging.stop()
    assert log.read_text() == "2001:db8::7 200\n"


def test_unix_socket_is_always_a_proxys(server, tmp_path):
    path = tmp_path / "socket"
    behind = server("probe", "--bind", f"unix:{path}", "--proxy-protocol", "auto", "--proxy-allow-from", "10.0.0.1",
                    bind=False)
    with behind.client() as client:
        assert seen(client, v2("2001:db8::7", "::1")) == ("2001:db8::7", "4711")
    with behind.client() as client:
        assert seen(client, b"PROXY UNKNOWN\r\n") == ("", "")


def test_header_is_not_taken_where_it_is_not_asked_for(probe):
    for header in (v1(), v2()):
        with probe.client() as client:
            client.send(header)
            assert client.response().status == 400


def test_settings_are_checked(server):
    wrong = server("probe", "--proxy-protocol", "v2", "--proxy-allow-from", "everyone", ready=False)
    wrong.err.wait("expected an IP address")
    assert wrong.wait() == 2
