"""Connections that stay, connections that close, pipelines, and clients that leave."""

from http1.words import (
    ALIVE,
    ANY,
    BAD_REQUEST,
    CLOSE,
    GET_X,
    HELLO,
    KEEP,
    SMUGGLED,
    case,
    chunked,
    drip,
    echoed,
    half_close,
    leave,
    outcome,
    post,
    request,
    response,
    split,
    with_environ,
)

# Connections.

case("ka-11-default", "RFC9112 9.3", "SHOULD", request(), [echoed(**GET_X)])
case(
    "ka-11-close",
    "RFC9112 9.6",
    "MUST",
    request("GET /x HTTP/1.1", "Connection: close") + SMUGGLED,
    [echoed(CLOSE, **GET_X)],
    note="no further request may be processed",
)
case(
    "ka-11-close-case",
    "RFC9110 7.6.1",
    "MUST",
    request("GET /x HTTP/1.1", "Connection: CLOSE"),
    [echoed(CLOSE, **GET_X)],
)
case(
    "ka-11-close-list",
    "RFC9110 7.6.1",
    "MUST",
    request("GET /x HTTP/1.1", "Connection: foo, close"),
    [echoed(CLOSE, **GET_X)],
)
case(
    "ka-11-close-said",
    "RFC9112 9.6",
    "SHOULD",
    request("GET /x HTTP/1.1", "Connection: close"),
    [outcome(response(200, fields={"connection": lambda value: value and "close" in value.lower()}), end=CLOSE)],
)
case("ka-10-default", "RFC9112 9.3", "MUST", request("GET /x HTTP/1.0"), [echoed(CLOSE, **GET_X)])
case(
    "ka-10-keepalive",
    "RFC9112 9.3",
    "POLICY",
    request("GET /x HTTP/1.0", "Connection: keep-alive"),
    [
        outcome(response(200, fields={"connection": lambda value: value and "keep-alive" in value.lower()}), end=KEEP),
        echoed(CLOSE, **GET_X),
    ],
)
case("ka-10-protocol", "RFC9110 2.5", "MUST", request("GET /x HTTP/1.0"), [echoed(CLOSE, protocol="HTTP/1.0")])
case(
    "ka-app-close",
    "RFC9112 9.6",
    "SHOULD",
    request("GET /close HTTP/1.1"),
    [
        outcome(response(200, body=b"bye"), end=CLOSE),
        outcome(response(200, body=b"bye", absent=("connection",)), end=KEEP),
        outcome(response(500), end=ANY),
    ],
    note="a 'Connection: close' that goes out must be true",
)
case(
    "pipe-3",
    "RFC9112 9.3.2",
    "MUST",
    request("GET /1 HTTP/1.1") + request("GET /2 HTTP/1.1") + request("GET /3 HTTP/1.1"),
    [outcome(response(200, {"path": "/1"}), response(200, {"path": "/2"}), response(200, {"path": "/3"}))],
)
case(
    "pipe-bodies",
    "RFC9112 9.3.2",
    "MUST",
    post("Content-Length: 5", body="hello") + chunked("3\r\nabc\r\n0\r\n\r\n") + request("GET /3 HTTP/1.1"),
    [outcome(response(200, HELLO), response(200, {"body": "abc"}), response(200, {"path": "/3"}))],
)
case(
    "pipe-50",
    "RFC9112 9.3.2",
    "MUST",
    b"".join(request("GET /%d HTTP/1.1" % i) for i in range(50)),
    [outcome(*[response(200, {"path": "/%d" % i}) for i in range(50)])],
    seconds=6,
)
case(
    "pipe-bad-second",
    "RFC9112 9.3.2",
    "MUST",
    request("GET /1 HTTP/1.1") + post("Content-Length: x"),
    [outcome(response(200, {"path": "/1"}), response(400), end=ANY)],
    note="the first answer must not be lost",
)
case(
    "pipe-head",
    "RFC9112 6.3",
    "MUST",
    request("HEAD /1 HTTP/1.1") + request("GET /2 HTTP/1.1"),
    [outcome(response(200), response(200, {"path": "/2"}))],
    methods=["HEAD", "GET"],
)

# Segmentation, early close, slow.

case(
    "seg-drip-get",
    "RFC9112 2.1",
    "MUST",
    [drip(request("GET /d?q HTTP/1.1", "X-A: 1"), 0.002)],
    [with_environ({"HTTP_X_A": "1"}, path="/d")],
)
case("seg-drip-cl", "RFC9112 2.1", "MUST", [drip(post("Content-Length: 5", body="hello"), 0.002)], [echoed(**HELLO)])
case(
    "seg-drip-chunked",
    "RFC9112 2.1",
    "MUST",
    [drip(chunked("5;a=b\r\nhello\r\n0\r\nT: 1\r\n\r\n"), 0.002)],
    [echoed(**HELLO)],
)
case(
    "seg-split-crlfcrlf",
    "RFC9112 2.1",
    "MUST",
    [split(request(), [len(request()) - 3, len(request()) - 2, len(request()) - 1], 0.05)],
    [echoed(**GET_X)],
)
case("seg-body-later", "RFC9112 2.1", "MUST", [post("Content-Length: 5"), 0.4, b"hel", 0.4, b"lo"], [echoed(**HELLO)])
case(
    "half-close",
    "RFC9112 9.6",
    "POLICY",
    [request(), half_close],
    [echoed(CLOSE, **GET_X)],
    note="a client may half-close after its request",
)
case(
    "half-close-body",
    "RFC9112 9.6",
    "POLICY",
    [post("Content-Length: 5", body="hello"), half_close],
    [echoed(CLOSE, **HELLO)],
)
for how in ("fin", "rst"):
    lives = [outcome(end=ALIVE)]
    case(f"gone-{how}-idle", "robustness", "MUST", [leave(reset=how == "rst")], lives)
    case(f"gone-{how}-head", "robustness", "MUST", [b"GET /x HTTP/1.1\r\nHo", leave(reset=how == "rst")], lives)
    case(
        f"gone-{how}-body",
        "robustness",
        "MUST",
        [post("Content-Length: 50", body="hello"), 0.05, leave(reset=how == "rst")],
        lives,
    )
    case(
        f"gone-{how}-response",
        "robustness",
        "MUST",
        [request("GET /big/5000000 HTTP/1.1"), 0.05, leave(reset=how == "rst")],
        lives,
    )
case(
    "linger",
    "RFC9112 9.6",
    "SHOULD",
    [post("Content-Length: +5", body=b"q" * 300000)],
    [BAD_REQUEST],
    note="the 400 must reach a client that is still sending (lingering close)",
    seconds=4,
)
