"""`maypole.eventlet` says and does what `eventlet.wsgi` does: one application, asked the same on both.

A test with the fixture `both` runs on the real eventlet as well, so that what it expects is eventlet's word and not
ours. The others are about what is different here, or about what cannot be asked of eventlet without changing it.
"""

import contextlib
import hashlib
import json
import re
import signal
import socket
import subprocess
import sys
import time

import pytest

from conftest import APPS, BODY_PIECE, EXAMPLES, PATIENCE, RUNNING, Closed, Server, clean_environment, eventually, pattern_sha

UP = re.compile(r"\((\d+)\) wsgi starting up on (http:\S+)")


class Script(Server):
    """tests/apps/eventlet_app.py, on one of the two libraries."""

    def __init__(self, library, script="eventlet_app.py", args=(), **arguments):
        self.library = library
        words = [sys.executable, "-W", "ignore::DeprecationWarning", script, library, *args, json.dumps(arguments)]
        super().__init__(None, (), None, APPS, command=words)

    def wait_ready(self):
        match = self.err.wait(UP)
        address = match[2]
        self.addresses = [address if address.startswith("http://") else f"unix:{address[len('http:'):]}"]
        return self

    def json(self, path, *fields, body=None, method="POST"):
        with self.client() as client:
            response = client.get(path, *fields) if body is None else client.post(path, body, *fields, method=method)
            assert response.status == 200, response
            return json.loads(response.body)

    def events(self, event):
        return self.json(f"/events?e={event.replace(' ', '%20')}")

    def logged(self, pattern, start=0):
        return self.err.wait(pattern, start=start)


@contextlib.contextmanager
def scripts():
    started = {}

    def start(library="maypole", **arguments):
        """The one that runs with these arguments already, or a new one."""
        key = (library, json.dumps(arguments, sort_keys=True))
        if key not in started or started[key].process.poll() is not None:
            started[key] = Script(library, **arguments)
        return started[key].wait_ready()

    try:
        yield start
        for script in started.values():
            script.stop()
    finally:
        for script in started.values():
            if script.process.poll() is None:
                script.kill()
            RUNNING.remove(script)


@pytest.fixture(scope="module")
def shared():
    """Scripts that the tests of this file share, by their arguments."""
    with scripts() as start:
        yield start


@pytest.fixture
def own():
    """Scripts of one test."""
    with scripts() as start:
        yield start


@pytest.fixture(params=["maypole", "eventlet"])
def library(request):
    return request.param


@pytest.fixture
def both(shared, library):
    """Starts scripts on each of the two libraries."""
    return lambda **arguments: shared(library, **arguments)


@pytest.fixture
def maypole(shared):
    return shared()


def chunked(*pieces):
    return b"".join(b"%x\r\n%s\r\n" % (len(piece), piece) for piece in pieces)


LAST = b"0\r\n\r\n"


# --- environ ----------------------------------------------------------------------------------------------------------


def test_environ_has_eventlets_keys(both):
    seen = both().json("/environ/a%20b%E4?q=%31", "X-Many: 1", "x-MANY: 2", "X_Under: 3", "Content-Type: a/b")
    assert seen["PATH_INFO"] == "/environ/a b\u00e4" and seen["RAW_PATH_INFO"] == "/environ/a%20b%E4"
    assert (seen["QUERY_STRING"], seen["SCRIPT_NAME"], seen["GATEWAY_INTERFACE"]) == ("q=%31", "", "CGI/1.1")
    assert (seen["REMOTE_ADDR"], seen["CONTENT_TYPE"]) == ("127.0.0.1", "a/b") and seen["REMOTE_PORT"].isdigit()
    assert seen["HTTP_X_MANY"].replace(" ", "") == "1,2" and "HTTP_X_UNDER" not in seen
    assert ["x-MANY", "2"] in seen["headers_raw"] and ["X_Under", "3"] in seen["headers_raw"]
    assert seen["wsgi.version"] == [1, 0] and seen["wsgi.url_scheme"] == "http"
    assert seen["wsgi.multithread"] is True and seen["wsgi.multiprocess"] is False
    assert seen["same input"] and seen["is Input"] and seen["stderr"] and seen["set_idle"]
    assert seen["eventlet.posthooks"] == []


def test_content_type_is_text_plain_where_there_is_none(both):
    assert both().json("/environ")["CONTENT_TYPE"] == "text/plain"


def test_content_type_default_can_be_empty(shared):
    assert shared(default_content_type="").json("/environ")["CONTENT_TYPE"] == ""


def test_environ_argument_wins_over_the_server_but_not_over_the_request(both):
    given = {"wsgi.url_scheme": "https", "HTTPS": "on", "my.key": "v", "REQUEST_METHOD": "NO"}
    seen = both(environ=given).json("/environ")
    assert (seen["wsgi.url_scheme"], seen["HTTPS"], seen["my.key"]) == ("https", "on", "v")
    assert seen["REQUEST_METHOD"] == "GET"


def test_unix_socket_is_called_unix(library, own, tmp_path):
    seen = own(library, unix=str(tmp_path / "socket")).json("/environ")
    assert (seen["SERVER_NAME"], seen["SERVER_PORT"]) == ("unix", "")
    assert (seen["REMOTE_ADDR"], seen["REMOTE_PORT"]) == ("unix", "")


def test_server_protocol_is_the_truth(maypole):
    assert maypole.json("/environ")["SERVER_PROTOCOL"] == "HTTP/1.1"


# --- wsgi.input -------------------------------------------------------------------------------------------------------


LINES = b"first\nsecond\nthird\nfourth"
WAYS = {"readline": "first\n", "readline 3": "sec", "read 4": "ond\n", "read 0": "", "readlines": ["third\n", "fourth"],
        "read": ""}


def test_input_ways_to_read(maypole):
    # Eventlet counts lines as bytes there, and then waits for bytes that do not come.
    seen = maypole.json("/ways", body=LINES)
    del seen["chunk_length"]
    assert seen == WAYS


def test_input_ways_to_read_chunked(both):
    with both().client() as client:
        client.request("POST /ways HTTP/1.1", "Transfer-Encoding: chunked", body=chunked(*LINES.partition(b"\n")) + LAST)
        seen = json.loads(client.response().body)
        assert seen.pop("chunk_length") == 0
        assert seen == WAYS
        client.assert_open()


def test_input_iterates_over_the_whole_body_at_once(both):
    assert both().json("/iter", body=LINES) == [LINES.decode()]


@pytest.mark.parametrize("fields, seen", [
    (["Content-Length: 0"], {"content_length": 0, "chunked_input": False, "wfile": False, "wfile_line": None,
                             "should_send_hundred_continue": False}),
    (["Content-Length: 3", "Expect: 100-Continue"],
     {"content_length": 3, "chunked_input": False, "wfile": True, "wfile_line": "HTTP/1.1 100 Continue\r\n",
      "should_send_hundred_continue": True}),
    (["Transfer-Encoding: chunked", "Expect: 100-continue"],
     {"content_length": None, "chunked_input": True, "wfile": True, "wfile_line": "HTTP/1.1 100 Continue\r\n",
      "should_send_hundred_continue": True}),
])
def test_input_attributes(both, fields, seen):
    with both().client() as client:
        client.request("PUT /attributes HTTP/1.1", *fields)
        got = json.loads(client.response().body)
    assert got == {"position": 0, "chunk_length": -1, "hundred_continue_headers": None, "headers_sent": [], "rfile": True,
                   "is_hundred_continue_response_sent": False, **seen}


def test_input_content_length_may_be_set(both):
    assert both().json("/writable", body=b"12345678") == ["12345", "678"]


def test_input_discard(both):
    assert both().json("/discard", body=b"x" * 100_000) == ""


@pytest.mark.parametrize("is_chunked", [False, True], ids=["length", "chunked"])
def test_large_body_is_read_while_it_arrives(both, is_chunked):
    size = 20_000_000
    with both().client() as client:
        framing = "Transfer-Encoding: chunked" if is_chunked else f"Content-Length: {size}"
        client.request("PUT /upload HTTP/1.1", framing)
        for start in range(0, size, len(BODY_PIECE)):
            piece = BODY_PIECE[:size - start]
            client.send(chunked(piece) if is_chunked else piece)
        client.send(LAST if is_chunked else b"")
        assert json.loads(client.response().body) == {"size": size, "sha256": pattern_sha(size)}
        client.assert_open()


def test_malformed_chunk_is_a_chunk_read_error(both):
    server = both()
    with server.client() as client:
        client.request("POST /failing HTTP/1.1", "Transfer-Encoding: chunked", body=b"5\r\nhello\r\nnonsense\r\n")
        server.events("read: ChunkReadError ValueError=True")


def test_end_inside_a_chunk_is_an_oserror(both):
    server = both()
    with server.client() as client:
        client.request("POST /failing HTTP/1.1", "Transfer-Encoding: chunked", body=b"9\r\nhello")
        client.half_close()
        event = "read: OSError unexpected end of file while parsing chunked data"
        assert event in server.events(event)


def test_end_inside_a_body_of_known_length_is_an_oserror(own):
    # Eventlet gives what has come, as if it were all.
    server = own()
    with server.client() as client:
        client.request("POST /failing HTTP/1.1", "Content-Length: 9", body=b"hello")
        client.half_close()
        wait_for_event(server, "read: OSError")


def test_socket_timeout_ends_a_stalled_body(both):
    server = both(socket_timeout=1)
    with server.client() as client:
        client.request("POST /failing HTTP/1.1", "Content-Length: 9", body=b"hello")
        begun = time.monotonic()
        wait_for_event(server, "read: OSError")
        assert 0.5 < time.monotonic() - begun < PATIENCE / 2


def wait_for_event(server, beginning):
    """Until the application has told of an event that begins so."""
    eventually(lambda: any(event.startswith(beginning) for event in server.json("/events")), what=beginning)


def test_body_and_response_may_run_at_once(both):
    with both().client() as client:
        client.request("PUT /duplex HTTP/1.1", "Transfer-Encoding: chunked")
        client.send(chunked(b"one\n"))
        lines = client.chunks(client.head())
        assert next(lines) == b"ONE\n"
        client.send(chunked(b"two\n"))
        assert next(lines) == b"TWO\n"
        client.send(LAST)
        assert list(lines) == []
        client.assert_open()


# --- 100 Continue -----------------------------------------------------------------------------------------------------


def test_continue_is_sent_with_the_first_read_and_has_the_fields(both):
    with both().client() as client:
        client.request("PUT /continue HTTP/1.1", "Content-Length: 5", "Expect: 100-continue")
        head = client.head()
        assert head.status == 100 and head.fields == [("X-First", "1"), ("X-Second", "2")]
        client.send(b"12345")
        assert json.loads(client.response().body) == "12345"
        client.assert_open()


def test_continue_fields_keep_their_case_when_asked(both):
    with both().client() as client:
        client.request("PUT /continue?c=0 HTTP/1.1", "Content-Length: 5", "Expect: 100-continue")
        assert client.head().fields == [("x-fIRst", "1"), ("X-Second", "2")]
        client.send(b"12345")
        assert client.response().status == 200


@pytest.mark.parametrize("expect", ["100-continue", "100-CONTINUE"])
def test_continue_by_default_has_no_fields(both, expect):
    with both().client() as client:
        client.request("PUT /upload HTTP/1.1", "Content-Length: 5", f"Expect: {expect}")
        head = client.head()
        assert head.status == 100 and head.fields == []
        client.send(b"12345")
        assert json.loads(client.response().body)["size"] == 5


@pytest.mark.parametrize("path", ["/ignore", "/ignore_piecewise"])
def test_body_that_nobody_asked_for_is_not_awaited(both, path):
    with both().client() as client:
        client.request(f"PUT {path} HTTP/1.1", "Content-Length: 5", "Expect: 100-continue")
        response = client.response("PUT")
        assert (response.interim, response.body) == ([], b"ignored")
        client.assert_closed()


def test_phases_of_a_chunked_body_are_each_asked_for(both):
    with both().client() as client:
        client.request("PUT /phases?n=3 HTTP/1.1", "Transfer-Encoding: chunked", "Expect: 100-continue")
        for number in (1, 2, 3):
            head = client.head()
            assert head.status == 100 and head.fields == [("X-Phase", str(number))]
            client.send(chunked(b"phase ", b"%d" % number) + LAST)
        assert json.loads(client.response().body) == ["phase 1", "phase 2", "phase 3"]
        client.assert_open()


def test_phase_that_has_come_already_is_read(both):
    with both().client() as client:
        body = chunked(b"one") + LAST + chunked(b"two") + LAST
        client.request("PUT /phases HTTP/1.1", "Transfer-Encoding: chunked", "Expect: 100-continue", body=body)
        assert json.loads(client.response().body) == ["one", "two"]
        client.assert_open()


def test_continue_after_the_head_is_not_sent(both):
    with both().client() as client:
        client.request("PUT /too_late HTTP/1.1", "Content-Length: 0", "Expect: 100-continue")
        response = client.response("PUT")
        assert (response.interim, response.body) == ([], b"begun,done")


# --- responses --------------------------------------------------------------------------------------------------------


def test_length_is_known_where_the_result_has_one(both):
    response = both().get("/")
    assert (response.get("Content-Length"), response.get("Transfer-Encoding"), response.body) == ("5", None, b"hello")
    assert response.get("Date") and response.get("Server") is None and response.version == "HTTP/1.1"


def sizes(client):
    response = client.head()
    return [len(chunk) for chunk in client.chunks(response)]


@pytest.mark.parametrize("arguments, query, expected", [
    ({}, "n=3&size=3000", [6000, 3000]),
    ({"minimum_chunk_size": 10}, "n=3&size=6", [12, 6]),
    ({"minimum_chunk_size": 10}, "n=3&size=6&min=0", [6, 6, 6]),
    ({"globals": {"MINIMUM_CHUNK_SIZE": 4096}}, "n=2&size=5000", [5000, 5000]),
])
def test_pieces_are_collected_up_to_the_minimum(both, arguments, query, expected):
    with both(**arguments).client() as client:
        client.request(f"GET /pieces?{query} HTTP/1.1")
        assert sizes(client) == expected


def test_minimum_is_read_from_the_module(shared):
    with shared(globals={"MINIMUM_CHUNK_SIZE": 5}).client() as client:
        client.request("GET /pieces?n=3&size=5 HTTP/1.1")
        assert sizes(client) == [5, 5, 5]


def test_minimum_is_read_from_the_protocol(both):
    with both(protocol={"minimum_chunk_size": 5}).client() as client:
        client.request("GET /pieces?n=3&size=5 HTTP/1.1")
        assert sizes(client) == [5, 5, 5]


def test_minimum_of_zero_sends_each_piece_at_once(maypole):
    with maypole.client() as client:
        client.request("GET /gated HTTP/1.1")
        chunks = client.chunks(client.head())
        assert next(chunks) == b"first"
        maypole.get("/go")
        assert next(chunks) == b"second"


def test_write_is_not_collected(both):
    with both().client() as client:
        client.request("GET /write HTTP/1.1")
        assert sizes(client) == [4, 4, 5]


def test_str_is_sent_as_ascii(both):
    assert both().get("/str").body == b"ascii"


def test_start_response_may_be_called_again_before_the_head(both):
    response = both().get("/twice")
    assert (response.status, response.body) == (201, b"second")
    assert response.get("X-Only-First") is None and response.get("X-Second") == "2"


def test_field_values_may_be_numbers(both):
    response = both().get("/types")
    assert (response.get("Content-Length"), response.get("X-Number"), response.body) == ("5", "17", b"hello")


def test_start_response_may_come_with_the_first_piece(both):
    assert both().get("/late").body == b"late"


def test_field_names_are_capitalized(both):
    fields = both().get("/names").fields
    assert ("X-Custom-Id", "vAlue") in fields and ("Etag", "1") in fields


def test_field_names_are_kept_when_asked(both):
    fields = both(capitalize_response_headers=False).get("/names").fields
    assert ("x-cuSTom-iD", "vAlue") in fields and ("ETag", "1") in fields


@pytest.mark.parametrize("path, reason", [
    ("/raises", "LookupError: made to fail 100%s"), ("/raises_small", "LookupError: made to fail in a small body"),
    ("/never", "AssertionError"), ("/other_str", "UnicodeEncodeError"),
])
def test_failure_is_a_500_with_its_traceback(both, path, reason):
    server = both()
    start = len(server.err.text())
    with server.client() as client:
        response = client.get(path)
        assert response.status == 500 and response.get("Content-Type") == "text/plain"
        assert b"Traceback" in response.body and reason.encode() in response.body
        assert response.get("X-Lost") is None
        client.assert_closed()
    server.logged(re.escape(reason), start)


@pytest.mark.parametrize("path", ["/crlf", "/nul", "/beyond"])
def test_field_that_cannot_be_sent_is_a_500(maypole, path):
    response = maypole.get(path)
    assert response.status == 500 and response.get("X-Injected") is None


def test_timeout_that_is_no_exception_is_a_500(maypole):
    assert b"Timeout: as eventlet's" in maypole.get("/raises_timeout").body


def test_without_debug_a_500_is_empty_and_logged(both):
    server = both(debug=False)
    response = server.get("/raises")
    assert (response.status, response.body) == (500, b"")
    server.logged("LookupError: made to fail")


def test_failure_after_the_head_is_seen_and_logged_once(both):
    server = both()
    start = len(server.err.text())
    with server.client() as client:
        client.request("GET /raises_large HTTP/1.1")
        with pytest.raises(Closed):
            client.response()
    server.logged("LookupError: made to fail in a large body", start)
    server.logged('"GET /raises_large HTTP/1.1" 200', start)
    assert server.err.text().count("Traceback", start) == 1


def test_exc_info_before_the_head_replaces_it(both):
    response = both().get("/exc_info_before")
    assert (response.status, response.body) == (503, b"replaced")
    assert response.get("X-First") is None and response.get("X-Second") == "2"


def test_exc_info_after_the_head_is_raised(both):
    server = both()
    with server.client() as client:
        client.request("GET /exc_info_after HTTP/1.1")
        with pytest.raises(Closed):
            client.response()
    server.logged("LookupError: too late")


@pytest.mark.parametrize("fail", ["", "1"])
def test_result_is_closed_once(both, fail):
    server, name = both(), f"close{fail}"
    server.get(f"/closes?name={name}&fail={fail}")
    assert server.events(f"close {name}").count(f"close {name}") == 1


def test_head_has_no_body(maypole):
    with maypole.client() as client:
        assert client.get("/", method="HEAD").get("Content-Length") == "5"
        client.assert_open()


def test_empty_response(both):
    with both().client() as client:
        response = client.get("/empty")
        assert response.status == 204 and response.get("Content-Length") is None
        client.assert_open()


def test_file_wrapper(maypole):
    assert maypole.get("/file").body == (APPS / "eventlet_app.py").read_bytes()


# --- connections ------------------------------------------------------------------------------------------------------


def test_http10_client_is_kept_where_it_asks(both):
    with both().client() as client:
        response = client.request("GET / HTTP/1.0", "Connection: keep-alive").response()
        assert response.get("Connection") == "keep-alive"
        client.assert_open()


def test_max_http_version_of_1_0(shared):
    with shared(max_http_version="HTTP/1.0").client() as client:
        response = client.get("/pieces")
        assert response.get("Transfer-Encoding") is None and response.get("Connection") == "close"
        assert response.body == b"a" * 10 + b"b" * 10 + b"c" * 10


def test_keepalive_false_closes(both):
    with both(keepalive=False).client() as client:
        assert client.get("/").get("Connection") == "close"
        client.assert_closed()


def test_keepalive_is_a_time(both):
    with both(keepalive=1, socket_timeout=30).client() as client:
        client.assert_open()
        begun = time.monotonic()
        client.assert_closed()
        assert 0.5 < time.monotonic() - begun < PATIENCE / 2


def test_socket_timeout_closes_an_idle_connection_silently(both):
    with both(socket_timeout=1).client() as client:
        client.assert_open()
        client.assert_closed()


def request_line(length):
    return b"GET /" + b"a" * (length - len("GET / HTTP/1.1")) + b" HTTP/1.1"


@pytest.mark.parametrize("arguments, limit", [({}, 8192), ({"url_length_limit": 200}, 200)])
def test_request_line_limit(both, arguments, limit):
    server = both(**arguments)
    for length, status in [(limit - 3, 200), (limit - 2, 414)]:
        with server.client() as client:
            client.send(request_line(length) + b"\r\nHost: a\r\n\r\n")
            assert client.response().status == status, length


@pytest.mark.parametrize("arguments, limit", [({}, 8192), ({"globals": {"MAX_HEADER_LINE": 100}}, 100)])
def test_header_line_limit(both, library, arguments, limit):
    server = both(**arguments)
    for length, status in [(limit - 3, 200), (limit - 2, 431 if library == "maypole" else 400)]:
        with server.client() as client:
            client.send(b"GET / HTTP/1.1\r\nHost: a\r\nX: " + b"a" * (length - 3) + b"\r\n\r\n")
            assert client.response().status == status, length


def test_header_total_limit(both):
    with both(globals={"MAX_TOTAL_HEADER_SIZE": 1000}, url_length_limit=200).client() as client:
        client.send(b"GET / HTTP/1.1\r\nHost: a\r\n" + b"X: " + b"a" * 500 + b"\r\nY: " + b"a" * 1000 + b"\r\n\r\n")
        assert client.response().status in (400, 431)


@pytest.mark.parametrize("fields", [["Content-Length: 3", "Transfer-Encoding: chunked"], ["Content-Length: -1"],
                                    ["Content-Length: x"]])
def test_bad_framing_is_400(both, fields):
    with both().client() as client:
        client.request("POST / HTTP/1.1", *fields)
        assert client.response().status == 400


def test_idle_connections_hold_no_place(shared):
    server = shared(max_size=1)
    with server.client() as one, server.client() as two, server.client() as three:
        for client in (one, two, three):
            client.assert_open()


def test_custom_pool_bounds_requests(shared):
    server = shared(pool=1)
    with server.client() as slow, server.client() as next_one:
        slow.request("GET /sleep?s=0.4 HTTP/1.1")
        begun = time.monotonic()
        next_one.request("GET /sleep?s=0.4 HTTP/1.1")
        assert slow.response().body == next_one.response().body == b"slept"
        assert time.monotonic() - begun > 0.7


# --- the socket, hooks ------------------------------------------------------------------------------------------------


def test_socket_is_the_applications(both):
    server = both()
    with server.client() as client:
        client.request("GET /socket HTTP/1.1")
        assert client.response().body == b"raw"
        client.send(b"anything")
        client.assert_closed()
    assert "echo anything" in server.events("echo anything")


def test_already_handled_sends_nothing(both):
    with both().client() as client:
        client.request("GET /silent HTTP/1.1")
        client.assert_closed()


def test_posthooks_run_after_close(both):
    server = both()
    server.get("/hooks?name=plain")
    events = server.events("hook plain word 1 /hooks")
    assert events.index("close plain") < events.index("hook plain word 1 /hooks")


def test_posthook_that_fails_does_no_harm(maypole):
    start = len(maypole.err.text())
    with maypole.client() as client:
        assert client.get("/hooks?name=broken&broken=1").body == b"hooked"
        client.assert_open()
    assert "hook broken word 1 /hooks" in maypole.events("hook broken word 1 /hooks")
    maypole.logged("LookupError: a hook made to fail", start)


def test_proxy_protocol_is_a_setting(shared):
    server = shared(proxy_protocol="v1", protocol={"default_request_version": "HTTP/1.0"})
    with server.client() as client:
        client.send(b"PROXY TCP4 192.0.2.7 192.0.2.1 5000 80\r\n")
        seen = json.loads(client.get("/environ?proxied").body)
    assert (seen["REMOTE_ADDR"], seen["REMOTE_PORT"]) == ("192.0.2.7", "5000")
    server.logged(r"(?m)^192\.0\.2\.7 - - .*proxied")


# --- logs -------------------------------------------------------------------------------------------------------------


def test_access_line_has_the_default_format(both):
    server = both()
    start = len(server.err.text())
    response = server.get("/?line=default")
    line = (r'^127\.0\.0\.1 - - \[\d\d/[A-Z][a-z]{2}/\d{4} \d\d:\d\d:\d\d\] "GET /\?line=default HTTP/1\.1" 200 (\d+) '
            r"\d+\.\d{6}$")
    match = server.logged(f"(?m){line}", start)
    assert int(match[1]) == len(response.head) + len(response.body)


def test_access_line_has_the_format_that_was_given(both):
    log_format = "at:%(client_ip)s:%(client_port)s %(request_line)s %(status_code)d %(wall_seconds).7f"
    server = both(log_format=log_format)
    server.get("/?line=given", "X-Forwarded-For: 10.0.0.1, 10.0.0.2")
    server.logged(r"at:10\.0\.0\.1,10\.0\.0\.2,127\.0\.0\.1:\d+ GET /\?line=given HTTP/1\.1 200 \d+\.\d{7}\n")


def test_forwarded_for_can_be_left_out(both):
    server = both(log_x_forwarded_for=False)
    server.get("/?line=without", "X-Forwarded-For: 10.0.0.1")
    server.logged(r"(?m)^127\.0\.0\.1 - - .*line=without")


def test_forwarded_for_is_escaped(maypole):
    maypole.get("/?line=escaped", "X-Forwarded-For: 1\t\x9b2J")
    maypole.logged(r"(?m)^1\\t\\x9b2J,127\.0\.0\.1 - - .*line=escaped")


def test_logger_is_used_as_it_is(both):
    server = both(logger=True)
    server.get("/raises?line=logger")
    server.logged(r"INFO \(\d+\) wsgi starting up on http://127\.0\.0\.1:\d+")
    server.logged(r"INFO Traceback \(most recent call last\)")
    server.logged(r'INFO 127\.0\.0\.1 - - \[.*\] "GET /raises\?line=logger HTTP/1\.1" 500')


def test_no_log_output_hides_everything(own, library):
    script = Script(library, log_output=False, logger=True, globals={})
    try:
        # There is no ready line to wait for.
        script.process.send_signal(signal.SIGTERM)
        script.process.wait(PATIENCE)
        assert "wsgi" not in script.err.wait_end()
    finally:
        script.kill()
        RUNNING.remove(script)


# --- the end ----------------------------------------------------------------------------------------------------------


def ended(server):
    assert server.wait() == 0
    return server.out.wait_end()


def test_system_exit_ends_here(own, library):
    server = own(library)
    server.get("/")
    server.signal(signal.SIGTERM)
    assert "returned None\ndescriptor -1\n" in ended(server)
    assert "wsgi exiting" in server.err.text()
    server.logged(r"\(\d+\) wsgi exited, is_accepting=True")


def test_keyboard_interrupt_ends_here(own):
    server = own()
    server.signal(signal.SIGINT)
    assert "returned None\ndescriptor -1\n" in ended(server)


def test_other_exception_goes_on_after_the_drain(own):
    server = own()
    with server.client() as client:
        client.request("GET /sleep?s=0.7 HTTP/1.1")
        server.events("sleeping")
        server.signal(signal.SIGUSR1)
        assert client.response().body == b"slept"
    assert "raised RuntimeError: made to end\ndescriptor -1\n" in ended(server)


def test_is_accepting_false_ends_it(own):
    server = own()
    assert server.get("/stop").body == b"hello"
    assert "returned None\ndescriptor -1\nthreads ['MainThread']" in ended(server)
    server.logged("wsgi exited, is_accepting=False")


def test_listener_that_is_shut_down_ends_it(own):
    server = own()
    server.get("/")
    server.signal(signal.SIGUSR2)
    assert "raised OSError: [Errno 22]" in ended(server)


def test_listener_that_is_closed_ends_it(own):
    server = own()
    assert server.get("/close_listener").body == b"hello"
    assert "raised OSError: [Errno 9]" in ended(server)


def test_drain_closes_idle_connections_and_finishes_requests(own, library):
    server = own(library)
    with server.client() as idle, server.client() as busy:
        idle.assert_open()
        busy.request("GET /sleep?s=1 HTTP/1.1")
        server.events("sleeping")
        server.signal(signal.SIGTERM)
        idle.assert_closed()
        assert busy.response().body == b"slept"
    ended(server)


def test_drain_is_bounded(own):
    server = own(graceful_timeout=0.5)
    with server.client() as client:
        client.request("GET /sleep?s=30 HTTP/1.1")
        server.events("sleeping")
        begun = time.monotonic()
        server.signal(signal.SIGTERM)
        server.logged("wsgi exited")
        assert time.monotonic() - begun < 10
        server.kill()


def test_request_that_was_marked_idle_ends_with_the_server(own):
    server = own(graceful_timeout=60)
    with server.client() as client:
        client.request("GET /idle HTTP/1.1")
        ticks = client.chunks(client.head())
        assert next(ticks) == b"tick\n"
        server.signal(signal.SIGTERM)
        with pytest.raises(Closed):
            for _ in ticks:
                pass
    ended(server)
    assert "marked idle" in server.err.text() and "Traceback" not in server.err.text()


def test_server_event_gets_the_server(both):
    server = both(server_event=True, url_length_limit=300)
    assert "server_event Server 300 True" in server.events("server_event Server 300 True")


# --- what is refused --------------------------------------------------------------------------------------------------


def python(code, *args):
    """Runs Python code in a process of its own."""
    return subprocess.run([sys.executable, "-W", "ignore", "-c", code, *args], env=clean_environment(), capture_output=True,
                          text=True, timeout=PATIENCE, cwd=APPS)


SOCKET = "import socket; from maypole import eventlet as wsgi; s = socket.create_server(('127.0.0.1', 0))\n"


@pytest.mark.parametrize("code, error", [
    ("class P(wsgi.HttpProtocol):\n    def get_environ(self): pass\n    def handle(self): pass\nwsgi.server(s, None, protocol=P)",
     r"TypeError: P overrides .*\n +get_environ: wrap the application.*\n +handle: proxy_protocol="),
    ("class P(wsgi.HttpProtocol):\n    class MessageClass: pass\nwsgi.server(s, None, protocol=P)",
     r"TypeError: P overrides .*\n +MessageClass: default_content_type=''"),
    ("wsgi.server(s, None, protocol=dict)", r"TypeError: protocol must be None or maypole.eventlet.HttpProtocol"),
    ("wsgi.HttpProtocol.parse_request = lambda self: True\nwsgi.server(s, None)",
     r"TypeError: HttpProtocol overrides .*\n +parse_request: limits are settings"),
    ("class Pool:\n    spawn = waitall = None\nwsgi.server(s, None, custom_pool=Pool())",
     r"TypeError: custom_pool must be a maypole.Pool, not __main__.Pool"),
    ("import ssl\ns = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH).wrap_socket(s, server_side=True)\nwsgi.server(s, None)",
     r"ValueError: Maypole has no TLS yet"),
    ("wsgi.server(s, None, log_format='%(nothing)s')", r"KeyError: 'nothing'"),
    ("wsgi.server(s, None, pool_sise=3)", r"TypeError: .*pool_size"),
    ("wsgi.server(s, None, max_http_version='HTTP/2')", r"ValueError: "),
])
def test_refused_with_a_sentence(code, error):
    result = python(SOCKET + code)
    assert result.returncode == 1 and re.search(error, result.stderr), result.stderr


def test_lenient_framing_earns_a_warning(own):
    result = python(SOCKET.replace("import socket", "import socket, warnings; warnings.simplefilter('error')")
                    + "class P(wsgi.HttpProtocol):\n    reject_bad_requests = False\nwsgi.server(s, None, protocol=P)")
    assert "RuntimeWarning: P.reject_bad_requests = False has no effect" in result.stderr


@pytest.mark.parametrize("code, name", [
    ("import eventlet; eventlet.monkey_patch()", "eventlet"), ("import gevent.monkey; gevent.monkey.patch_all()", "gevent"),
])
def test_patched_threads_are_refused(code, name):
    result = python(f"{code}\n{SOCKET}wsgi.server(s, None)")
    assert f"RuntimeError: {name} has monkey-patched" in result.stderr, result.stderr


@pytest.mark.parametrize("code", [
    "import eventlet; eventlet.monkey_patch(thread=False, socket=True, os=False, select=False, time=False)",
    "import gevent.monkey; gevent.monkey.patch_socket()",
    "import eventlet, gevent.monkey",
])
def test_other_patches_are_not_refused_for_their_threads(code):
    result = python(f"{code}\nfrom maypole._patched import patched_by; print(patched_by())")
    assert result.stdout == "None\n", result.stderr


# --- whole programs ---------------------------------------------------------------------------------------------------


@pytest.fixture
def swift_shaped():
    script = Script("maypole", script="swift_shaped.py")
    try:
        yield script.wait_ready()
        script.stop()
    finally:
        if script.process.poll() is None:
            script.kill()
        RUNNING.remove(script)


BOUNDARY = "f" * 64


def put(client, name, data, *, multiphase=True):
    """What Swift's proxy sends for an object, up to the end of the first phase."""
    client.request(
        f"PUT /{name} HTTP/1.1", "Transfer-Encoding: chunked", "Expect: 100-continue",
        f"X-Backend-Obj-Multipart-Mime-Boundary: {BOUNDARY}", "X-Backend-Obj-Metadata-Footer: yes",
        *(["X-Backend-Obj-Multiphase-Commit: yes"] if multiphase else []),
    )
    head = client.head()
    assert head.status == 100 and head.get("X-Obj-Metadata-Footer") == "yes"
    assert head.get("X-Obj-Multiphase-Commit") == ("yes" if multiphase else None)
    footer = json.dumps({"etag": hashlib.sha256(data).hexdigest()}).encode()
    tail = b"--" + BOUNDARY.encode() + (b"" if multiphase else b"--")
    client.send(chunked(
        b"--%s\r\nX-Document: object body\r\n\r\n" % BOUNDARY.encode(),
        *(data[start:start + 65536] for start in range(0, len(data), 65536)),
        b"\r\n--%s\r\nX-Document: object metadata\r\n\r\n%s\r\n%s\r\n" % (BOUNDARY.encode(), footer, tail),
    ) + LAST)


def commit(client):
    client.send(chunked(b"X-Document: put commit\r\n\r\nput_commit_confirmation\r\n--%s--" % BOUNDARY.encode()) + LAST)


@pytest.mark.parametrize("size", [0, 10, 3_000_000])
def test_swift_shaped_multiphase_put(swift_shaped, size):
    data = (BODY_PIECE * 2)[:size]
    with swift_shaped.client() as client:
        put(client, "object", data)
        second = client.head()
        assert second.status == 100
        commit(client)
        response = client.response("PUT")
        assert response.status == 201 and response.get("ETag") == hashlib.sha256(data).hexdigest()
        assert client.get("/object").body == data


def test_swift_shaped_put_without_commit_stores_nothing(swift_shaped):
    with swift_shaped.client() as client:
        put(client, "lost", b"data")
        assert client.head().status == 100
        client.close()
    swift_shaped.logged("499")
    assert swift_shaped.get("/lost").status == 404


def test_swift_shaped_single_phase_put(swift_shaped):
    with swift_shaped.client() as client:
        put(client, "single", b"data", multiphase=False)
        assert client.response("PUT").status == 201
        assert client.get("/single").body == b"data"


def test_swift_shaped_names_and_types_as_they_came(swift_shaped):
    with swift_shaped.client() as client:
        response = client.get("/?raw", "X-Object-Meta-MiXed: 1")
        assert json.loads(response.body) == {"X-Object-Meta-MiXed": "1", "content type": ""}


def test_swift_shaped_heartbeat_leaves_at_once(swift_shaped):
    with swift_shaped.client() as client:
        client.request("GET /?heartbeat HTTP/1.1")
        chunks = client.chunks(client.head())
        assert next(chunks) == b" "
        swift_shaped.get("/?go")
        assert b"".join(chunks) == b"done"


def test_swift_shaped_hangup_ends_it(swift_shaped):
    swift_shaped.signal(signal.SIGHUP)
    assert swift_shaped.wait() == 0
    assert "done" in swift_shaped.out.wait_end()


def test_example_runs():
    server = Server(None, (), None, EXAMPLES, command=[sys.executable, "eventlet_server.py", "0"])
    try:
        server.addresses = [server.err.wait(UP)[2]]
        assert server.get("/").body.startswith(b"Hello from ")
        server.signal(signal.SIGINT)
        assert server.wait() == 0
    finally:
        if server.process.poll() is None:
            server.kill()
        RUNNING.remove(server)


def test_format_date_time():
    assert python("from maypole.eventlet import format_date_time as f; print(f(0), f(1764033600))").stdout == (
        "Thu, 01 Jan 1970 00:00:00 GMT Tue, 25 Nov 2025 01:20:00 GMT\n")
