"""Where a body ends: `Content-Length`, `Transfer-Encoding`, and chunks."""

from http1.words import (
    ANY,
    BAD_BODY,
    BAD_REQUEST,
    CLOSE,
    DROPPED,
    HELLO,
    HELLO_CHUNKED,
    REFUSALS,
    REFUSED,
    SMUGGLED,
    WAITS,
    case,
    chunked,
    echoed,
    half_close,
    outcome,
    post,
    request,
    response,
    with_environ,
)

# Content-Length.

case("cl-5", "RFC9112 6.2", "MUST", post("Content-Length: 5", body="hello"), [echoed(**HELLO)])
case("cl-0", "RFC9112 6.2", "MUST", post("Content-Length: 0"), [echoed(method="POST", body="")])
case("cl-none-post", "RFC9112 6.3", "MUST", post(), [echoed(method="POST", body=""), outcome(response(411), end=ANY)])
case(
    "cl-leading-zeros",
    "RFC9110 8.6",
    "MUST",
    post("Content-Length: 0010", body="helloworld"),
    [echoed(body="helloworld")],
    note="decimal",
)
case(
    "cl-get-body",
    "RFC9110 9.3.1",
    "MUST",
    request("GET /x HTTP/1.1", "Content-Length: 5", body="hello"),
    [echoed(method="GET", body="hello"), REFUSED],
    note="framing does not depend on the method",
)
case(
    "cl-delete-body",
    "RFC9112 6.3",
    "MUST",
    request("DELETE /x HTTP/1.1", "Content-Length: 5", body="hello"),
    [echoed(method="DELETE", body="hello"), REFUSED],
)
for name, v in (
    ("plus", "+5"),
    ("minus", "-5"),
    ("hex", "0x5"),
    ("inner-space", "5 5"),
    ("float", "5.0"),
    ("exp", "5e0"),
    ("text", "abc"),
    ("empty", ""),
    ("underscore", "0_5"),
    ("semicolon", "5;"),
    ("list-diff", "5, 6"),
    ("minus-zero", "-0"),
):
    case("cl-" + name, "RFC9112 6.3", "MUST", post("Content-Length: " + v, body="hello", tail=SMUGGLED), [BAD_REQUEST])
case("cl-list-same", "RFC9112 6.3", "MUST", post("Content-Length: 5, 5", body="hello"), [BAD_REQUEST, echoed(**HELLO)])
case(
    "cl-twice-same",
    "RFC9110 8.6",
    "MUST",
    post("Content-Length: 5", "Content-Length: 5", body="hello"),
    [BAD_REQUEST, echoed(**HELLO)],
)
case(
    "cl-twice-diff",
    "RFC9112 6.3",
    "MUST",
    post("Content-Length: 5", "Content-Length: 6", body="hello!", tail=SMUGGLED),
    [BAD_REQUEST],
)
case(
    "cl-huge",
    "RFC9110 8.6",
    "MUST",
    post("Content-Length: " + "9" * 40, body="hello"),
    [REFUSED, WAITS],
    seconds=2,
    note="no integer overflow",
)
case(
    "cl-2p64-plus5",
    "RFC9110 8.6",
    "MUST",
    post("Content-Length: 18446744073709551621", body="hello"),
    [REFUSED, WAITS],
    note="2**64+5",
    seconds=2,
)
case(
    "cl-10",
    "RFC9112 6.2",
    "MUST",
    post("Content-Length: 5", body="hello", line="POST /x HTTP/1.0"),
    [echoed(CLOSE, **HELLO)],
)
case(
    "cl-body-binary",
    "RFC9112 6.2",
    "MUST",
    post("Content-Length: 256", body=bytes(range(256))),
    [echoed(body="".join(map(chr, range(256))))],
)
case(
    "cl-unread-body",
    "RFC9112 9.3",
    "MUST",
    post("Content-Length: 44", line="POST /noread HTTP/1.1", body=SMUGGLED.ljust(44, b"z")),
    [outcome(response(200, body=b"noread"), end=ANY)],
    note="the server must read the rest of the body or close",
)
case(
    "cl-half-read-body",
    "RFC9112 9.3",
    "MUST",
    post("Content-Length: %d" % (6 + len(SMUGGLED)), line="POST /readn/6 HTTP/1.1", body=b"abcdef" + SMUGGLED),
    [outcome(response(200, body=b"abcdef"), end=ANY)],
)

# Transfer-Encoding.

case("te-chunked", "RFC9112 7.1", "MUST", chunked(HELLO_CHUNKED), [echoed(**HELLO)])
case("te-chunked-case", "RFC9112 7", "MUST", post("Transfer-Encoding: ChUnKeD", body=HELLO_CHUNKED), [echoed(**HELLO)])
case(
    "te-get",
    "RFC9112 6.3",
    "MUST",
    chunked(HELLO_CHUNKED, line="GET /x HTTP/1.1"),
    [echoed(method="GET", body="hello"), REFUSED],
)
case(
    "te-cl",
    "RFC9112 6.1",
    "MUST",
    post("Transfer-Encoding: chunked", "Content-Length: 5", body=HELLO_CHUNKED, tail=SMUGGLED),
    [outcome(response(200, HELLO), end=CLOSE), BAD_REQUEST],
    note="must close after it",
)
case(
    "te-cl-first",
    "RFC9112 6.1",
    "MUST",
    post("Content-Length: 50", "Transfer-Encoding: chunked", body=HELLO_CHUNKED, tail=SMUGGLED),
    [outcome(response(200, HELLO), end=CLOSE), BAD_REQUEST],
)
case(
    "te-10",
    "RFC9112 6.1",
    "MUST",
    chunked(HELLO_CHUNKED, "Connection: keep-alive", line="POST /x HTTP/1.0", tail=SMUGGLED),
    [outcome(response({200} | set(REFUSALS)), end=CLOSE), DROPPED],
    note="faulty framing: must close",
)
case(
    "te-twice-in-one",
    "RFC9112 6.1",
    "SHOULD",
    post("Transfer-Encoding: chunked, chunked", body=HELLO_CHUNKED, tail=SMUGGLED),
    [REFUSED],
)
case(
    "te-two-lines",
    "RFC9112 6.1",
    "SHOULD",
    post("Transfer-Encoding: chunked", "Transfer-Encoding: chunked", body=HELLO_CHUNKED, tail=SMUGGLED),
    [REFUSED],
)
case(
    "te-identity",
    "RFC9112 6.3",
    "MUST",
    post("Transfer-Encoding: identity", "Content-Length: 5", body="hello", tail=SMUGGLED),
    [REFUSED],
    note="chunked is not final: 400 (or 501 for the unknown coding)",
)
case(
    "te-xchunked",
    "RFC9112 6.3",
    "MUST",
    post("Transfer-Encoding: xchunked", "Content-Length: 5", body="hello", tail=SMUGGLED),
    [REFUSED],
)
case(
    "te-chunked-gzip",
    "RFC9112 6.3",
    "MUST",
    post("Transfer-Encoding: chunked, gzip", body=HELLO_CHUNKED, tail=SMUGGLED),
    [REFUSED],
)
case(
    "te-gzip-chunked",
    "RFC9112 6.1",
    "SHOULD",
    post("Transfer-Encoding: gzip, chunked", body=HELLO_CHUNKED),
    [outcome(response(501), end=ANY), BAD_REQUEST],
    note="a coding it does not understand: 501",
)
case(
    "te-empty",
    "RFC9112 6.3",
    "SHOULD",
    post("Transfer-Encoding:", "Content-Length: 5", body="hello", tail=SMUGGLED),
    [REFUSED],
)
case(
    "te-space-before-colon",
    "RFC9112 5.1",
    "MUST",
    post("Transfer-Encoding : chunked", "Content-Length: 5", body=HELLO_CHUNKED, tail=SMUGGLED),
    [BAD_REQUEST],
)
case(
    "te-vtab",
    "RFC9112 6.3",
    "MUST",
    post("Transfer-Encoding: \x0bchunked", "Content-Length: 15", body=HELLO_CHUNKED, tail=SMUGGLED),
    [REFUSED],
)
case(
    "te-underscore",
    "RFC3875 4.1.18",
    "POLICY",
    post("Transfer_Encoding: chunked", "Content-Length: 15", body=HELLO_CHUNKED),
    [REFUSED, with_environ({"HTTP_TRANSFER_ENCODING": None}, body=HELLO_CHUNKED)],
)
case(
    "te-unread-body",
    "RFC9112 9.3",
    "MUST",
    chunked("2c\r\n" + SMUGGLED.decode().ljust(44, "z") + "\r\n0\r\n\r\n", line="POST /noread HTTP/1.1"),
    [outcome(response(200, body=b"noread"), end=ANY)],
)

# Chunk syntax.

case("ch-many", "RFC9112 7.1", "MUST", chunked("2\r\nhe\r\n1\r\nl\r\n2\r\nlo\r\n0\r\n\r\n"), [echoed(**HELLO)])
case("ch-empty", "RFC9112 7.1", "MUST", chunked("0\r\n\r\n"), [echoed(method="POST", body="")])
case("ch-upper-hex", "RFC9112 7.1", "MUST", chunked("A\r\n0123456789\r\n0\r\n\r\n"), [echoed(body="0123456789")])
case("ch-leading-zeros", "RFC9112 7.1", "MUST", chunked("0005\r\nhello\r\n000\r\n\r\n"), [echoed(**HELLO)])
case("ch-ext", "RFC9112 7.1.1", "MUST", chunked('5;a=b;c;d="e"\r\nhello\r\n0;z\r\n\r\n'), [echoed(**HELLO)])
case(
    "ch-trailer",
    "RFC9112 7.1.2",
    "MUST",
    chunked("5\r\nhello\r\n0\r\nX-T: 1\r\n\r\n"),
    [with_environ({"HTTP_X_T": None}, body="hello")],
    note="must not be merged into the header section",
)
case(
    "ch-trailer-cl",
    "RFC9110 6.5.1",
    "MUST",
    chunked("5\r\nhello\r\n0\r\nContent-Length: 99\r\n\r\n"),
    [with_environ({"CONTENT_LENGTH": lambda value: value != "99"}, body="hello"), REFUSED],
)
case(
    "ch-trailer-host",
    "RFC9110 6.5.1",
    "MUST",
    chunked("5\r\nhello\r\n0\r\nHost: evil\r\n\r\n"),
    [with_environ({"HTTP_HOST": "h"}, body="hello"), REFUSED],
)
for name, body in (
    ("size-plus", "+5\r\nhello\r\n0\r\n\r\n"),
    ("size-0x", "0x5\r\nhello\r\n0\r\n\r\n"),
    ("size-minus", "-5\r\nhello\r\n0\r\n\r\n"),
    ("size-text", "zz\r\nhello\r\n0\r\n\r\n"),
    ("size-empty", "\r\nhello\r\n0\r\n\r\n"),
    ("size-underscore", "0_5\r\nhello\r\n0\r\n\r\n"),
    ("size-leading-space", " 5\r\nhello\r\n0\r\n\r\n"),
    ("data-short", "4\r\nhello\r\n0\r\n\r\n"),
    ("data-long", "6\r\nhello\r\n0\r\n\r\n"),
    ("no-crlf-after-data", "5\r\nhello0\r\n\r\n"),
    ("size-overflow", "10000000000000005\r\nhello\r\n0\r\n\r\n"),
    ("size-32-f", "f" * 32 + "\r\nhello\r\n0\r\n\r\n"),
    ("size-cr-only", "5\rhello\r\n0\r\n\r\n"),
):
    case(
        "ch-" + name,
        "RFC9112 7.1",
        "MUST" if "overflow" in name or "32" in name else "SHOULD",
        chunked(body, tail=SMUGGLED),
        BAD_BODY
        + ([WAITS, outcome(response(200, {"body": ""}), end=CLOSE)] if "overflow" in name or "32" in name else []),
        seconds=1.5,
    )
case(
    "cl-huge-refused",
    "RFC9110 15.5.14",
    "POLICY",
    post("Content-Length: " + "9" * 40, body="hello"),
    [REFUSED],
    seconds=1.5,
)
case(
    "ch-size-huge-refused", "RFC9112 7.1", "POLICY", chunked("f" * 32 + "\r\nhello\r\n0\r\n\r\n"), BAD_BODY, seconds=1.5
)
case("ch-size-lf", "RFC9112 7.1", "POLICY", chunked("5\nhello\r\n0\r\n\r\n", tail=SMUGGLED), BAD_BODY)
case("ch-ext-lf", "RFC9112 7.1.1", "POLICY", chunked("5;\nxx\r\nhello\r\n0\r\n\r\n", tail=SMUGGLED), BAD_BODY)
case(
    "ch-unfinished",
    "RFC9112 8",
    "POLICY",
    [chunked("5\r\nhello\r\n"), half_close],
    BAD_BODY,
    note="the end never came: not a complete message",
    seconds=2,
)
case(
    "cl-unfinished", "RFC9112 8", "POLICY", [post("Content-Length: 10", body="hello"), half_close], BAD_BODY, seconds=2
)
