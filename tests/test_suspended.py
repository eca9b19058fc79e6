"""Suspended responses: an application waits for an event without a thread."""

import re

import pytest

SEEN = "/seen?{}&{}"


@pytest.fixture(scope="module")
def suspending(module_server):
    return module_server("suspending")


def fire(server, name, number=1):
    """Resumes what waits for the event, once `number` responses do. Returns how many it has resumed."""
    assert server.get(SEEN.format(name, number)).body == str(number).encode()
    return int(server.get(f"/fire?{name}").body)


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
