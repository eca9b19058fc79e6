"""Published attacks on servers of this kind: the bytes, and the required response.

A test's id ends in the advisory's. Every refused request has a second one after it, in the same bytes or in the next
ones, and the server never serves that one.
"""

import itertools
import json
import select
import socket
import time

import pytest

from client import Closed
from process import best, eventually

NUMBER = itertools.count()


def get(*fields, line="GET /x HTTP/1.1", host="Host: a\r\n"):
    return f"{line}\r\n{host}" + "".join(f + "\r\n" for f in fields) + "\r\n"


def post(*fields, body="", line="POST /sha HTTP/1.1"):
    return get(*fields, line=line) + body


def chunked(body, *fields):
    return post("Transfer-Encoding: chunked", *fields, body=body)


BAD = {400}
BAD_OR_UNKNOWN = {400, 501}
LARGE = {400, 431}

# (what, bytes, acceptable statuses, advisory)
REFUSED = [
    ("bare_lf", "GET /x HTTP/1.1\nHost: a\n\n", BAD, "CVE-2019-16785"),
    ("bare_lf_in_field", "GET /x HTTP/1.1\r\nHost: a\nX: y\r\n\r\n", BAD, "CVE-2019-16785"),
    ("bare_lf_at_end", "GET /x HTTP/1.1\r\nHost: a\r\n\n", BAD, "CVE-2019-16785"),
    ("te_gzip_chunked", post("Transfer-Encoding: gzip, chunked", "Content-Length: 5", body="0\r\n\r\n"), BAD_OR_UNKNOWN, "CVE-2019-16786"),
    ("te_gzip_chunked_without_cl", post("Transfer-Encoding: gzip, chunked", body="0\r\n\r\n"), BAD_OR_UNKNOWN, "CVE-2019-16786"),
    ("te_folded", post("Transfer-Encoding:\r\n chunked", "Content-Length: 5", body="0\r\n\r\n"), BAD_OR_UNKNOWN, "CVE-2019-16786"),
    ("te_vertical_tab", post("Transfer-Encoding:\x0bchunked", "Content-Length: 5", body="0\r\n\r\n"), BAD_OR_UNKNOWN, "CVE-2019-16789"),
    ("te_form_feed", post("Transfer-Encoding: chunked\x0c", "Content-Length: 5", body="0\r\n\r\n"), BAD_OR_UNKNOWN, "CVE-2019-16789"),
    ("te_nbsp", post("Transfer-Encoding: \xa0chunked", "Content-Length: 5", body="0\r\n\r\n"), BAD_OR_UNKNOWN, "CVE-2019-16789"),
    ("te_next_line", post("Transfer-Encoding: \x85chunked", "Content-Length: 5", body="0\r\n\r\n"), BAD_OR_UNKNOWN, "CVE-2019-16789"),
    ("te_unit_separator", post("Transfer-Encoding: \x1fchunked", "Content-Length: 5", body="0\r\n\r\n"), BAD_OR_UNKNOWN, "CVE-2019-16789"),
    ("name_space_before_colon", post("Transfer-Encoding : chunked", body="0\r\n\r\n"), BAD, "CVE-2019-16789"),
    ("name_vertical_tab", post("\x0bTransfer-Encoding: chunked", body="0\r\n\r\n"), BAD, "CVE-2019-16789"),
    ("name_tab_before_colon", post("Content-Length\t: 5", body="hello"), BAD, "CVE-2019-16789"),
    ("cl_twice", post("Content-Length: 5", "Content-Length: 6", body="hello"), BAD, "CVE-2019-16792"),
    ("cl_folded_twice", post("Content-Length: 5\r\n , 6", body="hello"), BAD, "CVE-2019-16792"),
    ("cl_list", post("Content-Length: 5, 6", body="hello"), BAD, "CVE-2019-16792"),
    ("chunk_size_0x", chunked("0x3\r\nabc\r\n0\r\n\r\n"), BAD, "CVE-2022-24761"),
    ("chunk_size_plus", chunked("+3\r\nabc\r\n0\r\n\r\n"), BAD, "CVE-2022-24761"),
    ("chunk_size_minus", chunked("-3\r\nabc\r\n0\r\n\r\n"), BAD, "CVE-2022-24761"),
    ("chunk_size_underscore", chunked("0_3\r\nabc\r\n0\r\n\r\n"), BAD, "CVE-2022-24761"),
    ("chunk_size_space_before", chunked(" 3\r\nabc\r\n0\r\n\r\n"), BAD, "CVE-2022-24761"),
    ("chunk_size_empty", chunked("\r\nabc\r\n0\r\n\r\n"), BAD, "CVE-2022-24761"),
    ("chunk_size_superscript", chunked("\xb2\r\nab\r\n0\r\n\r\n"), BAD, "CVE-2022-24761"),
    ("chunk_extension_control", chunked("3;a=\x01\r\nabc\r\n0\r\n\r\n"), BAD, "CVE-2022-24761"),
    ("chunk_extension_nul", chunked("3;\0\r\nabc\r\n0\r\n\r\n"), BAD, "CVE-2022-24761"),
    ("te_two_lines", post("Transfer-Encoding: chunked", "Transfer-Encoding: identity", "Content-Length: 5", body="0\r\n\r\n"), BAD_OR_UNKNOWN, "CVE-2024-1135"),
    ("te_identity_first", post("Transfer-Encoding: identity", "Transfer-Encoding: chunked", body="0\r\n\r\n"), BAD_OR_UNKNOWN, "CVE-2024-1135"),
    ("te_chunked_twice", post("Transfer-Encoding: chunked", "Transfer-Encoding: chunked", body="0\r\n\r\n"), BAD_OR_UNKNOWN, "CVE-2024-1135"),
    ("te_unknown_with_cl", post("Transfer-Encoding: xchunked", "Content-Length: 5", body="0\r\n\r\n"), BAD_OR_UNKNOWN, "CVE-2024-6827"),
    ("te_identity_with_cl", post("Transfer-Encoding: identity", "Content-Length: 5", body="0\r\n\r\n"), BAD_OR_UNKNOWN, "CVE-2024-6827"),
    ("te_empty_with_cl", post("Transfer-Encoding:", "Content-Length: 5", body="0\r\n\r\n"), BAD_OR_UNKNOWN, "CVE-2024-6827"),
    ("chunk_extension_bare_cr", chunked("3;a\rb\r\nabc\r\n0\r\n\r\n"), BAD, "gunicorn-25.3"),
    ("host_twice", get("Host: b"), BAD, "gunicorn-26.1"),
    ("host_twice_same", get("Host: a"), BAD, "gunicorn-26.1"),
    ("te_not_ending_in_chunked", post("Transfer-Encoding: chunked, gzip", body="0\r\n\r\n"), BAD_OR_UNKNOWN, "gunicorn-27.0"),
    ("connect_followed_by_bytes", get(line="CONNECT a:80 HTTP/1.1"), {400, 405, 501}, "gunicorn-27.0"),
    ("path_control", get(line="GET /x\x01 HTTP/1.1"), BAD, "gunicorn-27.0"),
    ("path_delete", get(line="GET /x\x7f HTTP/1.1"), BAD, "gunicorn-27.0"),
    ("path_nul", get(line="GET /x\0 HTTP/1.1"), BAD, "gunicorn-27.0"),
    ("cl_and_te", post("Content-Length: 5", "Transfer-Encoding: chunked", body="0\r\n\r\n"), BAD, "eventlet-826"),
    ("te_and_cl", post("Transfer-Encoding: chunked", "Content-Length: 5", body="0\r\n\r\n"), BAD, "eventlet-826"),
    ("trailer_is_a_request", chunked("0\r\nGET /smuggled/{id} HTTP/1.1\r\n\r\n"), BAD, "CVE-2025-58068"),
    ("trailer_without_colon", chunked("0\r\nnonsense\r\n\r\n"), BAD, "CVE-2025-58068"),
    ("trailer_bad_name", chunked("3\r\nabc\r\n0\r\nA B: c\r\n\r\n"), BAD, "CVE-2023-41419"),
    ("trailer_too_long", chunked("0\r\nA: " + "x" * 70000 + "\r\n\r\n"), LARGE, "CVE-2023-41419"),
    ("trailer_too_many", chunked("0\r\n" + "A: b\r\n" * 5000 + "\r\n"), LARGE, "CVE-2023-41419"),
    ("te_semicolon", post("Transfer-Encoding: chunked;a=b", body="0\r\n\r\n"), BAD_OR_UNKNOWN, "CVE-2020-11076"),
    ("te_quoted", post('Transfer-Encoding: "chunked"', "Content-Length: 5", body="0\r\n\r\n"), BAD_OR_UNKNOWN, "CVE-2020-11076"),
    ("te_comma_before", post("Transfer-Encoding: ,chunked,x", "Content-Length: 5", body="0\r\n\r\n"), BAD_OR_UNKNOWN, "CVE-2020-11077"),
    ("line_end_lf_between_fields", "POST /sha HTTP/1.1\r\nHost: a\r\nDummy: x\nContent-Length: 5\r\n\r\nhello", BAD, "CVE-2021-41136"),
    ("line_end_cr", "POST /sha HTTP/1.1\r\nHost: a\rContent-Length: 5\r\n\r\nhello", BAD, "CVE-2022-24790"),
    ("cl_with_te_http10", "POST /sha HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", BAD_OR_UNKNOWN, "CVE-2022-24790"),
    ("cl_empty", post("Content-Length:", body="hello"), BAD, "GHSA-68xg-gqqm-vgj8"),
    ("cl_empty_then_value", post("Content-Length:", "Content-Length: 5", body="hello"), BAD, "GHSA-68xg-gqqm-vgj8"),
    ("cl_twice_second_wins", post("Content-Length: 0", "Content-Length: 5", body="hello"), BAD, "cheroot-737"),
    ("te_multiple_lines_mixed", post("Transfer-Encoding: gzip", "Transfer-Encoding: chunked", body="0\r\n\r\n"), BAD_OR_UNKNOWN, "CVE-2021-21299"),
    ("chunk_size_overflow", chunked("f000000000000000f\r\nabc\r\n0\r\n\r\n"), {400, 413}, "CVE-2021-32714"),
    ("chunk_size_all_f", chunked("ffffffffffffffff\r\nabc\r\n0\r\n\r\n"), {400, 413}, "CVE-2021-32714"),
    ("chunk_size_1e", chunked("10000000000000003\r\nabc\r\n0\r\n\r\n"), {400, 413}, "CVE-2021-32714"),
    ("cl_plus", post("Content-Length: +3", body="abc"), BAD, "CVE-2021-32715"),
    ("cl_minus", post("Content-Length: -3", body="abc"), BAD, "CVE-2021-32715"),
    ("cl_underscore", post("Content-Length: 3_0", body="abc"), BAD, "CVE-2021-32715"),
    ("cl_hex", post("Content-Length: 0x3", body="abc"), BAD, "CVE-2021-32715"),
    ("cl_superscript", post("Content-Length: \xb2", body="ab"), BAD, "CVE-2021-32715"),
    ("cl_overflow", post("Content-Length: 18446744073709551619", body="abc"), {400, 413}, "CVE-2021-32715"),
    ("chunk_data_any_two_bytes", chunked("3\r\nabcXX0\r\n\r\n"), BAD, "CVE-2025-43859"),
    ("chunk_data_lf", chunked("3\r\nabc\n0\r\n\r\n"), BAD, "CVE-2025-43859"),
    ("chunk_data_longer", chunked("3\r\nabcd\r\n0\r\n\r\n"), BAD, "CVE-2025-43859"),
    ("chunk_data_missing_cr", chunked("3\r\nabc\n\n0\r\n\r\n"), BAD, "CVE-2025-43859"),
    ("term_ext", chunked("3;\n\r\nabc\r\n0\r\n\r\n"), BAD, "CVE-2025-55315"),
    ("ext_term_cr", chunked("3;a\r;b\r\nabc\r\n0\r\n\r\n"), BAD, "CVE-2025-55315"),
    ("ext_term_lf", chunked("3;a\nabc\r\n0\r\n\r\n"), BAD, "CVE-2025-55315"),
    ("term_spill", chunked("3\nabc\r\n0\r\n\r\n"), BAD, "CVE-2025-55315"),
    ("spill_term_cr", chunked("3\rabc\r\n0\r\n\r\n"), BAD, "CVE-2025-55315"),
    ("last_chunk_lf", chunked("3\r\nabc\r\n0\n\n"), BAD, "CVE-2025-55315"),
    ("last_chunk_bare_cr", chunked("3\r\nabc\r\n0\r\rX\r\n"), BAD, "CVE-2025-55315"),
    ("te_cr_before_value", post("Transfer-Encoding: \rchunked", "Content-Length: 5", body="0\r\n\r\n"), BAD_OR_UNKNOWN, "CVE-2022-32213"),
    ("te_chunked_comma_nothing", post("Transfer-Encoding: chunked, cow", "Content-Length: 5", body="0\r\n\r\n"), BAD_OR_UNKNOWN, "CVE-2022-32213"),
    ("field_ended_by_cr", "GET /x HTTP/1.1\r\nHost: a\r\nX: y\rTransfer-Encoding: chunked\r\n\r\n", BAD, "CVE-2022-32214"),
    ("te_obs_fold", post("Transfer-Encoding: chunked\r\n , identity", "Content-Length: 5", body="0\r\n\r\n"), BAD_OR_UNKNOWN, "CVE-2022-32215"),
    ("field_of_a_lone_cr", "GET /x HTTP/1.1\r\nHost: a\r\n\rContent-Length: 5\r\n\r\n", BAD, "CVE-2022-35256"),
    ("empty_name_cr", "GET /x HTTP/1.1\r\nHost: a\r\n\r\rX: y\r\n\r\n", BAD, "CVE-2023-30589"),
]


@pytest.mark.parametrize(
    "data, statuses",
    [pytest.param(data, statuses, id=f"{what}-{advisory}") for what, data, statuses, advisory in REFUSED],
)
@pytest.mark.parametrize("together", [True, False], ids=["same_segment", "next_segment"])
def test_refused(probe, data, statuses, together):
    mark = next(NUMBER)
    data = data.replace("{id}", str(mark)).encode("latin-1")
    behind = f"GET /smuggled/{mark} HTTP/1.1\r\nHost: a\r\n\r\n".encode() * 2
    with probe.client() as client:
        if together:
            client.send(data + behind)
        else:
            client.send(data)
        response = client.response()
        assert response.status in statuses, response
        assert response.get("Connection", "").lower() == "close"
        if not together:
            try:
                client.send(behind)
            except OSError:
                pass
        client.assert_closed()
    assert probe.get(f"/served?p=/smuggled/{mark}").body == b"0"


def environ_of(probe, data):
    """Returns the environ that the application saw. The request must be for /environ."""
    with probe.client() as client:
        response = client.send(data).response()
        assert response.status == 200, response
        return json.loads(response.body)["environ"]


@pytest.mark.parametrize(
    "fields, absent",
    [
        pytest.param(("X_Foo: evil",), "HTTP_X_FOO", id="eventlet-959"),
        pytest.param(("X_Forwarded_For: evil",), "HTTP_X_FORWARDED_FOR", id="CVE-2024-45614"),
        pytest.param(("X_Auth_User: evil",), "HTTP_X_AUTH_USER", id="CVE-2015-0219"),
        pytest.param(("Proxy: http://evil",), "HTTP_PROXY", id="CVE-2016-5388"),
        pytest.param(("pRoXy: http://evil",), "HTTP_PROXY", id="case-CVE-2016-5388"),
        pytest.param(("UWSGI_FILE: exec://true",), "UWSGI_FILE", id="uwsgi-magic-variable"),
        pytest.param(("UWSGI_FILE: exec://true",), "HTTP_UWSGI_FILE", id="dropped-uwsgi-magic-variable"),
    ],
)
def test_field_dropped(probe, fields, absent):
    assert absent not in environ_of(probe, get(*fields, line="GET /environ HTTP/1.1"))


@pytest.mark.parametrize(
    "good, evil, key",
    [
        pytest.param("X-Forwarded-For: 10.0.0.1", "X_Forwarded_For: evil", "HTTP_X_FORWARDED_FOR", id="CVE-2024-45614"),
        pytest.param("X-Foo: 10.0.0.1", "X_Foo: evil", "HTTP_X_FOO", id="eventlet-959"),
    ],
)
@pytest.mark.parametrize("evil_first", [True, False], ids=["before", "after"])
def test_underscore_does_not_override(probe, good, evil, key, evil_first):
    fields = (evil, good) if evil_first else (good, evil)
    assert environ_of(probe, get(*fields, line="GET /environ HTTP/1.1"))[key] == "10.0.0.1"


@pytest.mark.parametrize("name", ["Content_Length: 5", "Transfer_Encoding: chunked"], ids=["cl-CVE-2026-68006", "te-CVE-2026-68006"])
def test_framing_with_underscore(probe, name):
    """The field is refused or ignored. In both cases the bytes after the head are never a body."""
    mark = next(NUMBER)
    with probe.client() as client:
        client.send(post(name, line="POST /environ HTTP/1.1"))
        response = client.response()
        assert response.status in (200, 400), response
        if response.status == 400:
            client.assert_closed()
        else:
            said = json.loads(response.body)
            assert said["body"] == ""
            assert "HTTP_CONTENT_LENGTH" not in said["environ"]
            assert "HTTP_TRANSFER_ENCODING" not in said["environ"]
            assert said["environ"].get("CONTENT_LENGTH", "") in ("", "0")
            assert client.get(f"/smuggled/{mark}").status == 200


def test_websocket_key_decides_no_length_grenfeldt(probe):
    mark = next(NUMBER)
    body = f"xxxxxxxxGET /smuggled/{mark} HTTP/1.1\r\nHost: a\r\n\r\n".ljust(64, "z")
    with probe.client() as client:
        response = client.send(post("Content-Length: 64", "Sec-WebSocket-Key1: x", body=body, line="POST /echo HTTP/1.1")).response()
        assert (response.status, response.body) == (200, body.encode())
        client.assert_open()
    assert probe.get(f"/served?p=/smuggled/{mark}").body == b"0"


@pytest.mark.parametrize("path", ["/unread", "/firstline"])
@pytest.mark.parametrize("framing", ["length", "chunked"])
def test_unread_body_is_no_request_CVE_2022_29361(probe, path, framing):
    mark = next(NUMBER)
    body = f"\r\nGET /smuggled/{mark} HTTP/1.1\r\nHost: a\r\n\r\n"
    with probe.client() as client:
        if framing == "length":
            client.send(post(f"Content-Length: {len(body)}", body=body, line=f"POST {path} HTTP/1.1"))
        else:
            client.send(post("Transfer-Encoding: chunked", body=f"{len(body):x}\r\n{body}\r\n0\r\n\r\n", line=f"POST {path} HTTP/1.1"))
        assert client.response().status == 200
        client.half_close()
        assert client.rest() == b""
    assert probe.get(f"/served?p=/smuggled/{mark}").body == b"0"


def test_unread_body_after_100_continue_gevent_25_4_1(module_server):
    """If the application does not read the body, the server discards it or closes the connection."""
    server = module_server("probe", "--stream-requests", "always")
    mark = next(NUMBER)
    body = f"GET /smuggled/{mark} HTTP/1.1\r\nHost: a\r\n\r\n"
    with server.client() as client:
        client.send(post(f"Content-Length: {len(body)}", "Expect: 100-continue", line="POST /unread HTTP/1.1"))
        assert client.response().status == 200
        try:
            client.send(body)
        except OSError:
            pass
        client.half_close()
        assert client.rest() == b""
    assert server.get(f"/served?p=/smuggled/{mark}").body == b"0"


def test_nothing_is_parsed_after_an_error_CVE_2024_49768(probe):
    """Sends an invalid request as long as a receive buffer, and a second request in the next segment."""
    for size in (1024, 4096, 8192, 16384, 32768, 65536):
        mark = next(NUMBER)
        start = b"GET /x HTTP/1.1\r\nHost: a\r\nBad Name: "
        with probe.client() as client:
            client.send(start + b"y" * (size - len(start) - 4) + b"\r\n\r\n")
            try:
                client.send(f"GET /smuggled/{mark} HTTP/1.1\r\nHost: a\r\n\r\n")
            except OSError:
                pass
            assert client.response().status in LARGE
            client.assert_closed()
        assert probe.get(f"/served?p=/smuggled/{mark}").body == b"0"


def spend(probe, data, statuses):
    """Returns the server's processor time for one request, refused or served, in seconds."""
    before = probe.cpu_seconds()
    with probe.client() as client:
        try:
            client.send(data)
        except OSError:
            pass
        assert client.response().status in statuses
    return probe.cpu_seconds() - before


@pytest.mark.parametrize(
    "field",
    [
        pytest.param("X: " + " " * 7000 + "x\x10", id="spaces-CVE-2020-5236"),
        pytest.param("X: " + " x" * 3500 + "\x10", id="words-CVE-2020-5236"),
        pytest.param("X: " + "\t " * 3500 + "\x10", id="tabs-CVE-2020-5236"),
    ],
)
def test_field_parsing_is_linear(probe, field):
    assert spend(probe, get(field), {400}) < 0.5


def test_repeated_field_is_joined_in_linear_time_gunicorn_27_0(module_server):
    server = module_server("probe", "--limit-request-fields", "10000")
    fields = ["X: " + "y"] * 9000
    before = server.cpu_seconds()
    said = environ_of(server, get(*fields, line="GET /environ HTTP/1.1"))
    assert said["HTTP_X"].replace(" ", "") == ",".join("y" * 9000)
    assert server.cpu_seconds() - before < 1


def bounded_and_linear(probe, opening, piece, statuses):
    """Sends an endless element in small pieces: the refusal comes soon, and costs little."""
    before = probe.cpu_seconds()
    sent = 0
    with probe.client() as client:
        client.send(opening)
        while not select.select([client.socket], [], [], 0.001)[0]:
            # Some of it is in the kernel's buffers.
            assert sent < 32 << 20, "the server goes on reading"
            try:
                client.send(piece)
            except OSError:
                break
            sent += len(piece)
        try:
            assert client.response().status in statuses
        except Closed:
            pass        # The refusal was lost, because the client continued to send.
    assert probe.cpu_seconds() - before < 2


def test_endless_chunk_extension_is_capped_CVE_2024_21647(probe):
    bounded_and_linear(probe, chunked("1;"), "a" * 4096, LARGE | {413})


def test_many_chunk_extensions_are_capped_CVE_2024_21647(probe):
    bounded_and_linear(probe, chunked(""), ("1;" + "a" * 4000 + "\r\nx\r\n"), LARGE | {413})


def test_unterminated_chunk_line_is_capped_gunicorn_26_2_1(probe):
    bounded_and_linear(probe, chunked(""), "0" * 1024, LARGE | {413})


def test_unterminated_trailer_is_capped_gunicorn_26_2_1(probe):
    bounded_and_linear(probe, chunked("0\r\nA: "), "a" * 1024, LARGE | {413})


def test_chunk_line_in_single_bytes_is_no_quadratic_work_gunicorn_26_2_1(probe):
    before = probe.cpu_seconds()
    with probe.client() as client:
        client.send(chunked(""))
        for byte in b"5;" + b"a" * 2000 + b"\r\nhello\r\n0\r\n\r\n":
            client.send(bytes([byte]))
        assert client.response().status in (200, 400)
    assert probe.cpu_seconds() - before < 2


def test_truncated_body_is_not_served_gunicorn_26_1(probe):
    """The client sends `0 CRLF` without the final empty line, and closes its side."""
    with probe.client() as client:
        client.send(chunked("3\r\nabc\r\n0\r\n").replace("/sha", "/smuggled/truncated")).half_close()
        answer = client.rest()
        assert answer == b"" or answer.startswith(b"HTTP/1.1 400 "), answer
    assert probe.get("/served?p=/smuggled/truncated").body == b"0"


def test_overlong_path_is_refused_CVE_2018_6758(probe):
    with probe.client() as client:
        client.send(b"GET /" + b"a" * 60000 + b" HTTP/1.1\r\nHost: a\r\n\r\n")
        assert client.response().status == 414
        client.assert_closed()


def test_path_traversal_is_only_a_path_CVE_2018_7490(probe):
    assert environ_of(probe, get(line="GET /environ/..%2f..%2fetc/passwd HTTP/1.1"))["PATH_INFO"] == "/environ/../../etc/passwd"


def test_untrusted_forwarded_fields_change_nothing_CVE_2022_2255(server):
    probe = server("probe", "--forwarded-allow-ips", "203.0.113.7")
    said = environ_of(probe, get("X-Forwarded-Proto: https", "X-Forwarded-For: 1.2.3.4", "X-Client-IP: 1.2.3.4",
                                 "X-Forwarded-Host: evil", "X-Forwarded-Port: 1", "Forwarded: for=1.2.3.4;proto=https",
                                 "X-Real-IP: 1.2.3.4", "Script-Name: /evil", "Remote-User: evil", line="GET /environ HTTP/1.1"))
    assert said["REMOTE_ADDR"] == "127.0.0.1"
    assert said["wsgi.url_scheme"] == "http"
    assert said["SERVER_PORT"] == str(probe.port)
    assert said["SCRIPT_NAME"] == ""
    assert said["HTTP_HOST"] == "a"
    assert "REMOTE_USER" not in said
    assert not [key for key in said if "FORWARDED" in key or key == "HTTP_X_REAL_IP"]


def test_connect_and_reset_flood_leaves_nothing_CVE_2024_49769(probe):
    probe.get()
    before, cpu = probe.descriptors(), probe.cpu_seconds()
    for number in range(500):
        with probe.client() as client:
            if number % 2:
                client.send("GET /x HTTP/1.1\r\nHo")
            client.reset()
    assert probe.get().status == 200
    eventually(lambda: probe.descriptors() <= before + 2, what="as few descriptors as before")
    # A busy loop would use all processor time in this interval.
    idle, start = probe.cpu_seconds(), time.monotonic()
    with probe.client() as client:
        assert client.quiet(0.5)
    assert probe.cpu_seconds() - idle < 0.5 * (time.monotonic() - start)
    assert probe.cpu_seconds() - cpu < 5


def test_client_gone_while_answered_does_not_stop_the_server_CVE_2022_31015(probe):
    for number in range(100):
        client = probe.client()
        client.send(get(line="GET /whole?n=300000 HTTP/1.1") * 3)
        if number % 2:
            client.read_exactly(10)
        client.reset()
    assert probe.get().status == 200


@pytest.mark.parametrize("advisory", ["CVE-2019-16770"])
def test_pipelining_client_does_not_monopolise(module_server, advisory):
    """Many requests wait on one connection. Another client's request is served before the last of them."""
    server = module_server("probe", "--threads", "1")
    many = 200

    def seconds():
        """Returns how long the other client's request takes, and then the rest of the greedy one's."""
        with server.client() as greedy, server.client() as other:
            greedy.send(get(line="GET /sleep?s=0.005 HTTP/1.1") * many)
            greedy.response()
            start = time.monotonic()
            assert other.get("/").status == 200
            waited = time.monotonic() - start
            start = time.monotonic()
            for _ in range(many - 1):
                assert greedy.response().status == 200
            return waited, time.monotonic() - start

    best(seconds, lambda waited, rest: waited < rest / 4)


@pytest.mark.parametrize("advisory", ["CVE-2021-29509"])
def test_busy_keep_alive_clients_do_not_starve_a_new_one(module_server, advisory):
    server = module_server("probe", "--threads", "2")

    def seconds():
        busy = [server.client() for _ in range(8)]
        try:
            for client in busy:
                client.send(get(line="GET /sleep?s=0.01 HTTP/1.1") * 100)
            for client in busy:
                client.response()
            start = time.monotonic()
            assert server.get("/").status == 200
            return [time.monotonic() - start]
        finally:
            for client in busy:
                client.close()

    best(seconds, lambda waited: waited < 1)


def test_silent_connections_hold_nothing_CVE_2007_6750(module_server):
    server = module_server("probe", "--pool-size", "2", "--threads", "2")
    silent = [server.client() for _ in range(50)]
    try:
        for number, client in enumerate(silent):
            if number % 3 == 1:
                client.send("GET /x HTTP/1.1\r\nHos")
            elif number % 3 == 2:
                client.send(post("Content-Length: 100", body="a"))
        start = time.monotonic()
        assert server.get("/").status == 200
        # The deadlines of the silent ones are longer.
        assert time.monotonic() - start < 5
    finally:
        for client in silent:
            client.close()


def test_body_flood_is_capped_CVE_2023_25577(module_server):
    server = module_server("probe", "--max-body-size", "64k")
    with server.client() as client:
        client.send(post("Content-Length: 65537"))
        assert client.response().status == 413
        client.assert_closed()
    with server.client() as client:
        client.send(chunked("8000\r\n" + "a" * 0x8000 + "\r\n" + "8001\r\n"))
        assert client.response().status == 413
        client.assert_closed()


@pytest.mark.parametrize(
    "path",
    [
        pytest.param("/field?v=a%0d%0aSet-Cookie:%20evil=1", id="CVE-2018-1000164"),
        pytest.param("/field?v=a%0aSet-Cookie:%20evil=1", id="lf-CVE-2020-5247"),
        pytest.param("/field?v=a%0dSet-Cookie:%20evil=1", id="cr-CVE-2020-5247"),
        pytest.param("/field?v=a%00b", id="nul-gh-143916"),
        pytest.param("/name?v=X%0d%0aSet-Cookie:%20evil=1;%20X", id="name-gh-143916"),
        pytest.param("/status?v=200%20OK%0d%0aSet-Cookie:%20evil=1", id="status-gh-144370"),
        pytest.param("/status?v=200%20OK%0aSet-Cookie:%20evil=1", id="status_lf-gh-144370"),
        pytest.param("/hints?v=a%0d%0aSet-Cookie:%20evil=1", id="hints-CVE-2020-5249"),
        pytest.param("/hints?v=a%0aSet-Cookie:%20evil=1", id="hints_lf-CVE-2020-5249"),
    ],
)
def test_response_splitting_is_refused(module_server, path):
    server = module_server("splitting")
    with server.client() as client:
        client.request(f"GET {path} HTTP/1.1")
        response = client.response()
        assert response.status == 500
        for head in [*response.interim, response]:
            assert b"evil" not in head.head


def test_iterable_is_always_closed_GHSA_rmj8_8hhh_gv5h(probe):
    """If a client leaves during the response, the iterable is still closed."""
    for number in range(5):
        with probe.client() as client:
            client.request(f"GET /endless?name=leak{number} HTTP/1.1")
            client.head()
            client.reset()
    for number in range(5):
        eventually(lambda n=number: json.loads(probe.get(f"/progress/leak{n}").body)["closed"] == 1, what="close()")


def test_half_open_connection_costs_no_cpu(probe):
    with socket.create_connection(("127.0.0.1", probe.port), 10) as sock, probe.client() as client:
        sock.shutdown(socket.SHUT_WR)
        before = probe.cpu_seconds()
        client.quiet(0.5)
        assert probe.cpu_seconds() - before < 0.25
