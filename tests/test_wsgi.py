"""PEP 3333 from the application's side."""

import hashlib
import json
import threading

import pytest

from client import Closed
from process import EXAMPLES

FILE = bytes(range(256)) * 4096


@pytest.fixture(scope="module")
def wsgi(module_server):
    return module_server("wsgi_cases")


@pytest.fixture(scope="module")
def streaming(module_server):
    return module_server("wsgi_cases", "--stream-requests", "always")


@pytest.fixture
def client(wsgi):
    with wsgi.client() as client:
        yield client


def happened(wsgi, event, timeout=10):
    return int(wsgi.get(f"/events?e={event.replace(' ', '%20')}&t={timeout}").body)


def log_of(wsgi, client, path):
    """Returns the response to `path`, and the text that the request added to the error log."""
    start = len(wsgi.err.text())
    response = client.get(path)
    return response, lambda pattern: wsgi.err.wait(pattern, start=start)


# --- responses ----------------------------------------------------------------------------------------------------


@pytest.mark.smoke
def test_write(client):
    assert client.get("/write").body == b"one,two,three"


def test_write_only(client):
    assert client.get("/write_only").body == b"written"


def test_late_start_response(client):
    response = client.get("/late")
    assert (response.status, response.body) == (201, b"late")


@pytest.mark.parametrize(
    "path, body",
    [("/empty_first", b"body"), ("/nothing", b""), ("/single", b"known"), ("/tuple_of_two", b"onetwo"),
     ("/generator", b"generated"), ("/closes", b"ab")],
)
def test_iterables(client, path, body):
    assert client.get(path).body == body
    client.assert_open("/single")


def test_length_is_added_where_it_is_known(client):
    assert client.get("/single").get("Content-Length") == "5"
    assert client.get("/nothing").get("Content-Length") == "0"


@pytest.mark.smoke
@pytest.mark.parametrize("path", ["/no_start", "/string", "/none", "/twice", "/raises", "/raises_first", "/exits",
                                  "/interrupts", "/exits_in_body", "/header_type", "/bytes_itself"])
def test_failure_before_the_head_is_500(client, wsgi, path):
    response, logged = log_of(wsgi, client, path)
    assert response.status == 500
    assert b"Traceback" not in response.body and b"wsgi_cases" not in response.body
    logged(r"GET " + path)
    with wsgi.client() as other:
        other.assert_open("/single")


@pytest.mark.smoke
def test_traceback_is_logged_with_the_request_line(client, wsgi):
    _, logged = log_of(wsgi, client, "/raises?secret=1")
    logged(r"GET /raises\?secret=1")
    logged(r"Traceback \(most recent call last\)")
    logged(r"ValueError: made to fail in the call")


@pytest.mark.parametrize("path", ["/exits", "/interrupts"])
def test_system_exit_does_not_stop_the_server(wsgi, path):
    for _ in range(3):
        assert wsgi.get(path).status == 500
    assert wsgi.process.poll() is None
    wsgi.err.wait("SystemExit|KeyboardInterrupt")


def test_exc_info_before_the_head_replaces_it(client):
    response = client.get("/exc_info_before")
    assert (response.status, response.reason, response.body) == (503, "Oh", b"replaced")
    assert response.get("X-First") is None and response.get("X-Second") == "2"


def test_exc_info_after_the_head_raises(client, wsgi):
    start = len(wsgi.err.text())
    client.request("GET /exc_info_after HTTP/1.1")
    with pytest.raises(Closed):
        client.response()
    wsgi.err.wait("KeyError: 'too late'", start=start)


@pytest.mark.parametrize("path", ["/raises_later", "/raises_later_length", "/short"])
def test_failure_after_the_head_is_seen_by_the_client(client, path):
    client.request(f"GET {path} HTTP/1.1")
    with pytest.raises(Closed):
        client.response()


@pytest.mark.parametrize("cut", ["/short HTTP/1.1", "/raises_later HTTP/1.1", "/raises_later HTTP/1.0"])
def test_response_before_one_that_is_cut_arrives_whole(wsgi, cut):
    start = len(wsgi.err.text())
    with wsgi.client(receive_buffer=4096) as client:
        # The second response is cut while most of the first is on its way. The third is never read whole.
        for each in ("/large HTTP/1.1", cut):
            client.request(f"GET {each}")
        client.request("POST /single HTTP/1.1", "Content-Length: 65536", body=bytes(65536))
        wsgi.err.wait("shorter than its Content-Length|ValueError", start=start)
        assert client.response().body == b"x" * 100_000
        if cut.endswith("1.1"):
            with pytest.raises(Closed):
                client.response()
        else:
            with pytest.raises(ConnectionResetError):
                while client.socket.recv(1 << 16):
                    pass


def test_failure_in_the_body_closes_the_iterable(wsgi, client):
    client.request("GET /raises_in_body HTTP/1.1").rest()
    assert happened(wsgi, "close raises_in_body") == 1


def test_too_much_is_cut(client, wsgi):
    response, _ = log_of(wsgi, client, "/long")
    assert response.body == b"01234"
    try:
        client.assert_open("/single")
    except (Closed, OSError):
        pass            # The server may also close the connection.


@pytest.mark.smoke
def test_close_is_called_once(wsgi):
    assert wsgi.get("/closes?n=1").body == b"ab"
    assert happened(wsgi, "close closes1") == 1
    assert wsgi.get("/closes_empty").body == b""
    assert happened(wsgi, "close closes_empty") == 1


def test_close_is_called_for_head_and_when_the_client_goes(wsgi):
    wsgi.get("/closes?n=head", method="HEAD")
    assert happened(wsgi, "close closeshead") == 1
    with wsgi.client() as client:
        client.request("GET /closes?n=gone HTTP/1.1")
        # If a client left earlier, no call is made, so there is nothing to close.
        client.read_until(b"\r\n")
        client.reset()
    assert happened(wsgi, "close closesgone") == 1


def test_failing_close_is_logged(wsgi):
    start = len(wsgi.err.text())
    with wsgi.client() as client:
        client.request("GET /close_raises HTTP/1.1")
        try:
            client.response()
        except Closed:
            pass
    wsgi.err.wait("made to fail in close", start=start)


@pytest.mark.parametrize("status", ["200", "OK", "2000 OK", "99 x", "20x OK", "", "100 Continue", "101 x"])
def test_malformed_status_is_500(client, status):
    response = client.get("/bad_status?s=" + status.replace(" ", "%20") if status else "/bad_status?s=%20")
    assert response.status == 500 or (status == "200" and response.status == 200)


def test_hop_by_hop_fields_are_the_servers(client):
    """The field is refused or left out. The application never decides the framing of the body."""
    response = client.get("/hop")
    if response.status == 200:
        assert response.body == b"5\r\nhello\r\n0\r\n\r\n"
    else:
        assert response.status == 500


def test_own_date_and_server_are_kept(client):
    response = client.get("/own_date")
    assert response.get("Date") == "Thu, 01 Jan 1970 00:00:00 GMT"
    assert response.get("Server") == "mine"


def test_repeated_response_fields_are_kept(client):
    assert client.get("/cookies").all("Set-Cookie") == ["a=1", "b=2"]


def test_latin1_both_ways(client):
    response = client.get("/latin1", "X-In: caf\xe9")
    assert response.reason == "\xdcber"
    assert response.get("X-Latin") == "caf\xe9"
    assert response.body == b"caf\xe9"


# --- wsgi.input ---------------------------------------------------------------------------------------------------

BODY = b"first line\nsecond\n\nlast without end"


@pytest.mark.smoke
@pytest.mark.parametrize("framing", ["length", "chunked", "streamed"])
@pytest.mark.parametrize(
    "calls, expected",
    [
        ("read", [BODY.decode()]),
        ("read:-1", [BODY.decode()]),
        ("read:5,read:6,read,read,read:1", ["first", " line\n", BODY[11:].decode(), "", ""]),
        ("read:0,read:1000", ["", BODY.decode()]),
        ("readline,readline:3,readline,readline,readline,readline", ["first line\n", "sec", "ond\n", "\n", "last without end", ""]),
        ("readlines", [["first line\n", "second\n", "\n", "last without end"]]),
        ("iter,read", [["first line\n", "second\n", "\n", "last without end"], ""]),
        ("read:11,iter", ["first line\n", ["second\n", "\n", "last without end"]]),
        ("readlines:1,read", [["first line\n"], BODY[11:].decode()]),
    ],
)
def test_input(wsgi, streaming, framing, calls, expected):
    with (streaming if framing == "streamed" else wsgi).client() as client:
        if framing == "chunked":
            body = b"".join(b"%x\r\n%s\r\n" % (len(BODY[n:n + 7]), BODY[n:n + 7]) for n in range(0, len(BODY), 7)) + b"0\r\n\r\n"
            client.request(f"POST /read?c={calls} HTTP/1.1", "Transfer-Encoding: chunked", body=body)
        else:
            client.request(f"POST /read?c={calls} HTTP/1.1", f"Content-Length: {len(BODY)}", body=BODY)
        assert json.loads(client.response().body) == expected
        client.assert_open("/single")


def test_input_without_a_body_is_empty(client):
    assert json.loads(client.get("/read?c=read,readline,readlines,iter").body) == ["", "", [], []]


def test_input_never_reads_into_the_next_request(client):
    client.send(b"POST /read?c=read,read:100 HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabcGET /single HTTP/1.1\r\nHost: a\r\n\r\n")
    assert json.loads(client.response().body) == ["abc", ""]
    assert client.response().body == b"known"


# --- environ ------------------------------------------------------------------------------------------------------


@pytest.mark.smoke
def test_environ(module_server):
    server = module_server("probe")
    with server.client() as client:
        client.request("POST /environ/a%20b%C3%A9//c?x=1&y=%20 HTTP/1.1", "Content-Type: text/x", "Content-Length: 2",
                       "X-One: 1", "X-Two: 2", "X-Two: 3", "Cookie: a=1", "Cookie: b=2", host="h.example:81", body=b"ok")
        local_port = client.socket.getsockname()[1]
        said = json.loads(client.response().body)["environ"]
    expected = {
        "REQUEST_METHOD": "POST", "SCRIPT_NAME": "", "PATH_INFO": "/environ/a b\xc3\xa9//c", "QUERY_STRING": "x=1&y=%20",
        "RAW_URI": "/environ/a%20b%C3%A9//c?x=1&y=%20", "REQUEST_URI": "/environ/a%20b%C3%A9//c?x=1&y=%20",
        "CONTENT_TYPE": "text/x", "CONTENT_LENGTH": "2", "SERVER_PROTOCOL": "HTTP/1.1", "SERVER_PORT": str(server.port),
        "REMOTE_ADDR": "127.0.0.1", "REMOTE_PORT": str(local_port), "HTTP_HOST": "h.example:81", "HTTP_X_ONE": "1",
        "HTTP_COOKIE": "a=1; b=2", "wsgi.version": [1, 0], "wsgi.url_scheme": "http", "wsgi.run_once": False,
        "wsgi.multithread": True, "wsgi.multiprocess": False, "wsgi.input_terminated": True,
    }
    assert {k: said.get(k) for k in expected} == expected
    assert said["HTTP_X_TWO"].replace(" ", "") == "2,3"
    assert said["SERVER_NAME"]
    assert said["SERVER_SOFTWARE"].lower().startswith("maypole")
    assert "HTTP_CONTENT_TYPE" not in said and "HTTP_CONTENT_LENGTH" not in said
    for name in ("wsgi.input", "wsgi.errors", "wsgi.file_wrapper", "wsgi.early_hints", "maypole.send_continue",
                 "maypole.client_disconnected", "maypole.socket", "maypole.suspend", "x-wsgiorg.suspend"):
        assert name in said


def test_environ_is_a_plain_dict_of_this_request(client):
    for _ in range(2):
        assert client.get("/environ_is_a_dict").body == b"True"


def test_environ_leaks_nothing_between_requests(module_server):
    server = module_server("probe")
    with server.client() as client:
        client.get("/environ?a=b", "X-Secret: 1", "Cookie: c", "Authorization: d")
        client.post("/environ", b"body", "Content-Type: e/f")
        said = json.loads(client.get("/environ").body)["environ"]
    for name in ("HTTP_X_SECRET", "HTTP_COOKIE", "HTTP_AUTHORIZATION"):
        assert name not in said
    assert said["QUERY_STRING"] == ""
    assert said.get("CONTENT_LENGTH", "") in ("", "0") and said.get("CONTENT_TYPE", "") == ""


def test_threads_are_visible_to_python(client):
    said = json.loads(client.get("/local").body)
    assert said["me"] in said["all"]


# --- wsgi.errors --------------------------------------------------------------------------------------------------


@pytest.mark.smoke
def test_errors_go_to_the_error_log(client, wsgi):
    _, logged = log_of(wsgi, client, "/error_stream")
    logged("written to errors: \xe9\u20ac")
    logged("line one")
    logged("line two")
    logged("printed to errors")
    logged("GET /error_stream")


# --- files --------------------------------------------------------------------------------------------------------


@pytest.mark.smoke
def test_file_wrapper(client):
    response = client.get("/file")
    assert response.body == FILE
    assert response.get("Content-Length") == str(len(FILE))
    client.assert_open("/single")


@pytest.mark.parametrize("offset, length", [(1000, None), (0, 10), (1000, 5000), (1048575, 1), (1048576, None), (1048000, 576)])
def test_file_wrapper_from_an_offset_up_to_a_length(client, offset, length):
    response = client.get(f"/file?o={offset}" + (f"&l={length}" if length is not None else ""))
    assert response.body == FILE[offset:][:length]
    client.assert_open("/single")


def test_file_wrapper_head(client):
    assert client.get("/file", method="HEAD").status == 200
    client.assert_open("/single")


def test_file_wrapper_http10(client):
    assert client.request("GET /file HTTP/1.0").response().body == FILE


def test_file_wrapper_of_something_else_is_read_and_closed(client, wsgi):
    assert client.get("/file_like").body == b"abc" * 5000
    assert happened(wsgi, "close file_like") == 1


def test_file_wrapper_can_be_iterated(client):
    assert client.get("/file_iterated").body == b"abc" * 5000


def test_file_shorter_than_announced_is_cut_visibly(client):
    client.request("GET /file?o=1048566&l=20 HTTP/1.1")
    with pytest.raises(Closed):
        client.response()


# --- extensions ---------------------------------------------------------------------------------------------------


@pytest.mark.smoke
def test_early_hints(client):
    response = client.get("/hints")
    assert [head.status for head in response.interim] == [103, 103]
    assert response.interim[0].get("Link") == "</style.css>; rel=preload; as=style"
    assert response.body == b"hinted"


def test_early_hints_are_not_sent_to_http10(client):
    response = client.request("GET /hints HTTP/1.0").response()
    assert (response.interim, response.body) == ([], b"hinted")


def test_each_part_of_a_body_is_asked_for_by_the_application(streaming):
    with streaming.client() as client:
        for _ in range(20):
            client.request("POST /phases HTTP/1.1", "Expect: 100-continue", "Content-Length: 6")
            for number, part in enumerate([b"abc", b"def"], 1):
                head = client.head()
                assert (head.status, head.fields) == (100, [("X-Phase", str(number))])
                client.send(part)
            response = client.response()
            assert (response.interim, response.body) == ([], b"[True, b'abc', True, b'def']")


def test_continue_of_the_application_comes_besides_where_bodies_are_complete(client):
    client.request("POST /phases HTTP/1.1", "Expect: 100-continue", "Content-Length: 6")
    assert client.head().fields == []
    response = client.send(b"abcdef").response()
    assert [head.get("X-Phase") for head in response.interim] == ["1", "2"]
    assert response.body == b"[True, b'abc', True, b'def']"


def test_max_http_version_of_1_0_is_kept_to(server):
    old = server("wsgi_cases", "--max-http-version", "1.0")
    response = old.get("/hints")
    assert (response.version, response.interim, response.body) == ("HTTP/1.0", [], b"hinted")
    assert response.get("Connection") == "close" and response.get("Transfer-Encoding") is None


def test_client_disconnected(wsgi):
    with wsgi.client() as client:
        client.request("GET /gone HTTP/1.1")
        assert happened(wsgi, "gone asked False") == 1
        client.reset()
    assert happened(wsgi, "gone seen") == 1
    assert happened(wsgi, "close gone") == 1


# --- the examples under wsgiref.validate --------------------------------------------------------------------------


def validated(module_server, example, **env):
    if example.startswith(("flask", "django")):
        pytest.importorskip(example.partition("_")[0])
    return module_server("validated", env={"EXAMPLES": str(EXAMPLES), "EXAMPLE": example, **env})


@pytest.mark.smoke
def test_example_hello(module_server):
    server = validated(module_server, "hello")
    assert server.get().body == b"Hello, World!\n"
    assert server.get(method="HEAD").get("Content-Length") == "14"
    assert "AssertionError" not in server.err.text()


@pytest.mark.smoke
def test_example_streaming(module_server):
    server = validated(module_server, "streaming")
    numbers = server.get("/numbers")
    assert hashlib.sha256(numbers.body).digest() == hashlib.sha256("".join(f"{n}\n" for n in range(1000000)).encode()).digest()
    assert server.get("/nowhere").status == 404
    with server.client() as client:
        client.request("GET / HTTP/1.1").head()
        assert next(client.chunks()) == b"data: 0\n\n"
    assert "AssertionError" not in server.err.text()


def test_example_streaming_file(module_server):
    """The validator is left out, because it hides the file in a wrapper."""
    server = module_server("streaming", cwd=EXAMPLES)
    assert server.get("/source").body == (EXAMPLES / "streaming.py").read_bytes()


@pytest.mark.smoke
def test_example_upload(module_server):
    server = validated(module_server, "upload")
    data = b"some data" * 10000
    line = f"{len(data)} bytes, sha256 {hashlib.sha256(data).hexdigest()}\n".encode()
    assert server.post("/", data).body == line
    with server.client() as client:
        client.request("PUT / HTTP/1.1", "Transfer-Encoding: chunked", body=b"%x\r\n%s\r\n0\r\n\r\n" % (len(data), data))
        assert client.response().body == line
    assert server.get().status == 405
    assert "AssertionError" not in server.err.text()


def test_example_flask(module_server):
    server = validated(module_server, "flask_app:app")
    assert server.get().body == b"Hello from Flask\n"
    assert json.loads(server.get("/user/ann", "User-Agent: me").body) == {"name": "ann", "agent": "me"}
    # /form is left out. Werkzeug calls read() without a size, which PEP 3333 allows and the validator does not.
    assert server.get("/nowhere").status == 404
    assert "AssertionError" not in server.err.text()


def test_example_django(module_server, tmp_path):
    server = validated(module_server, "django_app", DJANGO_DATABASE=str(tmp_path / "db"))
    assert server.get().body == b"Hello from Django\n"
    assert json.loads(server.get("/users").body) == {"users": ["admin"]}
    assert server.get("/admin/").status == 302
    assert "AssertionError" not in server.err.text()


def test_concurrent_requests_do_not_mix(wsgi, module_server):
    server = module_server("probe")
    wrong = []

    def one(number):
        with server.client() as client:
            for turn in range(50):
                body = b"%d-%d" % (number, turn)
                if client.post("/echo", body).body != body:
                    wrong.append(body)

    threads = [threading.Thread(target=one, args=(n,)) for n in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
