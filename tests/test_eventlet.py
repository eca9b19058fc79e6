"""`maypole.eventlet` gives an application the same as `eventlet.wsgi`: environ, input, the rules for responses.

A test with the fixture `both` runs on the real eventlet as well. The others test differences, or behaviour that would
require changes in eventlet.
"""

import json
import re
import time

import pytest

from client import BODY_PIECE, PATIENCE, Closed, pattern_sha
from process import PROGRAMS
from eventlet_scripts import LAST, both, chunked, library, maypole, own, shared, wait_for_event  # noqa: F401


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
    # Eventlet counts lines as bytes here, and then waits for bytes that never arrive.
    seen = maypole.json("/ways", body=LINES)
    del seen["chunk_length"]
    assert seen == WAYS


def test_input_ways_to_read_chunked(both):
    with both().client() as client:
        body = chunked(*LINES.partition(b"\n")) + LAST
        client.request("POST /ways HTTP/1.1", "Transfer-Encoding: chunked", body=body)
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
    assert got == {"position": 0, "chunk_length": -1, "hundred_continue_headers": None, "headers_sent": [],
                   "rfile": True, "is_hundred_continue_response_sent": False, **seen}


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


@pytest.mark.parametrize("body", [b"", b"5\r\nhello\r\n", b"5\r\nhello\r\n5", b"5\r\nhello", b"5\r\nhello\r\n0\r\n"])
@pytest.mark.parametrize("way", ["half_close", "reset"])
def test_end_anywhere_in_a_chunked_body_is_the_same_oserror(maypole, body, way):
    # Eventlet raises ChunkReadError between two chunks, and OSError inside a chunk.
    with maypole.client() as client:
        client.request(f"POST /failing?{way}{body.hex()} HTTP/1.1", "Transfer-Encoding: chunked", body=body)
        maypole.events(f"begun {way}{body.hex()}")
        getattr(client, way)()
        event = f"{way}{body.hex()} read: OSError unexpected end of file while parsing chunked data"
        assert event in maypole.events(event)


def test_end_inside_a_body_of_known_length_is_an_oserror(own):
    # Eventlet returns the received bytes as if they were the whole body.
    server = own()
    with server.client() as client:
        client.request("POST /failing HTTP/1.1", "Content-Length: 9", body=b"hello")
        client.half_close()
        wait_for_event(server, "read: OSError")


def test_socket_timeout_ends_a_stalled_body(both):
    server = both(socket_timeout=1)
    with server.client() as client:
        begun = time.monotonic()
        client.request("POST /failing HTTP/1.1", "Content-Length: 9", body=b"hello")
        wait_for_event(server, "read: OSError")
        assert 0.5 < time.monotonic() - begun < PATIENCE / 2


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


def test_minimum_of_the_class_counts_from_when_it_is_assigned(own):
    server = own()
    for size, expected in [(5, [5, 5, 5]), (4096, [15]), (10, [10, 5])]:
        assert server.json(f"/assigns?size={size}", method="GET") == size
        with server.client() as client:
            client.request("GET /pieces?n=3&size=5 HTTP/1.1")
            if expected == [15]:
                assert client.response().body == b"aaaaabbbbbccccc"
            else:
                assert sizes(client) == expected


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
    assert maypole.get("/file").body == (PROGRAMS / "eventlet_app.py").read_bytes()
