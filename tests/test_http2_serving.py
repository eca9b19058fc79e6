"""HTTP/2 beside the rest of the server: its stop, its limits, its pages, files, proxies and certificates."""

import json
import signal
import threading
import time

import pytest

from client import Closed
from http2 import CANCEL, ENHANCE_YOUR_CALM, REFUSED_STREAM, Http2Client
from process import eventually
from tls import AUTHORITY, TLS, TlsClient, context

#: The first GOAWAY of a stop names the highest stream that there can be (RFC 9113 §6.8).
HIGHEST = 2**31 - 1


def test_stop_ends_streams_first_and_says_goodbye_twice(server):
    running = server("probe")
    with Http2Client(running) as client, Http2Client(running) as idle:
        assert idle.get("/").status == 200
        stream = client.request("/hold/stop")
        assert running.get("/held/stop").body == b"yes"
        opens = idle.request("/release/stop", method="POST", end=False)
        running.signal(signal.SIGTERM)
        client.until(lambda: client.goaways)
        assert client.goaways == [(0, HIGHEST)] and not client.responses[stream].ended
        idle.send(opens, b"")
        assert idle.response(opens).body == b"released" and client.response(stream).body == b"held stop"
        assert (idle.end(), client.end()) == ((0, opens), (0, stream))
        assert idle.goaways[0] == (0, HIGHEST)
    assert running.process.wait(20) == 0


def test_stop_waits_for_a_response(server):
    running = server("probe")
    with Http2Client(running) as client:
        stream = client.request("/sleep?s=0.5&log=it")
        running.err.wait("called it")
        running.signal(signal.SIGTERM)
        assert client.response(stream).body == b"slept"
        client.end()
        assert client.goaways[0] == (0, HIGHEST) and client.goaways[-1] == (0, stream)
    assert running.process.wait(20) == 0


def test_stop_does_not_wait_for_a_client_that_replies_to_nothing(server):
    running = server("probe")
    with running.client() as client, Http2Client(running) as rest:
        assert rest.get("/").status == 200
        client.send(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\4\0\0\0\0\0")
        client.read_exactly(9)
        began = time.monotonic()
        running.signal(signal.SIGTERM)
        rest.end()
        assert running.process.wait(20) == 0
        assert time.monotonic() - began < 15


def test_reload_lets_clients_go_to_the_new_worker(server):
    running = server("probe", "--workers", "1")
    with Http2Client(running) as client:
        before = client.get("/pid").body
        running.signal(signal.SIGHUP)
        assert client.end()[0] == 0 and client.goaways[0] == (0, HIGHEST)
    with Http2Client(running) as client:
        assert client.get("/pid").body != before


def test_request_that_gets_no_place_is_refused_for_another_try(server):
    running = server("probe", "--pool-size", "1", "--queue-timeout", "200ms")
    with Http2Client(running) as client:
        held = client.request("/hold/full")
        assert client.response(client.request("/")).reset == REFUSED_STREAM
        running.err.wait(r"overload: 503 for 1 request that waited for 200ms \(--queue-timeout\)")
        # A reset stream frees its place only when its call has ended.
        client.reset(held)
        assert client.response(client.request("/")).reset == REFUSED_STREAM
        running.kill()


def test_number_of_streams_is_announced_and_kept(server):
    running = server("probe", "--http2-max-concurrent-streams", "3")
    with Http2Client(running) as client:
        client.ping()
        assert client.state.remote_settings.max_concurrent_streams == 3
        streams = [client.request("/hold/three") for _ in range(3)]
        assert running.get("/held/three?n=3").body == b"yes"
        assert running.get("/release/three").status == 200
        assert {client.response(stream).body for stream in streams} == {b"held three"}


def test_further_clients_get_http1_or_are_told_to_wait(server):
    running = server("probe", *TLS, "--http2-max-connections", "1")
    with Http2Client(running, tls=True) as client:
        assert client.get("/").status == 200
        with TlsClient(running.address, context(alpn=("h2", "http/1.1"))) as other:
            assert other.socket.selected_alpn_protocol() == "http/1.1" and other.get("/").status == 200
        assert client.get("/").status == 200
    running = server("probe", "--http2-max-connections", "1")
    with Http2Client(running) as client:
        assert client.get("/").status == 200
        with Http2Client(running) as other:
            assert other.end() == (ENHANCE_YOUR_CALM, 0)
        assert client.get("/").status == 200
    running.err.wait(r"the HTTP/2 connection is closed: there are 1 \(--http2-max-connections\)")
    eventually(lambda: can_connect(running))


def can_connect(running):
    with Http2Client(running) as client:
        try:
            return client.get("/").status == 200
        except (Closed, OSError):
            return False


def test_request_past_its_deadline_gets_504(server):
    # On a busy machine the first block and the release take their time, too.
    running = server("probe", "--request-timeout", "2s")
    with Http2Client(running) as client:
        assert client.get("/hold/late").status == 504
        response = client.get("/drip/late")
        assert (response.status, response.body, response.reset) == (200, b"first", 2)
        assert client.get("/release/late").status == 200


def test_body_that_is_too_large_for_memory_goes_to_a_file(server):
    running = server("probe", "--request-buffer", "64KiB", "--spool-total", "1MiB")
    with Http2Client(running) as client:
        assert client.get("/sha", method="POST", body=b"x" * 900_000).body.split()[0] == b"900000"
        assert client.get("/sha", ("content-length", "2000000"), method="POST", end=False, body=b"x" * 200_000).status == 413


def test_slow_reader_of_a_large_response_gets_it_all(server):
    running = server("probe", "--response-buffer", "64KiB")
    with Http2Client(running, flow=False) as client:
        stream = client.request("/big?n=3000000")
        response = client.responses[stream]
        while len(response.body) < 3_000_000:
            have = len(response.body)
            client.state.increment_flow_control_window(20_000)
            client.state.increment_flow_control_window(20_000, stream)
            client.flush()
            client.until(lambda have=have: len(response.body) > have)
        assert response.body == (bytes(range(256)) * 12_000)[:3_000_000]


def test_clients_that_leave_are_noticed(server):
    running = server("probe", "--access-logfile", "-")
    with Http2Client(running) as client:
        client.request("/endless?name=left")
        client.until(lambda: any(response.body for response in client.responses.values()))
    running.out.wait(r'"GET /endless\?name=left HTTP/2\.0" 200')
    eventually(lambda: json.loads(running.get("/progress/left").body)["closed"] == 1)
    with Http2Client(running) as client:
        stream = client.request("/endless?name=reset")
        client.until(lambda: client.responses[stream].body)
        client.reset(stream, CANCEL)
        eventually(lambda: json.loads(running.get("/progress/reset").body)["closed"] == 1)
        assert client.get("/").status == 200


def test_static_files_and_mounts(server, tmp_path):
    (tmp_path / "style.css").write_bytes(b"body{}" * 10_000)
    running = server("probe", "--static", f"/static={tmp_path}", "--mount", "/secured=secured")
    with Http2Client(running) as client:
        response = client.get("/static/style.css")
        assert (response.status, response.get("content-type")) == (200, "text/css; charset=utf-8")
        assert response.body == b"body{}" * 10_000
        part = client.get("/static/style.css", ("range", "bytes=6-11"))
        assert (part.status, part.body, part.get("content-range")) == (206, b"body{}", "bytes 6-11/60000")
        assert client.get("/static/style.css", ("if-none-match", response.get("etag"))).status == 304
        assert client.get("/static/none").status == 404
        assert client.get("/static/style.css", method="HEAD").get("content-length") == "60000"
        assert len(client.get("/secured/file").body) == 3_000_000


def test_fields_of_a_trusted_proxy_count(server):
    running = server("probe")
    with Http2Client(running) as client:
        fields = [("x-forwarded-for", "192.0.2.7"), ("x-forwarded-proto", "https"), ("x-forwarded-host", "shop.example")]
        seen = json.loads(client.get("/environ", *fields).body)["environ"]
        assert (seen["REMOTE_ADDR"], seen["wsgi.url_scheme"]) == ("192.0.2.7", "https")
        assert seen["HTTP_HOST"] == "shop.example"
        seen = json.loads(client.get("/environ").body)["environ"]
        assert (seen["REMOTE_ADDR"], seen["wsgi.url_scheme"]) == ("127.0.0.1", "http")


def test_certificate_of_a_client_is_in_the_environ(server):
    running = server("probe", *TLS, "--cert-reqs", "optional", "--ca-certs", AUTHORITY)
    with Http2Client(running, tls=True) as client:
        for _ in range(2):
            seen = json.loads(client.get("/environ").body)["environ"]
            assert (seen["SSL_CLIENT_VERIFY"], seen["HTTPS"], seen["SSL_TLS_SNI"]) == ("NONE", "on", "localhost")


def test_streams_are_in_the_reports_and_in_the_metrics(server):
    running = server("probe")
    with Http2Client(running) as client:
        streams = [client.request("/hold/seen") for _ in range(3)]
        assert running.get("/held/seen?n=3").body == b"yes"
        assert "\n".join(running.report()).count("GET /hold/seen HTTP/2.0") == 3
        assert running.get("/release/seen").status == 200
        assert all(client.response(stream).status == 200 for stream in streams)


def test_many_connections_at_once(server):
    running = server("probe")
    failed = []

    def use():
        try:
            with Http2Client(running) as client:
                for _ in range(5):
                    streams = [client.request("/whole?n=30000") for _ in range(20)]
                    assert all(len(client.response(stream).body) == 30_000 for stream in streams)
        except BaseException as error:
            failed.append(error)
            raise

    threads = [threading.Thread(target=use) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed


@pytest.mark.parametrize("path", ["/sleep?s=0.02", "/whole?n=100000"])
def test_nothing_is_lost_when_the_server_stops(server, path):
    """A stream at or below the last GOAWAY has its response, and those above can be sent again."""
    running = server("probe")
    lost, served = [], []

    def use():
        while True:
            try:
                client = Http2Client(running)
            except OSError:
                return
            streams = []
            try:
                while not client.goaways:
                    streams = [client.request(path) for _ in range(4)]
                    for stream in streams:
                        served.append(client.response(stream))
            except Exception:
                pass
            client.end()
            last = client.goaways[-1][1] if client.goaways else 0
            lost.extend(s for s in streams if s <= last and not client.responses[s].ended)

    threads = [threading.Thread(target=use) for _ in range(4)]
    for thread in threads:
        thread.start()
    eventually(lambda: len(served) > 100)
    running.signal(signal.SIGTERM)
    for thread in threads:
        thread.join()
    assert running.process.wait(30) == 0
    assert not lost
