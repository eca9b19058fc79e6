"""Suspended responses: an application waits for an event without a thread."""

import contextlib
import re
import signal

import pytest

from client import Client, Closed
from process import eventually
from status import Status
from tls import TLS, TlsClient

SEEN = "/seen?{}&{}"


@pytest.fixture(scope="module")
def suspending(module_server):
    return module_server("suspending")


def fire(server, name, number=1):
    """Resumes what waits for the event, once `number` responses do. Returns how many it has resumed."""
    assert server.get(SEEN.format(name, number)).body == str(number).encode()
    return int(server.get(f"/fire?{name}").body)


def numbers(status, *names):
    """Returns numbers of the only process."""
    process = status.json()["processes"][0]
    return [process[name] for name in names]


def chunk(client):
    """Returns the next chunk of a body."""
    size = int(client.read_until(b"\r\n"), 16)
    return client.read_exactly(size + 2)[:-2]


# --- the contract -------------------------------------------------------------------------------------------------


@pytest.mark.smoke
def test_response_goes_on_with_each_event(suspending):
    with suspending.client() as client:
        client.request("GET /events?one HTTP/1.1")
        assert client.head().get("Content-Type") == "text/event-stream"
        assert chunk(client) == b"begin\n"
        for number in range(3):
            assert fire(suspending, "one") == 1
            assert chunk(client) == b"%d\n" % number
        assert chunk(client) == b""
        assert client.get("/plain").body == b"plain"
    assert suspending.get("/happened?closed%20one").body == b"1"


@pytest.mark.parametrize("path", ["/timed?0.03", "/timed?0", "/milliseconds"])
def test_time_out_ends_a_suspension(suspending, path):
    assert suspending.get(path).body == b"passed"


def test_status_may_be_decided_after_the_event(suspending):
    with suspending.client() as client:
        client.request("GET /late HTTP/1.1")
        assert fire(suspending, "late") == 1
        response = client.response()
    assert (response.status, response.body) == (201, b"made")


def test_flush_sends_the_head_at_the_suspension(suspending):
    with suspending.client() as client:
        client.request("GET /flushed HTTP/1.1")
        assert client.head().status == 200
        assert fire(suspending, "flushed") == 1
        assert chunk(client) == b"after"


def test_flush_before_start_response_is_an_error(suspending):
    start = len(suspending.err.text())
    assert suspending.get("/flushed_early").status == 500
    suspending.err.wait("did not call start_response", start=start)


def test_resume_before_the_empty_block_counts_once(suspending):
    assert suspending.get("/early").body == b"[True, False, False]"


def test_resume_of_an_earlier_suspension_does_nothing(suspending):
    assert suspending.get("/stale").body == b"False"


def test_suspension_without_its_empty_block_leaves_nothing(suspending):
    with suspending.client() as client:
        assert client.get("/unreached").body == b"all"
        assert client.get("/unannounced").body == b"done"


def test_suspend_after_the_end_is_an_error(suspending):
    assert suspending.get("/keeps").body == b"kept"
    assert suspending.get("/uses_kept").body == b"a response cannot be suspended after it has ended"


def test_wrong_time_outs_are_named(suspending):
    lines = suspending.get("/wrong").body.decode().splitlines()
    assert lines[:2] == [
        f"the time-out of a suspension must be a number of seconds, at least 0, or None; not {value}"
        for value in ("-1", "NaN")
    ]
    assert "must be real number, not str" in lines[2]


def test_exception_after_an_event_is_a_500(suspending):
    start = len(suspending.err.text())
    with suspending.client() as client:
        client.request("GET /raises HTTP/1.1")
        assert fire(suspending, "raises") == 1
        assert client.response().status == 500
    suspending.err.wait("ValueError: after the event", start=start)


# --- middleware that keeps empty blocks ---------------------------------------------------------------------------


def test_swallowed_empty_block_holds_the_thread_and_is_told_once(server):
    server = server("suspending")
    for _ in range(2):
        with server.client() as client:
            client.request("GET /swallowing HTTP/1.1")
            assert server.get("/seen?swallowed").body == b"1"
            server.err.wait("suspends a response again before its empty block")
            for _ in range(2):
                assert fire(server, "swallowed") == 1
            assert client.response().body == b"end"
    server.stop()
    assert len(re.findall("suspends a response again before its empty block", server.err.text())) == 1


def test_client_that_leaves_ends_a_held_response(server):
    server = server("suspending")
    with server.client() as client:
        client.request("GET /swallowing HTTP/1.1")
        assert server.get("/seen?swallowed").body == b"1"
        client.reset()
    assert server.get("/happened?closed%20swallowing").body == b"1"


# --- what a suspended response does not hold ----------------------------------------------------------------------


@pytest.fixture(scope="module")
def narrow(module_server):
    """A server with one thread and one place in the pool."""
    return module_server("suspending", "--threads", "1", "--pool-size", "1")


@contextlib.contextmanager
def subscribers(server, name, number):
    """Gives clients whose responses are suspended."""
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(server.client()) for _ in range(number)]
        for client in clients:
            client.request(f"GET /events?{name} HTTP/1.1")
        for client in clients:
            assert client.head().status == 200
            assert chunk(client) == b"begin\n"
        assert server.get(SEEN.format(name, number)).body == str(number).encode()
        yield clients


@pytest.mark.smoke
def test_many_suspended_responses_need_one_thread_and_no_place_in_the_pool(narrow):
    with subscribers(narrow, "many", 40) as clients:
        for number in range(3):
            assert fire(narrow, "many", 40) == 40
            for client in clients:
                assert chunk(client) == b"%d\n" % number
        for client in clients:
            assert chunk(client) == b""
            assert client.get("/plain").body == b"plain"


@pytest.mark.parametrize("leave", ["close", "reset", "half_close"])
def test_client_that_leaves_closes_its_iterable(narrow, leave):
    with subscribers(narrow, leave, 3) as clients:
        getattr(clients[1], leave)()
        assert narrow.get(f"/happened?closed%20{leave}").body == b"1"
        assert fire(narrow, leave, 3) == 2
        assert chunk(clients[0]) == chunk(clients[2]) == b"0\n"


def test_requests_behind_a_suspended_response_are_served_after_it(narrow):
    with narrow.client() as client:
        client.send("GET /late HTTP/1.1\r\nHost: a\r\n\r\nGET /plain HTTP/1.1\r\nHost: a\r\n\r\n")
        assert narrow.get("/seen?late").body == b"1"
        client.request("GET /variable HTTP/1.1")
        assert fire(narrow, "late") == 1
        assert [client.response().body for _ in range(3)] == [b"made", b"plain", b"unset"]


def test_http_1_0_gets_its_blocks_as_they_come(narrow):
    with narrow.client() as client:
        client.request("GET /events?old HTTP/1.0")
        assert client.read_until(b"begin\n").startswith(b"HTTP/1.")
        for number in range(3):
            assert fire(narrow, "old") == 1
            assert client.read_exactly(2) == b"%d\n" % number
        with pytest.raises(Closed):
            client.read_until(b"\n")


def test_head_ends_with_the_first_block(narrow):
    with narrow.client() as client:
        response = client.get("/events?head", method="HEAD")
        assert (response.status, response.body) == (200, b"")
        client.request("HEAD /flushed HTTP/1.1")
        assert client.response("HEAD").status == 200
        assert client.get("/plain").body == b"plain"


def test_context_and_its_tokens_follow_the_response(server):
    server = server("suspending")
    with server.client() as client:
        client.request("GET /context HTTP/1.1")
        seen = []
        for _ in range(3):
            # Other requests run on the thread meanwhile.
            assert server.get("/variable").body == b"unset"
            assert fire(server, "context") == 1
            if not seen:
                client.head()
            seen.append(chunk(client).split()[0])
        assert seen == [b"mine"] * 3
        assert chunk(client) == b"unset"
    assert "Traceback" not in server.err.text()


def test_exception_after_the_head_cuts_the_response(narrow):
    with narrow.client() as client:
        client.request("GET /raises_later HTTP/1.1")
        assert client.head().status == 200
        assert chunk(client) == b"begin"
        assert fire(narrow, "raises_later") == 1
        with pytest.raises(Closed):
            chunk(client)


def test_slow_client_of_a_suspended_response_gets_all_of_it(narrow):
    with narrow.client(receive_buffer=4096) as client:
        client.request("GET /large HTTP/1.1")
        assert narrow.get("/seen?large").body == b"1"
        assert fire(narrow, "large") == 1
        assert len(client.response().body) == 2 * (4 << 20)


# --- stops --------------------------------------------------------------------------------------------------------


def test_stop_closes_suspended_responses(server):
    server = server("suspending", "--graceful-timeout", "100s")
    with server.client() as begun, server.client() as unbegun, server.client() as other:
        begun.request("GET /events?stop HTTP/1.1")
        assert begun.head().status == 200 and chunk(begun) == b"begin\n"
        unbegun.request("GET /late HTTP/1.1")
        other.request("GET /raises_later HTTP/1.1")
        assert other.head().status == 200 and chunk(other) == b"begin"
        for name in ("stop", "late", "raises_later"):
            assert server.get(f"/seen?{name}").body == b"1"
        server.stop()
        # A stream of events ends as a whole one, and any other response is cut off.
        assert chunk(begun) == b""
        response = unbegun.response()
        assert (response.status, response.get("Retry-After")) == (503, "1")
        with pytest.raises(Closed):
            chunk(other)
    assert "Traceback" not in server.err.text()


def test_stop_lets_suspended_responses_finish(server):
    server = server("suspending", "--graceful-timeout", "4s", "--suspended-on-stop", "finish")
    with server.client() as client, server.client() as late:
        client.request("GET /timed?0.5 HTTP/1.1")
        late.request("GET /events?finish HTTP/1.1")
        assert late.head().status == 200 and chunk(late) == b"begin\n"
        assert server.get("/seen?finish").body == b"1"
        server.stop()
        assert client.response().body == b"passed"
        assert chunk(late) == b""


def test_swallowed_suspension_ends_at_a_stop(server):
    server = server("suspending", "--graceful-timeout", "100s")
    with server.client() as client:
        client.request("GET /swallowing HTTP/1.1")
        server.err.wait("suspends a response again before its empty block")
        server.stop()
        assert client.response().status == 503


def test_suspended_responses_are_counted_and_shown(server):
    server = server("suspending", "--status-bind", "127.0.0.1:0", "--threads", "2")
    with subscribers(server, "shown", 3):
        status = Status(server)
        # The request that has asked for their number may be counted a moment longer.
        eventually(lambda: numbers(status, "suspended", "requests", "pool_taken") == [3, 3, 0], what="the numbers")
        eventually(lambda: [(row["phase"], row["thread"]) for row in status.json("/requests.json")["requests"]]
                   == [("suspended", None)] * 3, what="the rows")
        server.signal(signal.SIGQUIT)
        server.err.wait(r'suspended  "GET /events\?shown HTTP/1.1"')


@pytest.mark.parametrize("more", [[], ["--static", "/static=."]], ids=["alone", "behind-files"])
def test_more_than_the_limit_hold_their_threads(server, more):
    server = server("suspending", "--max-suspended", "2", "--status-bind", "127.0.0.1:0", *more)
    with subscribers(server, "limit", 4) as clients:
        server.err.wait(r"2 responses are suspended \(--max-suspended\)")
        eventually(lambda: numbers(Status(server), "suspended", "pool_taken") == [2, 2], what="the numbers")
        for number in range(3):
            assert fire(server, "limit", 4) == 4
            for client in clients:
                assert chunk(client) == b"%d\n" % number
        for client in clients:
            assert chunk(client) == b""
    assert server.err.text().count("(--max-suspended)") == 1


# --- beside other features ----------------------------------------------------------------------------------------


def events_of(client, server, name):
    """Checks that a client gets a block for each event, and a request after it on the same connection."""
    client.request(f"GET /events?{name} HTTP/1.1")
    assert client.head().status == 200
    assert chunk(client) == b"begin\n"
    for number in range(3):
        assert fire(server, name) == 1
        assert chunk(client) == b"%d\n" % number
    assert chunk(client) == b""
    assert client.get("/plain").body == b"plain"


def test_suspended_over_tls(server):
    server = server("suspending", *TLS, "--bind", "http://127.0.0.1:0", "--bind", "https://127.0.0.1:0", "--threads", "1", bind=False)
    secured = server.addresses[1]
    with TlsClient(secured) as client:
        events_of(client, server, "tls")
        client.request("GET /events?left HTTP/1.1")
        assert server.get("/seen?left").body == b"1"
    assert server.get("/happened?closed%20left").body == b"1"


def test_suspended_over_a_unix_socket(server, tmp_path):
    server = server("suspending", "--bind", f"unix:{tmp_path}/s", "--bind", "127.0.0.1:0", bind=False)
    tcp = next(address for address in server.addresses if address.startswith("http"))
    with Client(f"unix:{tmp_path}/s") as client, Client(tcp) as other:
        client.request("GET /events?unix HTTP/1.1")
        assert client.head().status == 200 and chunk(client) == b"begin\n"
        assert other.get("/seen?unix").body == b"1"
        assert other.get("/fire?unix").body == b"1"
        assert chunk(client) == b"0\n"
        client.close()
        assert other.get("/happened?closed%20unix").body == b"1"


def test_suspended_over_http2(narrow):
    # Smoke tests of this file run where the package h2 is missing.
    from http2 import Http2Client

    with Http2Client(narrow) as client:
        stream = client.request("/late")
        assert fire(narrow, "late") == 1
        response = client.response(stream)
        assert (response.status, response.body) == (201, b"made")
        stream = client.request("/events?h2")
        assert narrow.get(SEEN.format("h2", 1)).body == b"1"
    assert narrow.get("/happened?closed%20h2").body == b"1"


def test_deadlines_of_clients_do_not_count_while_a_response_is_suspended(server):
    server = server("suspending", "--write-timeout", "1s", "--keep-alive", "1s", "--header-timeout", "1s", "--threads", "1")
    with server.client() as client:
        client.request("GET /events?slow HTTP/1.1")
        assert client.head().status == 200 and chunk(client) == b"begin\n"
        assert server.get("/timed?1.5").body == b"passed"
        assert fire(server, "slow") == 1
        assert chunk(client) == b"0\n"


def test_request_timeout_counts_what_runs_and_not_the_suspensions(server):
    server = server("suspending", "--request-timeout", "2s", "--threads", "2")
    with server.client() as client:
        client.request("GET /events?limit HTTP/1.1")
        assert client.head().status == 200 and chunk(client) == b"begin\n"
        for number in range(2):
            assert server.get("/timed?2.2").body == b"passed"
            assert fire(server, "limit") == 1
            assert chunk(client) == b"%d\n" % number
        client.close()
    start = len(server.err.text())
    with server.client() as client:
        client.request("GET /hangs HTTP/1.1")
        assert fire(server, "hangs") == 1
        assert client.response().status == 504
    server.err.wait(r"504 after 2s \(--request-timeout\)", start=start)


def test_access_log_has_one_line_for_each_suspended_response(server):
    server = server("suspending", "--access-logfile", "-", "--access-logformat", "%(m)s %(U)s %(s)s %(B)s %(complete)s")
    with server.client() as client:
        client.request("GET /late HTTP/1.1")
        assert fire(server, "late") == 1
        assert client.response().status == 201
        server.out.wait(r"GET /late 201 4 ")
        client.request("GET /events?log HTTP/1.1")
        assert client.head().status == 200 and chunk(client) == b"begin\n"
        assert server.get("/seen?log").body == b"1"
    server.out.wait(r"GET /events 200 6 ")
    server.stop()
    assert len(re.findall(r"GET /(?:late|events) ", server.out.text())) == 2


def test_suspended_response_is_no_slow_request(server):
    server = server("suspending", "--slow-request", "1s", "--threads", "1")
    assert server.get("/timed?2.5").body == b"passed"
    server.stop()
    assert "--slow-request" not in server.err.text()


def test_worker_that_is_replaced_closes_its_suspended_responses(server):
    running = server("suspending", "--workers", "1", "--graceful-timeout", "100s")
    with running.client() as client:
        client.request("GET /events?reload HTTP/1.1")
        assert client.head().status == 200 and chunk(client) == b"begin\n"
        assert running.get("/seen?reload").body == b"1"
        start = len(running.err.text())
        running.signal(signal.SIGHUP)
        running.err.wait(r"worker 1 \(pid \d+\) serves", start=start)
        # The stream ends, and the browser asks again, on the same connection or on another one.
        assert chunk(client) == b""
    with running.client() as client:
        client.request("GET /events?again HTTP/1.1")
        assert client.head().status == 200 and chunk(client) == b"begin\n"
        running.stop()
        assert chunk(client) == b""
