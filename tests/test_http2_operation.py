"""HTTP/2 beside what operators set: workers and their replacement, times, ids, files, proxies and certificates."""

import json
import re
import signal
import threading

import pytest

from certs import Authority
from client import Closed
from http2 import CANCEL, REFUSED_STREAM, Http2Client
from process import eventually
from test_succession import succeed  # noqa: F401 (fixture)
from tls import TLS, context


class Sender:
    """A client on a thread that keeps sending requests. After GOAWAY it opens a new connection. It sends again what the
    server has refused (RFC 9113 §8.7), and counts what is lost."""

    def __init__(self, running, path="/pid"):
        self.running, self.path = running, path
        self.bodies, self.lost, self.connections, self.faults = [], [], 0, []
        self.ends = threading.Event()
        self.thread = threading.Thread(target=self.run)
        self.thread.start()

    def run(self):
        try:
            while not self.ends.is_set():
                self.connect()
        except BaseException as error:
            self.faults.append(error)
            raise

    def connect(self):
        with Http2Client(self.running) as client:
            self.connections += 1
            while not client.goaways and not self.ends.is_set():
                streams = [client.request(self.path) for _ in range(3)]
                try:
                    for stream in streams:
                        client.response(stream)
                except (Closed, OSError):
                    assert client.goaways, "the connection ends without a word"
                last = client.goaways[-1][1] if client.goaways else streams[-1]
                for stream in streams:
                    response = client.responses[stream]
                    if response.ended and response.status == 200:
                        self.bodies.append(response.body)
                    elif stream <= last and response.reset != REFUSED_STREAM:
                        self.lost.append(repr(response))

    def stop(self):
        self.ends.set()
        self.thread.join()
        assert not self.faults and not self.lost, (self.faults, self.lost)


@pytest.fixture
def sender():
    senders = []

    def start(*args):
        senders.append(Sender(*args))
        return senders[-1]

    yield start
    for one in senders:
        one.ends.set()
        one.thread.join()


def processes(sender):
    """Returns the processes that have responded."""
    return set(sender.bodies)


def test_workers_are_replaced_after_max_requests_and_no_stream_is_lost(server, sender):
    running = server("probe", "--workers", "2", "--max-requests", "50")
    sending = [sender(running) for _ in range(2)]
    eventually(lambda: all(len(processes(one)) >= 4 for one in sending), 60, what="the fourth worker of each client")
    for one in sending:
        one.stop()
        assert one.connections >= 3


@pytest.mark.parametrize("options", [(), ("--preload",)])
def test_reload_loses_no_stream(server, sender, options):
    running = server("probe", "--workers", "2", *options)
    sending = [sender(running) for _ in range(2)]
    for _ in range(2):
        eventually(lambda: all(one.bodies for one in sending), what="responses")
        before = set().union(*map(processes, sending))
        running.signal(signal.SIGHUP)
        eventually(lambda before=before: all(processes(one) - before for one in sending), 60, what="responses of new workers")
    for one in sending:
        one.stop()


def test_new_supervisor_loses_no_stream(server, sender, succeed):  # noqa: F811
    running = server("probe", "--workers", "1")
    sending = sender(running)
    eventually(lambda: sending.bodies, what="responses")
    before = processes(sending)
    succeed(running)
    eventually(lambda: processes(sending) - before, 60, what="responses of the new worker")
    assert running.process.wait(30) == 0
    sending.stop()


def test_proxy_header_comes_before_the_preface(server):
    running = server("probe", "--proxy-protocol", "auto")
    for first in (b"PROXY TCP4 203.0.113.7 192.0.2.1 54321 443\r\n",
                  b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c\xcb\0\x71\x07\xc0\0\2\1\xd4\x31\1\xbb"):
        with Http2Client(running, first=first) as client:
            for _ in range(2):
                seen = json.loads(client.get("/environ").body)["environ"]
                assert (seen["REMOTE_ADDR"], seen["REMOTE_PORT"]) == ("203.0.113.7", "54321")
                assert seen["SERVER_PROTOCOL"] == "HTTP/2.0"


def test_proxy_header_comes_before_the_handshake(server):
    running = server("probe", "--proxy-protocol", "v1", *TLS)
    with Http2Client(running, tls=True, first=b"PROXY TCP4 203.0.113.7 192.0.2.1 54321 443\r\n") as client:
        seen = json.loads(client.get("/environ").body)["environ"]
        assert (seen["REMOTE_ADDR"], seen["wsgi.url_scheme"], seen["SERVER_PROTOCOL"]) == ("203.0.113.7", "https", "HTTP/2.0")


def test_request_past_its_time_ends_alone(server):
    # The other requests have this time, too, on a busy machine.
    running = server("probe", "--request-timeout", "2s")
    with Http2Client(running) as client:
        late = client.request("/hold/late")
        others = 0
        while client.responses[late].status is None:
            assert client.get("/").status == 200
            others += 1
        assert client.response(late).status == 504 and others > 1
        assert client.get("/").status == 200
    running.err.wait(r'GET /hold/late HTTP/2\.0')
    assert running.get("/release/late").status == 200


def test_slow_request_has_a_line(server):
    running = server("probe", "--slow-request", "100ms")
    with Http2Client(running) as client:
        assert client.get("/sleep?s=0.2").status == 200
    running.err.wait(r"GET /sleep\?s=0\.2 HTTP/2\.0 of 127\.0\.0\.1.*, status 200, took 0?\.?\d.* \(--slow-request 100ms\)")


def test_requests_have_ids(server):
    running = server("probe", "--request-id-header", "X-Request-ID", "--access-logfile", "-",
                     "--access-logformat", "%(U)s %(request_id)s")
    with Http2Client(running) as client:
        streams = [client.request("/environ", ("x-request-id", f"id-{n}")) for n in range(5)]
        for n, stream in enumerate(streams):
            response = client.response(stream)
            seen = json.loads(response.body)["environ"]
            assert seen["maypole.request_id"] == seen["HTTP_X_REQUEST_ID"] == response.get("x-request-id") == f"id-{n}"
            running.out.wait(rf"/environ id-{n}\n")
        made = client.get("/environ").get("x-request-id")
        assert re.fullmatch(r"[0-9a-f-]{32,36}", made)


def test_application_names_a_file(server, tmp_path):
    (tmp_path / "film.bin").write_bytes(bytes(range(256)) * 4000)
    running = server("sending", "--sendfile-root", str(tmp_path))
    with Http2Client(running) as client:
        path = f"/x?path={tmp_path}/film.bin"
        streams = [client.request(path) for _ in range(4)]
        assert {client.response(stream).body for stream in streams} == {bytes(range(256)) * 4000}
        part = client.get(path, ("range", "bytes=256-511"))
        assert (part.status, part.body, part.get("content-range")) == (206, bytes(range(256)), "bytes 256-511/1024000")
        assert client.get(path, method="HEAD").get("content-length") == "1024000"


def test_ranges_of_a_file(server, tmp_path):
    (tmp_path / "a.txt").write_bytes(b"0123456789")
    running = server("probe", "--static", f"/f={tmp_path}")
    with Http2Client(running) as client:
        assert client.get("/f/a.txt", ("range", "bytes=-3")).body == b"789"
        several = client.get("/f/a.txt", ("range", "bytes=0-1,8-9"))
        assert several.status == 206 and several.get("content-type").startswith("multipart/byteranges; boundary=")
        assert b"bytes 0-1/10" in several.body and b"\r\n89\r\n" in several.body
        assert int(several.get("content-length")) == len(several.body)
        past = client.get("/f/a.txt", ("range", "bytes=20-"))
        assert (past.status, past.get("content-range")) == (416, "bytes */10")
        changed = client.get("/f/a.txt", ("range", "bytes=0-1"), ("if-range", '"other"'))
        assert (changed.status, changed.body) == (200, b"0123456789")


def test_fields_of_a_stranger_do_not_count(server):
    running = server("probe", "--forwarded-allow-ips", "192.0.2.1")
    fields = [("x-forwarded-for", "192.0.2.7"), ("x-forwarded-proto", "https"), ("forwarded", "for=192.0.2.8")]
    with Http2Client(running) as client:
        seen = json.loads(client.get("/environ", *fields).body)["environ"]
        assert (seen["REMOTE_ADDR"], seen["wsgi.url_scheme"]) == ("127.0.0.1", "http")
        assert not [key for key in seen if "FORWARDED" in key]


def test_certificate_of_a_client(server, tmp_path):
    authority = Authority(tmp_path)
    authority.issue("a", "localhost")
    authority.issue("client", "client.example", subject="/O=Shop/CN=Client 7")
    running = server("probe", *authority.options("a"), "--cert-reqs", "required", "--ca-certs", authority.path("ca.pem"))
    trust = authority.context("client")
    trust.set_alpn_protocols(["h2"])
    with Http2Client(running, tls=trust) as client:
        streams = [client.request("/environ") for _ in range(3)]
        for stream in streams:
            seen = json.loads(client.response(stream).body)["environ"]
            assert (seen["SSL_CLIENT_VERIFY"], seen["SSL_CLIENT_S_DN"]) == ("SUCCESS", "CN=Client 7,O=Shop")
            assert (seen["SERVER_PROTOCOL"], seen["SSL_TLS_SNI"]) == ("HTTP/2.0", "localhost")


def test_client_that_resets_a_suspended_response_closes_its_generator(server):
    running = server("suspending")
    with Http2Client(running) as client:
        streams = [client.request(f"/events?s{n}") for n in range(3)]
        for n, stream in enumerate(streams):
            client.until(lambda stream=stream: client.responses[stream].body == b"begin\n")
            assert running.get(f"/seen?s{n}").body == b"1"
        client.reset(streams[1], CANCEL)
        assert running.get("/happened?closed%20s1").body == b"1"
        assert running.get("/fire?s0").body == b"1"
        client.until(lambda: client.responses[streams[0]].body == b"begin\n0\n")
        assert client.get("/plain").body == b"plain"
    for n in (0, 2):
        assert running.get(f"/happened?closed%20s{n}").body == b"1"


def test_suspended_streams_beyond_the_limit_keep_their_threads(server):
    running = server("suspending", "--max-suspended", "1", "--threads", "8")
    with Http2Client(running) as client:
        streams = [client.request(f"/events?m{n}") for n in range(3)]
        for n, stream in enumerate(streams):
            client.until(lambda stream=stream: client.responses[stream].body == b"begin\n")
            assert running.get(f"/seen?m{n}").body == b"1"
        running.err.wait(r"--max-suspended")
        for n, stream in enumerate(streams):
            for number in range(3):
                assert running.get(f"/seen?m{n}").body == b"1"
                assert running.get(f"/fire?m{n}").body == b"1"
                client.until(lambda stream=stream, number=number: client.responses[stream].body.endswith(b"%d\n" % number))
            assert client.response(stream).body == b"begin\n0\n1\n2\n"


def test_suspended_streams_end_at_a_stop(server):
    running = server("suspending")
    with Http2Client(running) as client:
        stream = client.request("/events?stop")
        client.until(lambda: client.responses[stream].body == b"begin\n")
        assert running.get("/seen?stop").body == b"1"
        running.signal(signal.SIGTERM)
        client.end()
        assert client.goaways and client.goaways[-1] == (0, stream)
    assert running.process.wait(30) == 0
