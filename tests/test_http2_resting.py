"""Connections of HTTP/2 without an open stream: they rest without a coroutine, and lose nothing."""

import signal

import pytest

from http2 import ENHANCE_YOUR_CALM, NO_ERROR, PING, Http2Client, frame
from process import eventually
from status import Status
from tls import TLS

IDLE = 'maypole_connections_idle{worker="1"}'
ENDED = 'maypole_connections_ended_total{{end="{}"}}'
#: The first GOAWAY of a stop names the highest stream that there can be (RFC 9113 §6.8).
HIGHEST = 2**31 - 1
#: How many clients are idle after one small request, and the most memory of one, in KiB: docs/http2.md says 20.
CLIENTS, CLIENT_KIB_MAX = 400, 30


@pytest.fixture(params=[[], TLS], ids=["plain", "tls"])
def transport(request):
    return request.param


@pytest.fixture
def resting(server, transport):
    """Returns a function that starts a server, and one that waits until as many of its connections rest."""

    def start(*options):
        running = server("probe", *transport, "--status-bind", "0", *options)
        status = Status(running)

        def await_rest(number=1):
            eventually(lambda: status.metric(IDLE) == number, what=f"that {number} connections rest")

        running.metric = status.metric
        return running, await_rest, bool(transport)

    return start


def test_connection_goes_on_after_each_rest(resting):
    running, await_rest, tls = resting()
    with Http2Client(running, tls=tls) as client:
        for number in range(3):
            # The tables of both sides have learnt these fields: a new session could not read what refers to them.
            assert client.get("/", ("x-long", "v" * 300)).status == 200
            client.ping()
            await_rest()
        assert client.get("/echo", method="POST", body=b"b" * 200_000).body == b"b" * 200_000
        await_rest()
        stream = client.request("/echo", method="POST", end=False)
        client.ping()
        client.send(stream, b"late")
        assert client.response(stream).body == b"late"


def test_ping_wakes_a_connection_and_it_rests_again(resting):
    running, await_rest, tls = resting()
    with Http2Client(running, tls=tls) as client:
        for _ in range(3):
            client.ping()
            await_rest()


def test_piece_of_a_frame_is_kept_and_has_a_deadline(resting):
    running, await_rest, tls = resting("--header-timeout", "1s")
    with Http2Client(running, tls=tls) as client, Http2Client(running, tls=tls) as late:
        client.get("/"), late.get("/")
        await_rest(2)
        ping = frame(PING, payload=b"inpieces")
        client.raw(ping[:5])
        client.raw(ping[5:12])
        client.raw(ping[12:])
        client.until(lambda: client.pongs)
        late.raw(ping[:12])
        assert late.end() == (ENHANCE_YOUR_CALM, 1)
        assert client.get("/").status == 200


def test_connection_that_rests_gets_a_goaway_at_the_end_of_its_time(resting):
    running, await_rest, tls = resting("--http2-keep-alive", "1s")
    with Http2Client(running, tls=tls) as client:
        client.get("/")
        await_rest()
        assert client.end() == (NO_ERROR, 1) and len(client.goaways) == 1
    eventually(lambda: running.metric(ENDED.format("keep_alive")) == 1, what="the count of its end")


def test_connection_that_rests_longest_makes_room(resting):
    running, await_rest, tls = resting("--max-connections", "2")
    with Http2Client(running, tls=tls) as first:
        first.get("/")
        await_rest(1)
        with Http2Client(running, tls=tls) as second, Http2Client(running, tls=tls) as third:
            second.get("/")
            assert third.get("/").status == 200
            assert first.end() == (NO_ERROR, 1) and second.get("/").status == 200


def test_stop_tells_a_connection_that_rests_twice(resting):
    running, await_rest, tls = resting()
    with Http2Client(running, tls=tls) as one, Http2Client(running, tls=tls) as two:
        one.get("/"), two.get("/"), two.get("/")
        await_rest(2)
        running.signal(signal.SIGTERM)
        assert one.end() == (NO_ERROR, 1) and one.goaways[0] == (NO_ERROR, HIGHEST)
        assert two.end() == (NO_ERROR, 3) and two.goaways[0] == (NO_ERROR, HIGHEST)
    assert running.process.wait(20) == 0


def test_reload_tells_a_connection_that_rests(resting):
    running, await_rest, tls = resting()
    with Http2Client(running, tls=tls) as client:
        client.get("/")
        await_rest()
        running.signal(signal.SIGHUP)
        assert client.end() == (NO_ERROR, 1) and client.goaways[0] == (NO_ERROR, HIGHEST)
    with Http2Client(running, tls=tls) as client:
        assert client.get("/").status == 200


def test_client_that_leaves_while_its_connection_rests_is_noticed(resting):
    running, await_rest, tls = resting()
    with Http2Client(running, tls=tls) as client:
        client.get("/")
        await_rest()
    eventually(lambda: running.metric(ENDED.format("client")) == 1, what="the count of its end")
    assert running.metric('maypole_connections{worker="1"}') == 0


def test_connections_that_rest_count_in_their_limit(resting):
    running, await_rest, tls = resting("--http2-max-connections", "1")
    if tls:
        pytest.skip("further clients with TLS get HTTP/1.1")
    with Http2Client(running) as client:
        client.get("/")
        await_rest()
        with Http2Client(running) as other:
            assert other.end() == (ENHANCE_YOUR_CALM, 0)
        assert client.get("/").status == 200


def test_idle_connection_costs_no_more_than_the_page_says(server, record_property):
    running = server("probe", "--status-bind", "0", "--http2-keep-alive", "10m")
    status = Status(running)
    clients = []

    def open_clients(number):
        clients.extend(Http2Client(running) for _ in range(number))
        for client in clients[-number:]:
            assert client.get("/").status == 200
        eventually(lambda: status.metric(IDLE) == len(clients), 60, what="that all connections rest")

    open_clients(100)       # From here on the server has all objects that it makes once.
    before = running.status("VmRSS")
    open_clients(CLIENTS)
    cost = lambda: (running.status("VmRSS") - before) / CLIENTS
    eventually(lambda: cost() < CLIENT_KIB_MAX, 20, "that an idle connection costs what the page says")
    record_property("kib_per_client", cost())
    assert all(client.get("/").status == 200 for client in clients[:: CLIENTS // 10])
    for client in clients:
        client.client.close()
