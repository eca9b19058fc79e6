"""Error log lines for refused requests: the client, the size or time, the limit, its setting, the request."""

import re
import socket
import ssl

import pytest

from client import Closed

HEAD = b"POST /upload HTTP/1.1\r\nHost: a\r\n"
LONG = b"x" * 400


@pytest.fixture(scope="module")
def small(module_server):
    """Starts a server with small limits."""
    return module_server(
        "probe", "--max-body-size", "1KiB", "--limit-request-line", "300", "--limit-request-fields", "5",
        "--limit-request-field-size", "300", "--limit-request-head", "1KiB", "--header-timeout", "300ms", "--body-timeout", "300ms",
    )


@pytest.mark.smoke
@pytest.mark.parametrize("sent, line", [
    (HEAD + b"Content-Length: 2000000000\r\n\r\n", "413: a body of 2000000000 bytes, --max-body-size is 1KiB, POST /upload"),
    (HEAD + b"Content-Length: 99999999999999999999\r\n\r\n",
     '413: a Content-Length of more than 64 bits, --max-body-size is 1KiB, "POST /upload HTTP/1.1"'),
    (HEAD + b"Transfer-Encoding: chunked\r\n\r\n800\r\n" + b"x" * 2048,
     "413: a chunked body of more than 1024 bytes, --max-body-size is 1KiB, POST /upload"),
    (b"GET /" + LONG, f'414: a request line of more than 300 bytes, --limit-request-line is 300, "GET /{"x" * 195}…"'),
    (b"GET /a HTTP/1.1\r\nHost: a\r\nCookie: " + LONG + b"\r\n\r\n",
     '431: a header field Cookie of more than 300 bytes, --limit-request-field-size is 300, "GET /a HTTP/1.1"'),
    (b"GET /a HTTP/1.1\r\n" + b"a: b\r\n" * 6 + b"\r\n",
     '431: more than 5 header fields, --limit-request-fields is 5, "GET /a HTTP/1.1"'),
    (b"GET /a HTTP/1.1\r\n" + (b"a: " + LONG[:280] + b"\r\n") * 4 + b"\r\n",
     '431: a request head of more than 1024 bytes, --limit-request-head is 1KiB, "GET /a HTTP/1.1"'),
    (b"GET /late HTTP/1.1\r\nHost", r'408: a request head of which 24 bytes came in [\d.]+ m?s, --header-timeout is 300ms, "GET /late HTTP/1\.1"'),
    (HEAD + b"Content-Length: 10\r\n\r\nabc",
     "408: a body of 10 bytes of which 3 came and then nothing more, --body-timeout is 300ms, POST /upload"),
    (b"GET /a\x1b[31m\" HTTP/1.1\r\nHost: a\r\n\r\n", r'400: invalid character in the request target, "GET /a\\x1b\[31m\\" HTTP/1\.1"'),
    (b"GET /a HTTP/1.1\r\n\r\n", '400: no Host header, "GET /a HTTP/1.1"'),
    (b"G\xe9T / HTTP/1.1\r\n\r\n", r'400: malformed method, "G\\xe9T / HTTP/1\.1"'),
])
def test_refusal_says_who_what_and_which_limit(small, sent, line):
    with small.client() as client:
        port = client.socket.getsockname()[1]
        client.send(sent)
        assert client.response().status == int(line[:3])
    line = line if "\\" in line else re.escape(line)
    found = small.err.wait(rf"\[INFO\] 127\.0\.0\.1:{port}: (.*)\n")[1]
    assert re.fullmatch(line, found), found


def test_body_that_ends_early_says_how_much_came(small):
    with small.client() as client:
        client.send(HEAD + b"Content-Length: 10\r\n\r\nabcd").half_close()
        assert client.response().status == 400
    small.err.wait(r"400: a body of 10 bytes of which 4 came before the client closed the connection, POST /upload\n")


def test_streamed_body_that_breaks_off_says_why(server):
    running = server("probe", "--stream-requests", "always", "--body-timeout", "300ms")
    with running.client() as client:
        client.send(b"POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\nabc")
        running.err.wait(
            r"\[INFO\] 127\.0\.0\.1:\d+: the application cannot read all of the request body: a body of 10 bytes of which 3 came and "
            r"then nothing more, --body-timeout is 300ms, POST /echo\n"
        )


def test_response_that_its_client_does_not_read_says_so(server):
    running = server("probe", "--write-timeout", "300ms")
    with running.client(receive_buffer=4096) as client:
        client.request("GET /big?n=100000000 HTTP/1.1").head()
        running.err.wait(
            r'\[INFO\] 127\.0\.0\.1:\d+: the response to "GET /big\?n=100000000 HTTP/1\.1" is cut off: the client took nothing for 300ms '
            r"\(--write-timeout\)\n"
        )


def test_tls_on_the_plain_port_is_closed_and_called_so_once(server):
    running = server("probe", "--access-logfile", "-")
    for _ in range(20):
        plain = socket.create_connection(("127.0.0.1", running.port), 20)
        context = ssl.create_default_context()
        with pytest.raises((ssl.SSLError, ConnectionError)), plain:
            context.wrap_socket(plain, server_hostname="localhost")
    # The connection ends without a byte of HTTP, however few bytes arrive first, and after a request as well.
    hello = b"\x16\x03\x01\x02\0\1\0\1\xfc\3\3" + bytes(50) + b"\r\n\r\n"
    for first in (hello[:1], hello):
        with running.client() as client:
            client.send(first).assert_closed()
    with running.client() as client:
        client.assert_open()
        client.send(hello).assert_closed()
    running.stop()
    text = running.err.wait_end()
    assert running.out.wait_end().count('" 400 ') == 0
    assert re.search(r"\[INFO\] 127\.0\.0\.1:\d+: this looks like TLS; Maypole serves plain HTTP here: use http://", text), text
    # A busy machine may take longer than the interval for these twenty requests.
    assert text.count("this looks like TLS") <= 3 and "malformed" not in text, text


def test_http2_with_prior_knowledge_is_called_so(server):
    running = server("probe", "--http", "1")
    with running.client() as client:
        client.send(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\4\0\0\0\0\0")
        assert client.response().status == 505
        with pytest.raises(Closed):
            client.head()
    running.err.wait(r"\[INFO\] 127\.0\.0\.1:\d+: this is HTTP/2; Maypole serves HTTP/1\.1 here\n")


def test_limit_of_connections_by_the_setting_is_named(server):
    running = server("probe", "--max-connections", "2")
    with running.client() as one, running.client() as two:
        one.assert_open()
        two.assert_open()
        assert running.get().status == 200
    running.err.wait(r"\[WARNING\] the limit of connections is reached, 2 \(--max-connections\): idle ones are closed to make room, the longest idle first\n")


def test_limit_of_connections_by_the_descriptors_is_named_at_the_start(server):
    import resource

    running = server("probe", preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (256, 256)))
    most = int(running.err.wait(r"\[WARNING\] the limit of open files \(ulimit -n\) is 256, which is enough for (\d+) connections")[1])
    cause = r"\(the limit of open files is 256: ulimit -n, LimitNOFILE= in a systemd unit\)"
    clients = [running.client() for _ in range(most + 1)]
    clients[-1].assert_open()
    running.err.wait(rf"the limit of connections is reached, {most} {cause}")
    for client in clients:
        client.close()
