"""What frameworks keep for one request follows a suspended response to other threads, and no other request sees it."""

import pytest

from process import eventually

for _needed in ("flask", "django", "structlog", "opentelemetry.sdk", "werkzeug"):
    pytest.importorskip(_needed)


def waiting(server, number):
    eventually(lambda: server.get("/waiting").body == b"%d" % number, what=f"that {number} wait")


def parts(server, path, *fields, other):
    """Returns what a response tells after its two events, which come on the two threads of the server, and the threads.
    Another response, of the path `other`, runs at the same time."""
    with server.client() as client, server.client() as beside, server.client() as held, server.client() as swapped:
        held.request("GET /hold HTTP/1.1")
        eventually(lambda: server.get("/holding").body == b"1", what="the held thread")
        # Everything until the swap runs on the other thread.
        client.request(f"GET {path} HTTP/1.1", *fields)
        waiting(server, 1)
        beside.request(f"GET {other} HTTP/1.1")
        waiting(server, 2)
        assert server.get("/fire").body == b"2"
        waiting(server, 2)
        swapped.request("GET /swap HTTP/1.1")
        assert held.response().status == 200
        assert server.get("/fire").body == b"2"
        bodies = [one.response().body.decode().split() for one in (client, beside)]
        assert server.get("/release").status == 200
        assert swapped.response().status == 200
    assert [body[0] for body in bodies] == ["begin", "begin"]
    (told, threads), (told_beside, _) = [zip(*(part.rsplit("@", 1) for part in body[1:])) for body in bodies]
    assert len(set(threads)) == 2
    return told, told_beside


@pytest.fixture
def running(server):
    return server("suspending_context", "--threads", "2")


def ends(running, number):
    """Returns what has happened at the ends of requests, once this many things have."""
    return eventually(lambda: len(lines := running.get("/ends/").body.decode().splitlines()) >= number and lines, what="the ends")


def test_request_session_and_g_of_flask(running):
    cookie = running.get("/flask/login/ann").get("Set-Cookie").partition(";")[0]
    told, beside = parts(running, "/flask/one?q=1", f"Cookie: {cookie}", other="/flask/two?q=2")
    assert told == ("one=ann=1=1", "one=ann=1=2")
    assert beside == ("two=None=2=1", "two=None=2=2")
    # Flask ends a request after the call, and again after its stream.
    assert set(ends(running, 5)) == {"None None", "one None", "two None"}
    assert "Traceback" not in running.err.text()


def test_language_time_zone_and_database_of_django(running):
    told, beside = parts(running, "/django/de", other="/django/es")
    assert told == ("de=Asia/Tokyo=42",) * 2
    assert beside == ("es=America/Lima=42",) * 2
    assert ends(running, 2) == ["request_finished"] * 2
    assert "Traceback" not in running.err.text()


def test_werkzeugs_locals_structlog_and_opentelemetry(running):
    told, beside = parts(running, "/libraries/one", other="/libraries/two")
    assert told == ("one=one=one=one",) * 2
    assert beside == ("two=two=two=two",) * 2
    assert ends(running, 2) == ["left {} None"] * 2
    # OpenTelemetry logs a token that is not of the current context.
    assert "Traceback" not in running.err.text() and "different Context" not in running.err.text()


def test_response_that_its_client_leaves_ends_in_its_context(running):
    with running.client() as client:
        client.request("GET /libraries/left HTTP/1.1")
        waiting(running, 1)
    assert ends(running, 1) == ["left {} None"]
    assert "different Context" not in running.err.text()
