"""Responses, `Expect`, and limits."""

from http1.words import (
    ANY,
    CLOSE,
    DROPPED,
    EXPECT,
    GET_X,
    HANG,
    HELLO,
    HELLO_CHUNKED,
    KEEP,
    case,
    chunked,
    echoed,
    encoded,
    outcome,
    post,
    request,
    response,
    until_continue,
)

# Responses.

case("rs-head", "RFC9110 9.3.2", "MUST", request("HEAD /x HTTP/1.1"), [outcome(response(200))], methods=["HEAD"])
case(
    "rs-head-cl",
    "RFC9110 8.6",
    "SHOULD",
    request("HEAD /x HTTP/1.1"),
    [outcome(response(200, fields={"content-length": lambda value: value and int(value) > 50}))],
    methods=["HEAD"],
)
case(
    "rs-head-stream",
    "RFC9110 9.3.2",
    "MUST",
    request("HEAD /stream HTTP/1.1"),
    [outcome(response(200))],
    methods=["HEAD"],
)
case(
    "rs-204",
    "RFC9110 15.3.5",
    "MUST",
    request("GET /s/204 HTTP/1.1"),
    [outcome(response(204, fields={"x-code": "204"}), end=ANY)],
)
case("rs-204-keep", "RFC9112 9.3", "SHOULD", request("GET /s/204 HTTP/1.1"), [outcome(response(204))])
case("rs-304", "RFC9110 15.4.5", "MUST", request("GET /s/304 HTTP/1.1"), [outcome(response(304), end=ANY)])
case(
    "rs-stream-11",
    "RFC9112 6.3",
    "MUST",
    request("GET /stream HTTP/1.1"),
    [outcome(response(200, body=b"one,two,three"), end=ANY)],
)
case(
    "rs-stream-11-keep",
    "RFC9112 9.3",
    "SHOULD",
    request("GET /stream HTTP/1.1"),
    [outcome(response(200, body=b"one,two,three", framing="chunked"), end=KEEP)],
)
case(
    "rs-stream-10",
    "RFC9112 6.1",
    "MUST",
    request("GET /stream HTTP/1.0", "Connection: keep-alive"),
    [outcome(response(200, body=b"one,two,three", absent=("transfer-encoding",)), end=ANY)],
    note="no chunked to 1.0",
)
case("rs-nolen", "PEP3333", "SHOULD", request("GET /nolen HTTP/1.1"), [outcome(response(200, body=b"nolen"), end=KEEP)])
case(
    "rs-500-keeps-framing",
    "RFC9112 9.3",
    "MUST",
    request("GET /readn/notanumber HTTP/1.1"),
    [outcome(response(500), end=ANY)],
)
case(
    "rs-big",
    "RFC9112 6.2",
    "MUST",
    request("GET /big/3000000 HTTP/1.1"),
    [outcome(response(200, body=lambda body: len(body) == 3000000))],
    seconds=6,
)

# Expect.

case(
    "ex-100",
    "RFC9110 10.1.1",
    "MUST",
    [post("Content-Length: 5", EXPECT), until_continue, b"hello"],
    [outcome(response(200, HELLO), end=ANY), outcome(response(417), end=ANY)],
    continued=True,
    note="100 without waiting for the content",
)
case(
    "ex-100-once",
    "RFC9110 10.1.1",
    "MUST",
    [post("Content-Length: 5", EXPECT), until_continue, b"hello"],
    [outcome(response(200, HELLO), end=ANY, interim=range(0, 2))],
)
case(
    "ex-100-case",
    "RFC9110 10.1.1",
    "MUST",
    [post("Content-Length: 5", "Expect: 100-Continue"), until_continue, b"hello"],
    [outcome(response(200, HELLO), end=ANY)],
    continued=True,
)
case(
    "ex-100-chunked",
    "RFC9110 10.1.1",
    "MUST",
    [chunked("", EXPECT), until_continue, encoded(HELLO_CHUNKED)],
    [outcome(response(200, HELLO), end=ANY)],
    continued=True,
)
case(
    "ex-100-http10",
    "RFC9110 10.1.1",
    "MUST",
    [post("Content-Length: 5", EXPECT, line="POST /x HTTP/1.0"), 0.5, b"hello"],
    [outcome(response(200, HELLO), end=CLOSE, interim=(0,))],
)
case(
    "ex-no-wait",
    "RFC9110 10.1.1",
    "MUST",
    post("Content-Length: 5", EXPECT, body="hello"),
    [outcome(response(200, HELLO), end=ANY)],
    note="a client that does not wait for the 100",
)
case(
    "ex-noread",
    "RFC9110 10.1.1",
    "MUST",
    [post("Content-Length: 5", EXPECT, line="POST /noread HTTP/1.1"), until_continue],
    [outcome(response(200, body=b"noread"), end=ANY | HANG), outcome(end=HANG, interim=(1,))],
    note="a final status, or 100, must come without content",
    seconds=1.5,
    probed=False,
)
case(
    "ex-unknown",
    "RFC9110 10.1.1",
    "MUST",
    request("GET /x HTTP/1.1", "Expect: gold"),
    [echoed(**GET_X), outcome(response(417), end=ANY)],
)
case(
    "ex-100-no-body",
    "RFC9110 10.1.1",
    "MUST",
    request("GET /x HTTP/1.1", EXPECT),
    [outcome(response(200, GET_X), end=ANY)],
)

# Limits.

case(
    "lim-target-1m",
    "RFC9112 3",
    "MUST",
    request("GET /" + "a" * 1000000 + " HTTP/1.1"),
    [outcome(response(414), end=CLOSE), echoed(path=lambda path: len(path) > 999999)],
    seconds=4,
    note="414 if longer than it wishes to parse",
)
case(
    "lim-header-1m",
    "RFC9110 5.4",
    "MUST",
    request("GET /x HTTP/1.1", "X-A: " + "a" * 1000000),
    [outcome(response(range(400, 500)), end=CLOSE), echoed(**GET_X)],
    seconds=4,
)
case(
    "lim-header-431",
    "RFC6585 5",
    "POLICY",
    request("GET /x HTTP/1.1", "X-A: " + "a" * 1000000),
    [outcome(response(431), end=CLOSE)],
    seconds=4,
)
case(
    "lim-count-5000",
    "RFC9110 5.4",
    "MUST",
    request("GET /x HTTP/1.1", *["X-%d: v" % i for i in range(5000)]),
    [outcome(response(range(400, 500)), end=CLOSE), echoed(**GET_X)],
    seconds=4,
)
case(
    "lim-no-crlf",
    "RFC9112 3",
    "POLICY",
    b"A" * 1000000,
    [outcome(response(range(400, 600)), end=CLOSE), DROPPED],
    seconds=4,
)
case(
    "lim-header-8k",
    "RFC9110 5.4",
    "POLICY",
    request("GET /x HTTP/1.1", "X-A: " + "a" * 8000),
    [echoed(**GET_X)],
    note="cookies of 8 kB are in the wild",
)
case(
    "lim-body-1m",
    "RFC9112 6.2",
    "MUST",
    post("Content-Length: 1000000", body=b"q" * 1000000),
    [echoed(body=lambda text: len(text) == 1000000), outcome(response(413), end=ANY)],
    seconds=5,
)
