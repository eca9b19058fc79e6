"""HTTP/2: requests and responses of every kind, by prior knowledge and with TLS."""

import json
import re
import shutil
import subprocess

import pytest

from client import pattern_sha
from http2 import DATA, PREFACE, SETTINGS, Http2Client, frame
from tls import TLS, TlsClient, context

SIZE = 3_000_000
PATTERN = (bytes(range(256)) * (SIZE // 256 + 1))[:SIZE]


@pytest.fixture(scope="module", params=["plain", "tls"])
def secured(module_server, request):
    running = module_server("secured", *(TLS if request.param == "tls" else ()))
    running.tls = request.param == "tls"
    return running


def connect(running, **more):
    return Http2Client(running, tls=getattr(running, "tls", False), **more)


def test_requests_of_every_kind(secured):
    with connect(secured) as client:
        response = client.get("/")
        assert (response.status, response.body) == (200, b"Hello, World!\n")
        assert response.get("content-length") == "14" and response.get("server") == "maypole" and response.get("date")
        assert client.get("/none").status == 404
        assert client.get("/fail").status == 500
        for path in ("/file", f"/whole?n={SIZE}", f"/big?n={SIZE}", f"/blocks?n={SIZE}"):
            assert client.get(path).body == PATTERN, path
        head = client.get("/file", method="HEAD")
        assert (head.get("content-length"), head.body) == (str(SIZE), b"")
        for status in ("204 No Content", "304 Not Modified"):
            response = client.get("/status?s=" + status.replace(" ", "+"))
            assert (response.status, response.body, response.get("x-probe")) == (int(status[:3]), b"", "1")
        assert client.get("/status?s=418+Teapot").body == b"a body"


def test_bodies_of_requests(secured):
    with connect(secured) as client:
        body = PATTERN[:1_000_001]
        for fields in ([], [("content-length", str(len(body)))]):
            response = client.get("/sha", *fields, method="POST", body=body)
            assert response.body.split() == [b"1000001", pattern_sha(1_000_001).encode(), b"1000001"]
        assert client.get("/echo", method="POST", body=b"").body == b""
        assert client.get("/echo", method="POST", body=PATTERN[:200_000]).body == PATTERN[:200_000]
        # The client may not know that its body is not read.
        assert client.get("/unread", method="POST", body=PATTERN[:60_000]).status == 200
        assert client.get("/").status == 200


def test_streams_are_served_at_the_same_time(secured):
    with connect(secured) as client:
        held = client.request("/hold/http2")
        others = [client.request("/") for _ in range(50)]
        assert [client.response(stream).status for stream in others] == [200] * 50
        assert client.responses[held].status is None
        assert client.get("/release/http2").status == 200
        assert client.response(held).body == b"held http2"


def test_response_comes_as_the_application_makes_it(secured):
    with connect(secured) as client:
        stream = client.request("/drip/later")
        response = client.responses[stream]
        client.until(lambda: response.body == b"first")
        assert not response.ended
        client.get("/release/later")
        assert client.response(stream).body == b"firstsecond"


def test_response_that_breaks_off_is_reset(secured):
    with connect(secured) as client:
        response = client.get("/cut")
        assert response.status == 200 and response.reset == 2 and not response.ended
        assert client.get("/").status == 200


def test_environ_of_a_stream(secured):
    with connect(secured) as client:
        fields = [("cookie", "a=1"), ("x-twice", "1"), ("cookie", "b=2"), ("x-twice", "2")]
        seen = json.loads(client.get("/environ?a=b", *fields, authority="shop.example:81").body)["environ"]
        assert seen["SERVER_PROTOCOL"] == "HTTP/2.0"
        assert (seen["HTTP_HOST"], seen["HTTP_COOKIE"], seen["HTTP_X_TWICE"]) == ("shop.example:81", "a=1; b=2", "1, 2")
        assert (seen["RAW_URI"], seen["PATH_INFO"], seen["QUERY_STRING"]) == ("/environ?a=b", "/environ", "a=b")
        assert (seen["REMOTE_ADDR"], seen["wsgi.url_scheme"]) == ("127.0.0.1", "https" if secured.tls else "http")
        assert "maypole.socket" not in seen and "maypole.client_disconnected" in seen
        if secured.tls:
            assert seen["SSL_PROTOCOL"] == "TLSv1.3"
        host = [(":method", "GET"), (":scheme", "http"), (":path", "/environ")]
        seen = json.loads(client.get("/environ", ("host", "other.example"), pseudo=host).body)["environ"]
        assert seen["HTTP_HOST"] == "other.example"


def test_same_rules_for_fields_as_in_http1(secured):
    with connect(secured) as client:
        assert client.get("/", authority="two words").reset == 1
        assert client.get("/", pseudo=[(":method", "GET"), (":scheme", "http"), (":path", "/")]).status == 400
        assert client.get("/", ("expect", "200-maybe"), method="POST", body=b"x").status == 417
        assert client.get("/" + "x" * 9000).status == 414
        assert client.get("/", ("x-long", "x" * 20_000)).status == 431
        assert client.get("/", *[(f"x-{n}", "1") for n in range(200)]).status == 431
        tunnel = [(":method", "CONNECT"), (":authority", "other.example:80")]
        assert client.get("/", pseudo=tunnel).status == 501
        assert client.get("/").status == 200


@pytest.mark.parametrize(
    "fields",
    [
        [("connection", "close")],
        [("transfer-encoding", "chunked")],
        [("keep-alive", "1")],
        [("upgrade", "websocket")],
        [("te", "gzip")],
        [("host", "other.example")],
        [("x-space", " before")],
        [("x-space", "behind\t")],
        [("content-length", "5")],
        [("content-length", "x")],
    ],
)
def test_malformed_request_is_reset(secured, fields):
    """RFC 9113 §8.1.1, §8.2.1, §8.2.2."""
    with connect(secured) as client:
        response = client.get("/", *fields)
        assert response.reset == 1 and response.status is None
        assert client.get("/").status == 200


@pytest.mark.parametrize("field", [("X-Upper", "1"), ("x-newline", "a\nb"), ("x-nul", "a\0b"), ("x y", "1")])
def test_field_that_no_client_sends_ends_the_connection(secured, field):
    with connect(secured) as client:
        client.request("/", field)
        assert client.end() == (1, 0)


def test_extended_connect_is_not_offered_and_is_reset(secured):
    """RFC 8441 §3, RFC 9113 §8.3: `:protocol` is not defined, so such a request is malformed."""
    with connect(secured) as client:
        client.ping()
        assert client.state.remote_settings.enable_connect_protocol == 0
        pseudo = [(":method", "CONNECT"), (":protocol", "websocket"), (":scheme", "https"), (":path", "/"), (":authority", "a")]
        response = client.get("/", ("sec-websocket-version", "13"), pseudo=pseudo)
        assert (response.reset, response.status) == (1, None)
        assert client.get("/").status == 200


def test_application_is_offered_nothing_that_takes_the_connection_over(module_server):
    """The environ has the keys of HTTP/1.1, but for those that hand the connection out."""
    running = module_server("environ_kinds", "--werkzeug-socket")
    asks = [("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="), ("sec-websocket-version", "13")]
    with running.client() as client, Http2Client(running) as other:
        client.request("GET / HTTP/1.1", "Connection: upgrade", "Upgrade: websocket", *map(": ".join, asks))
        before = json.loads(client.response().body)
        seen = json.loads(other.get("/", *asks).body)
    upgrading = {"HTTP_CONNECTION", "HTTP_UPGRADE"}
    assert set(before) - set(seen) == {"maypole.socket", "maypole.websocket", "werkzeug.socket"} | upgrading
    assert not set(seen) - set(before)
    assert {"maypole.suspend", "x-wsgiorg.suspend", "wsgi.early_hints"} <= set(seen)


def test_early_hints_come_before_the_response(module_server):
    with connect(module_server("wsgi_cases")) as client:
        response = client.get("/hints")
        assert [status for status, _ in response.interim] == [103, 103]
        assert response.interim[0][1] == [("link", "</style.css>; rel=preload; as=style")]
        assert (response.status, response.body) == (200, b"hinted")


def test_body_that_differs_from_its_length_is_reset(secured):
    with connect(secured) as client:
        for body in (b"abc", b"abcdefgh"):
            assert client.get("/echo", ("content-length", "5"), method="POST", body=body).reset == 1
        assert client.get("/").status == 200


def test_expectation_is_met_before_the_body_comes(secured):
    with connect(secured) as client:
        stream = client.request("/echo", ("expect", "100-continue"), ("content-length", "3"), method="POST", end=False)
        response = client.responses[stream]
        client.until(lambda: response.interim)
        assert response.interim == [(100, [])]
        client.send(stream, b"abc")
        assert client.response(stream).body == b"abc"


def test_trailers_of_a_request_are_dropped(secured):
    with connect(secured) as client:
        stream = client.request("/environ", method="POST", body=b"abc", end=False)
        client.state.send_headers(stream, [("x-trailer", "1")], end_stream=True)
        client.flush()
        seen = json.loads(client.response(stream).body)
        assert seen["body"] == "abc" and "HTTP_X_TRAILER" not in seen["environ"]


def test_every_split_of_a_request(secured):
    with connect(secured) as client:
        client.get("/")
        stream = client.request("/", end=False)
        whole = frame(DATA, 0, stream, b"abc") + frame(SETTINGS) + frame(DATA, 1, stream, b"")
        for byte in whole:
            client.raw(bytes([byte]))
        assert client.response(stream).status == 200


def test_large_body_is_refused_early(module_server):
    running = module_server("probe", "--max-body-size", "1000")
    with connect(running) as client:
        assert client.get("/echo", ("content-length", "1001"), method="POST", body=b"x" * 1001).status == 413
        assert client.get("/echo", method="POST", body=b"x" * 1001).status == 413
        assert client.get("/echo", method="POST", body=b"x" * 1000).status == 200


def test_streamed_body(module_server):
    running = module_server("probe", "--stream-requests", "always")
    with connect(running) as client:
        body = PATTERN[:1_000_001]
        assert client.get("/sha", method="POST", body=body).body.split()[:2] == [
            b"1000001", pattern_sha(1_000_001).encode()]
        stream = client.request("/firstline", method="POST", end=False)
        client.send(stream, b"a line\nmore", end=False)
        response = client.responses[stream]
        client.until(lambda: response.body == b"a line\n")
        assert client.get("/").status == 200


def test_access_log_names_the_version(server):
    running = server("probe", "--access-logfile", "-")
    with Http2Client(running) as client:
        assert client.get("/environ?a=b").status == 200
        running.out.wait(r'"GET /environ\?a=b HTTP/2\.0" 200 \d+')
        assert client.get("/fail").status == 500
        running.out.wait(r'"GET /fail HTTP/2\.0" 500')
        stream = client.request("/hold/log")
        assert running.get("/held/log").body == b"yes"
        client.reset(stream)
        running.out.wait(r'"GET /hold/log HTTP/2\.0" 499 -')
        assert running.get("/release/log").status == 200


def test_http_1_turns_it_off(server):
    running = server("probe", "--http", "1", *TLS)
    with TlsClient(running.address, context(alpn=("h2", "http/1.1"))) as client:
        assert client.socket.selected_alpn_protocol() == "http/1.1"
        assert client.get("/").status == 200
    running = server("probe", "--http", "1")
    with running.client() as client:
        client.send(PREFACE + frame(SETTINGS))
        assert client.response().status == 505
    running.err.wait(r"this is HTTP/2; Maypole serves HTTP/1\.1 here")


def test_preface_that_goes_wrong_is_refused(server):
    running = server("probe")
    with running.client() as client:
        client.send(PREFACE[:-3] + b"xyz")
        assert client.response().status == 505
        client.assert_closed()


@pytest.mark.skipif(not shutil.which("curl"), reason="curl is missing")
def test_curl(secured):
    url = secured.address.replace("127.0.0.1", "localhost")
    how = ["--http2", "--insecure"] if secured.tls else ["--http2-prior-knowledge"]
    done = subprocess.run(["curl", "-sSi", *how, url + "/"], capture_output=True, check=True, timeout=60)
    assert re.match(rb"HTTP/2 200 *\r\n", done.stdout) and done.stdout.endswith(b"Hello, World!\n")
    upload = ["curl", "-sS", *how, "--data-binary", "@-", url + "/sha"]
    done = subprocess.run(upload, input=PATTERN, capture_output=True, check=True, timeout=60)
    assert done.stdout.split()[0] == b"%d" % SIZE


@pytest.mark.skipif(not shutil.which("nghttp"), reason="nghttp is missing")
def test_nghttp(secured):
    url = secured.address.replace("127.0.0.1", "localhost")
    command = ["nghttp", "--no-verify-peer", "-n", "-s", url + "/", f"{url}/whole?n={SIZE}"]
    done = subprocess.run(command, capture_output=True, check=True, timeout=60, text=True)
    assert len(re.findall(r" 200 +\S+ +/", done.stdout)) == 2, done.stdout
