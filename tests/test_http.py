"""HTTP/1.1 on the wire: framing, order, persistence, and a close by either side."""

import email.utils
import json
import re
import time

import pytest

HEAD = "GET /x HTTP/1.1\r\nHost: a\r\n"


@pytest.mark.smoke
def test_hello(client):
    response = client.get("/")
    assert (response.version, response.status, response.reason) == ("HTTP/1.1", 200, "OK")
    assert response.body == b"Hello, World!\n"
    assert response.get("Content-Length") == "14"
    assert abs(email.utils.parsedate_to_datetime(response.get("Date")).timestamp() - time.time()) < 5
    assert response.get("Date").endswith(" GMT")
    assert response.get("Server")


@pytest.mark.smoke
def test_keep_alive_many_requests_on_one_connection(client):
    for number in range(100):
        assert client.post("/echo", b"%d" % number).body == b"%d" % number


def test_connection_close_is_honoured(client):
    response = client.get("/", "Connection: close")
    assert response.get("Connection").lower() == "close"
    client.assert_closed()


def test_connection_close_among_other_options(client):
    client.get("/", "Connection: foo, Close , bar")
    client.assert_closed()


def test_application_may_close(client):
    assert client.get("/close").get("Connection").lower() == "close"
    client.assert_closed()


def test_http10_closes(client):
    response = client.request("GET / HTTP/1.0", host=None).response()
    assert response.status == 200
    assert response.get("Transfer-Encoding") is None
    client.assert_closed()


def test_http10_without_length_ends_with_the_connection(client):
    response = client.request("GET /blocks?n=200000 HTTP/1.0").response()
    assert response.get("Transfer-Encoding") is None
    assert len(response.body) == 200000


def test_http10_keep_alive_is_acknowledged_or_closed(client):
    response = client.request("GET / HTTP/1.0", "Connection: keep-alive").response()
    if (response.get("Connection") or "").lower() == "keep-alive":
        assert client.request("GET / HTTP/1.0", "Connection: keep-alive").response().status == 200
    else:
        client.assert_closed()


def test_http12_is_served_as_11(client):
    assert client.request("GET / HTTP/1.2").response().version == "HTTP/1.1"


@pytest.mark.parametrize("version", ["HTTP/2.0", "HTTP/0.9", "HTTP/3.0"])
def test_other_major_version_is_505_or_400(client, version):
    assert client.request(f"GET / {version}").response().status in (400, 505)
    client.assert_closed()


# --- pipelining ---------------------------------------------------------------------------------------------------


@pytest.mark.smoke
def test_pipelined_requests_are_answered_in_order(client):
    client.send("".join(f"GET /environ?n={n} HTTP/1.1\r\nHost: a\r\n\r\n" for n in range(100)))
    for number in range(100):
        assert json.loads(client.response().body)["environ"]["QUERY_STRING"] == f"n={number}"


def test_pipelined_requests_with_bodies(client):
    parts = []
    for number in range(50):
        body = b"x" * (number * 100)
        if number % 2:
            parts.append(b"POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body))
        else:
            chunk = b"%x\r\n%s\r\n" % (len(body), body) if body else b""
            parts.append(b"POST /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n" + chunk + b"0\r\n\r\n")
    client.send(b"".join(parts))
    for number in range(50):
        assert client.response().body == b"x" * (number * 100)


def test_slow_first_answer_does_not_overtake(client, probe):
    client.send("GET /hold/order HTTP/1.1\r\nHost: a\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n")
    assert probe.get("/held/order").body == b"yes"
    probe.get("/release/order")
    assert client.response().body == b"held order"
    assert client.response().body == b"Hello, World!\n"


def test_pipelined_after_connection_close_is_not_served(client, probe):
    client.send("GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\nGET /smuggled/afterclose HTTP/1.1\r\nHost: a\r\n\r\n")
    assert client.response().status == 200
    client.assert_closed()
    assert probe.get("/served?p=/smuggled/afterclose").body == b"0"


def test_pipelined_mixture_of_methods(client):
    client.send("HEAD / HTTP/1.1\r\nHost: a\r\n\r\nGET /status?s=204%20No%20Content HTTP/1.1\r\nHost: a\r\n\r\n"
                "GET /status?s=304%20Not%20Modified HTTP/1.1\r\nHost: a\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n")
    head = client.response("HEAD")
    assert (head.status, head.get("Content-Length")) == (200, "14")
    assert client.response().status == 204
    assert client.response().status == 304
    assert client.response().body == b"Hello, World!\n"


# --- 100-continue -------------------------------------------------------------------------------------------------


@pytest.mark.smoke
def test_continue_comes_before_the_body(client):
    client.request("POST /echo HTTP/1.1", "Content-Length: 5", "Expect: 100-continue")
    assert client.head().status == 100
    client.send("hello")
    assert client.response().body == b"hello"
    client.assert_open()


def test_continue_for_a_chunked_body(client):
    client.request("POST /echo HTTP/1.1", "Transfer-Encoding: chunked", "Expect: 100-Continue")
    assert client.head().status == 100
    client.send("5\r\nhello\r\n0\r\n\r\n")
    assert client.response().body == b"hello"


def test_no_continue_without_a_body(client):
    response = client.request("GET / HTTP/1.1", "Expect: 100-continue").response()
    assert (response.status, response.interim) == (200, [])


def test_no_continue_for_http10(client):
    client.request("POST /echo HTTP/1.0", "Content-Length: 5", "Expect: 100-continue").send("hello")
    response = client.response()
    assert (response.body, response.interim) == (b"hello", [])


def test_no_continue_before_a_refusal(module_server):
    server = module_server("probe", "--max-body-size", "1k")
    with server.client() as client:
        client.request("POST /echo HTTP/1.1", "Content-Length: 2000", "Expect: 100-continue")
        response = client.response()
        assert (response.status, response.interim) == (413, [])
        client.assert_closed()


@pytest.mark.parametrize("field", ["Transfer-Encoding: gzip, chunked", "Content-Length: 5\r\nContent-Length: 6"])
def test_no_continue_before_a_framing_error(client, field):
    response = client.request("POST /echo HTTP/1.1", field, "Expect: 100-continue").response()
    assert (response.status in (400, 501), response.interim) == (True, [])


def test_unknown_expectation(client):
    assert client.request("POST /echo HTTP/1.1", "Content-Length: 2", "Expect: magic", body=b"ok").response().status in (200, 417)


def test_continue_is_lazy_when_streaming(module_server):
    """If the application never reads, the server sends no 100 and the client no body."""
    server = module_server("probe", "--stream-requests", "always")
    with server.client() as client:
        client.request("POST /unread HTTP/1.1", "Content-Length: 5", "Expect: 100-continue")
        response = client.response()
        assert (response.status, response.interim) == (200, [])
    with server.client() as client:
        client.request("POST /echo HTTP/1.1", "Content-Length: 5", "Expect: 100-continue")
        assert client.head().status == 100
        assert client.send("hello").response().body == b"hello"


@pytest.mark.parametrize(("opening", "body"), [(" HEAD", b"400 Bad Request\n"), ("\n\nHEAD", b"400 Bad Request\n"), ("\r\nHEAD", b"")])
def test_refused_head_has_no_body_and_what_is_none_has_one(client, opening, body):
    # A method begins a request line, and only empty lines may come before it.
    client.send(f"{opening} / HTTP/1.1\r\nHost: a b\r\n\r\n")
    response = client.response("HEAD" if not body else "GET")
    assert (response.status, response.body) == (400, body)
    client.assert_closed()


# --- HEAD, 204, 304 -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/", "/whole?n=100000", "/big?n=100000", "/blocks?n=100000"])
def test_head_has_the_fields_of_get_and_no_body(client, path):
    head = client.get(path, method="HEAD")
    got = client.get(path)
    assert head.status == got.status == 200
    assert head.get("Content-Length") == got.get("Content-Length")
    assert head.get("Content-Type") == got.get("Content-Type")


@pytest.mark.parametrize("line", ["204 No Content", "304 Not Modified"])
def test_no_body_no_framing(client, line):
    response = client.get("/status?s=" + line.replace(" ", "%20"))
    assert response.status == int(line[:3])
    assert response.get("Transfer-Encoding") is None
    if response.status == 204:
        assert response.get("Content-Length") is None
    client.assert_open()


# --- targets and Host ---------------------------------------------------------------------------------------------


def environ(client, line, **more):
    response = client.request(line, **more).response()
    assert response.status == 200, response
    return json.loads(response.body)["environ"]


def test_absolute_form(client):
    said = environ(client, "GET http://right.example:81/environ?a=1 HTTP/1.1", host="right.example:81")
    assert (said["PATH_INFO"], said["QUERY_STRING"], said["HTTP_HOST"]) == ("/environ", "a=1", "right.example:81")


def test_asterisk_form(client):
    assert client.request("OPTIONS * HTTP/1.1").response().status in (200, 204, 404, 405)
    client.assert_open()


@pytest.mark.parametrize("host", [None, "a b", "a/b", "a@b", "a:x", "[::1", "a\x01"])
def test_wrong_host_is_400(client, host):
    assert client.request("GET / HTTP/1.1", host=host).response().status == 400
    client.assert_closed()


@pytest.mark.parametrize("host", ["a", "a:80", "a:", "[::1]", "[::1]:80", "127.0.0.1:1", "xn--e1aybc.example"])
def test_right_host(client, host):
    assert environ(client, "GET /environ HTTP/1.1", host=host)["HTTP_HOST"] == host


def test_leading_empty_lines_are_ignored(client):
    client.send("\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n")
    assert client.response().status == 200


# --- limits of a head ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "data, status",
    [
        ("GET /" + "a" * 9000 + " HTTP/1.1\r\nHost: a\r\n\r\n", 414),
        (HEAD + "X: " + "y" * 9000 + "\r\n\r\n", 431),
        (HEAD + "".join(f"X-{n}: y\r\n" for n in range(101)) + "\r\n", 431),
        (HEAD + "".join(f"X-{n}: {'y' * 8000}\r\n" for n in range(9)) + "\r\n", 431),
        (HEAD + "X: " + "y" * 100000, 431),
        ("G" * 100000, (400, 414, 501)),
        ("nonsense\r\n\r\n", 400),
    ],
    ids=["line_414", "field_431", "fields_431", "head_431", "endless_field_431", "endless_line", "nonsense_400"],
)
def test_limit(client, data, status):
    client.send(data)
    response = client.response()
    assert response.status in ((status,) if isinstance(status, int) else status)
    assert response.get("Connection").lower() == "close"
    assert 0 < len(response.body) < 500
    assert response.get("Content-Type").startswith("text/plain")
    client.assert_closed()


def test_head_just_within_the_limits(client):
    assert client.get("/" + "x/" + "a" * 8100).status == 200
    assert client.get("/x", *[f"X-{n}: y" for n in range(98)]).status == 200
    assert client.get("/x", "X: " + "y" * 8180).status == 200


def test_limits_are_settings(module_server):
    server = module_server("probe", "--limit-request-line", "100", "--limit-request-fields", "3", "--limit-request-field-size", "50")
    for line, fields, status in [
        ("GET /x" + "a" * 200 + " HTTP/1.1", [], 414),
        ("GET /x HTTP/1.1", ["A: b", "B: c", "C: d"], 431),
        ("GET /x HTTP/1.1", ["A: " + "b" * 60], 431),
        ("GET /x HTTP/1.1", ["A: b", "B: c"], 200),
    ]:
        with server.client() as client:
            assert client.request(line, *fields).response().status == status


# --- every split --------------------------------------------------------------------------------------------------

SPLIT = [
    b"GET /environ?a=b HTTP/1.1\r\nHost: a\r\nX-Y: z\r\n\r\n",
    b"POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 11\r\n\r\nhello world",
    b"POST /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5;a=b\r\nhello\r\n6\r\n world\r\n0\r\nT: u\r\n\r\n",
]


@pytest.mark.parametrize("data", SPLIT, ids=["get", "length", "chunked"])
def test_request_split_anywhere_is_the_same(probe, data):
    with probe.client() as client:
        expected = client.send(data).response().body
        for at in range(1, len(data)):
            client.send(data[:at])
            # A response on another connection shows that the server has had time to read the first part.
            if at % 8 == 0:
                probe.get()
            assert client.send(data[at:]).response().body == expected


@pytest.mark.parametrize("data", SPLIT, ids=["get", "length", "chunked"])
def test_request_byte_by_byte_is_the_same(probe, data):
    with probe.client() as client:
        expected = client.send(data).response().body
        for byte in data:
            client.send(bytes([byte]))
        assert client.response().body == expected


@pytest.mark.parametrize("data", SPLIT[:2], ids=["get", "length"])
def test_two_requests_split_anywhere(probe, data):
    with probe.client() as client:
        expected = client.send(data).response().body
        for at in range(1, len(data), 7):
            client.send(data + data[:at])
            assert client.response().body == expected
            client.send(data[at:])
            assert client.response().body == expected


# --- chunked, both ways -------------------------------------------------------------------------------------------


@pytest.mark.smoke
def test_chunked_request_has_a_length_for_the_application(client):
    client.request("POST /environ HTTP/1.1", "Transfer-Encoding: chunked", body=b"3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n")
    said = json.loads(client.response().body)
    assert said["body"] == "abcde"
    assert said["environ"]["CONTENT_LENGTH"] == "5"
    assert "HTTP_TRANSFER_ENCODING" not in said["environ"]


def test_trailers_are_dropped(client):
    client.request("POST /environ HTTP/1.1", "Transfer-Encoding: chunked", "Trailer: X-T", body=b"0\r\nX-T: 1\r\nHost: evil\r\n\r\n")
    said = json.loads(client.response().body)["environ"]
    assert "HTTP_X_T" not in said
    assert said["HTTP_HOST"] == "test.example"
    client.assert_open()


@pytest.mark.parametrize("body", [b"0005\r\nhello\r\n000\r\n\r\n", b'5;a="b c";d\r\nhello\r\n0;x\r\n\r\n', b"A\r\n0123456789\r\n0\r\n\r\n", b"a\r\n0123456789\r\n0\r\n\r\n"])
def test_chunk_syntax(client, body):
    client.request("POST /echo HTTP/1.1", "Transfer-Encoding: chunked", body=body)
    assert client.response().body in (b"hello", b"0123456789")
    client.assert_open()


@pytest.mark.smoke
def test_chunked_response(client):
    response = client.get("/blocks?n=1000000")
    assert response.get("Transfer-Encoding") == "chunked"
    assert response.body == bytes(range(256)) * 3906 + bytes(range(64))
    client.assert_open()


def test_each_block_leaves_at_once(client, probe):
    client.request("GET /drip/blocks HTTP/1.1")
    client.head()
    chunks = client.chunks()
    assert next(chunks) == b"first"         # The application waits for the gate meanwhile.
    probe.get("/release/blocks")
    assert list(chunks) == [b"second"]


# --- closing ------------------------------------------------------------------------------------------------------


@pytest.mark.smoke
def test_half_closed_client_gets_its_answer(client):
    client.request("POST /echo HTTP/1.1", "Content-Length: 5", body=b"hello").half_close()
    assert client.response().body == b"hello"
    client.assert_closed()


def test_half_closed_client_gets_all_pipelined_answers(client):
    client.send((HEAD + "\r\n") * 20).half_close()
    for _ in range(20):
        assert client.response().status == 200
    client.assert_closed()


def test_half_closed_while_the_application_runs(client, probe):
    client.request("GET /hold/half HTTP/1.1")
    assert probe.get("/held/half").body == b"yes"
    client.half_close()
    probe.get("/release/half")
    assert client.response().body == b"held half"
    client.assert_closed()


def test_half_close_in_the_head_is_no_request(client):
    client.send("GET /smuggled/headcut HTTP/1.1\r\nHost: a\r\n").half_close()
    answer = client.rest()
    assert answer == b"" or answer.startswith(b"HTTP/1.1 400 ")


def test_close_in_the_body_is_no_request(client, probe):
    client.request("POST /smuggled/bodycut HTTP/1.1", "Content-Length: 10", body=b"hello").half_close()
    answer = client.rest()
    assert answer == b"" or answer.startswith(b"HTTP/1.1 400 ")
    assert probe.get("/served?p=/smuggled/bodycut").body == b"0"


@pytest.mark.parametrize("what, status", [("length", 413), ("chunked", 413), ("bad", 400)])
def test_early_answer_is_not_lost_to_a_reset(module_server, what, status):
    """The client continues to send a body that the server does not read, and reads the response only afterwards."""
    server = module_server("probe", "--max-body-size", "100k")
    for _ in range(5):
        with server.client() as client:
            if what == "length":
                client.request("POST /echo HTTP/1.1", "Content-Length: 1000000", body=b"x" * 1000000)
            elif what == "chunked":
                client.request("POST /echo HTTP/1.1", "Transfer-Encoding: chunked", body=b"f4240\r\n" + b"x" * 1000000 + b"\r\n0\r\n\r\n")
            else:
                client.request("POST /echo HTTP/1.1", "Content-Length: nonsense", body=b"x" * 1000000)
            response = client.response()
            assert response.status == status
            assert response.get("Connection").lower() == "close"
            client.half_close()
            client.assert_closed()


def test_lingering_ends(module_server):
    """If a client continues to send after a refusal, the server stops reading after a while."""
    server = module_server("probe", "--max-body-size", "100k")
    with server.client() as client:
        client.request("POST /echo HTTP/1.1", "Content-Length: 1000000000000")
        sent, end = 0, time.monotonic() + 30
        try:
            while time.monotonic() < end:
                client.send(b"x" * 65536)
                sent += 65536
        except OSError:
            return
    pytest.fail(f"{sent} bytes were taken")


def test_content_length_too_long_is_cut_visibly(client):
    """The application sends less than its Content-Length. The client must not take the part for the whole."""
    client.request("GET /big?n=10 HTTP/1.1")
    assert client.response().body == bytes(range(10))
    client.assert_open()


def test_error_answers_are_whole_messages(client):
    client.send("BAD\r\n\r\n")
    response = client.response()
    assert response.status == 400
    assert response.reason == "Bad Request"
    assert response.get("Content-Length") == str(len(response.body))
    assert response.get("Date")
    client.assert_closed()


def test_server_header_is_a_setting(module_server):
    assert module_server("probe", "--server-header", "quite different").get().get("Server") == "quite different"


def test_server_header_can_be_left_out(module_server):
    assert module_server("probe", "--server-header", "").get().get("Server") is None


def test_reason_phrase_is_kept(client):
    response = client.get("/status?s=299%20As%20It%20Pleases")
    assert (response.status, response.reason) == (299, "As It Pleases")


def test_responses_to_head_do_not_shift_the_next(client):
    for _ in range(10):
        assert client.get("/whole?n=5000", method="HEAD").get("Content-Length") == "5000"
        assert client.get("/").body == b"Hello, World!\n"


def test_date_goes_on(probe):
    dates = set()
    end = time.monotonic() + 10
    with probe.client() as client:
        while len(dates) < 2 and time.monotonic() < end:
            dates.add(client.get("/").get("Date"))
    assert len(dates) == 2
    assert all(re.fullmatch(r"\w{3}, \d\d \w{3} \d{4} \d\d:\d\d:\d\d GMT", date) for date in dates)


def test_idle_connection_still_answers(client, probe):
    """The connection is idle for long enough that the server parks it."""
    assert client.get("/").status == 200
    with probe.client() as other:
        assert other.quiet(0.5)
    assert client.get("/").status == 200
    client.send("GET / HT")
    with probe.client() as other:
        assert other.quiet(0.3)
    client.send("TP/1.1\r\nHost: a\r\n\r\n")
    assert client.response().status == 200


def test_many_connections_in_turn(probe):
    for _ in range(300):
        assert probe.get("/", "Connection: close").status == 200


def test_client_that_closes_while_idle_is_forgotten(probe):
    for _ in range(50):
        with probe.client() as client:
            client.get("/")
    assert probe.get("/").status == 200
