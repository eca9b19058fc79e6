"""Request lines."""

from http1.words import (
    ANY,
    BAD_REQUEST_OR_KEPT,
    DROPPED,
    GET_X,
    HANG,
    KEEP,
    NO_QUERY,
    REFUSED,
    REFUSED_OR_KEPT,
    case,
    echoed,
    outcome,
    request,
    response,
    with_environ,
)

case("rl-get", "RFC9112 3", "MUST", request(), [echoed(**GET_X, query=NO_QUERY, protocol="HTTP/1.1")])
case(
    "rl-query",
    "RFC9112 3.2.1",
    "MUST",
    request("GET /p?a=1&b=%20?x HTTP/1.1"),
    [echoed(path="/p", query="a=1&b=%20?x")],
)
case("rl-query-empty", "RFC9112 3.2.1", "MUST", request("GET /p? HTTP/1.1"), [echoed(path="/p", query=NO_QUERY)])
case(
    "rl-pct-decoded",
    "PEP3333",
    "MUST",
    request("GET /a%20b%C3%A9 HTTP/1.1"),
    [echoed(path="/a b\xc3\xa9")],
    note="PATH_INFO is the decoded path, latin-1",
)
case("rl-double-slash", "RFC3986 3.3", "POLICY", request("GET //a//b HTTP/1.1"), [echoed(path="//a//b")])
case(
    "rl-dots-kept",
    "RFC3986 6",
    "POLICY",
    request("GET /a/../b/./c HTTP/1.1"),
    [echoed(path="/a/../b/./c")],
    note="an origin server need not normalise; WSGI apps expect raw",
)
case("rl-semicolon-params", "RFC3986 3.3", "MUST", request("GET /a;b=1/c HTTP/1.1"), [echoed(path="/a;b=1/c")])
case("rl-method-custom", "RFC9110 9.1", "MUST", request("BREW /x HTTP/1.1"), [echoed(method="BREW"), REFUSED_OR_KEPT])
case(
    "rl-method-lowercase",
    "RFC9110 9.1",
    "MUST",
    request("get /x HTTP/1.1"),
    [echoed(method="get"), REFUSED_OR_KEPT],
    note="case-sensitive: must not become GET",
)
case(
    "rl-method-tchar",
    "RFC9110 9.1",
    "MUST",
    request("M-SEARCH /x HTTP/1.1"),
    [echoed(method="M-SEARCH"), REFUSED_OR_KEPT],
)
case("rl-method-bad-char", "RFC9112 2.2", "SHOULD", request("GE(T /x HTTP/1.1"), [REFUSED])
case(
    "rl-method-too-long",
    "RFC9112 3",
    "SHOULD",
    request("A" * 4000 + " /x HTTP/1.1"),
    [REFUSED, outcome(response(501), end=ANY)],
)
case("rl-no-method", "RFC9112 2.2", "SHOULD", request(" /x HTTP/1.1"), [REFUSED])
case("rl-no-target", "RFC9112 3", "SHOULD", request("GET HTTP/1.1"), [REFUSED])
case("rl-no-version", "RFC9112 2.2", "SHOULD", request("GET /x"), [REFUSED, DROPPED], note="HTTP/0.9 with headers")
case("rl-http09", "RFC9112 2.2", "SHOULD", b"GET /x\r\n\r\n", [REFUSED, DROPPED])
case("rl-two-spaces", "RFC9112 3", "SHOULD", request("GET  /x HTTP/1.1"), [REFUSED, echoed(**GET_X)])
case("rl-tab", "RFC9112 3", "SHOULD", request("GET\t/x\tHTTP/1.1"), [REFUSED, echoed(**GET_X)])
case("rl-trailing-space", "RFC9112 3", "SHOULD", request("GET /x HTTP/1.1 "), [REFUSED, echoed(**GET_X)])
case(
    "rl-space-in-target",
    "RFC9112 3",
    "SHOULD",
    request("GET /a b HTTP/1.1"),
    [REFUSED, outcome(response(301), end=ANY)],
)
case("rl-target-nul", "RFC9112 2.2", "SHOULD", request("GET /a\x00b HTTP/1.1"), [REFUSED])
case(
    "rl-target-cr",
    "RFC9112 2.2",
    "MUST",
    request("GET /a\rb HTTP/1.1"),
    [REFUSED],
    note="bare CR: invalid, or SP, which makes the line invalid",
)
case("rl-target-ctl", "RFC3986 2", "SHOULD", request("GET /a\x01b HTTP/1.1"), [REFUSED])
case(
    "rl-target-raw-8bit", "RFC3986 2", "POLICY", request("GET /\xc3\xa9 HTTP/1.1"), [REFUSED, echoed(path="/\xc3\xa9")]
)
case("rl-target-fragment", "RFC9112 3.2", "SHOULD", request("GET /a#frag HTTP/1.1"), [REFUSED])
case("rl-target-relative", "RFC9112 3.2", "SHOULD", request("GET a/b HTTP/1.1"), [REFUSED_OR_KEPT])
case("rl-version-lower", "RFC9112 2.3", "SHOULD", request("GET /x http/1.1"), [REFUSED])
case(
    "rl-version-12",
    "RFC9110 2.5",
    "SHOULD",
    request("GET /x HTTP/1.2"),
    [echoed(ANY, **GET_X)],
    note="process as the highest minor version implemented",
)
case("rl-version-20", "RFC9110 15.6.6", "SHOULD", request("GET /x HTTP/2.0"), [REFUSED])
case("rl-version-3", "RFC9110 15.6.6", "SHOULD", request("GET /x HTTP/3"), [REFUSED])
case("rl-version-two-digits", "RFC9112 2.3", "SHOULD", request("GET /x HTTP/1.10"), [REFUSED])
case("rl-version-plus", "RFC9112 2.3", "SHOULD", request("GET /x HTTP/+1.1"), [REFUSED])
case("rl-version-name", "RFC9112 2.3", "SHOULD", request("GET /x ICY/1.1"), [REFUSED])
case("rl-leading-crlf", "RFC9112 2.2", "SHOULD", b"\r\n" + request(), [echoed(**GET_X)])
case(
    "rl-space-before-first-header",
    "RFC9112 2.2",
    "MUST",
    b"GET /x HTTP/1.1\r\n X-A: 1\r\nHost: h\r\n\r\n",
    [REFUSED, with_environ({"HTTP_X_A": None})],
)
case("rl-absolute", "RFC9112 3.2.2", "MUST", request("GET http://h/p?q=1 HTTP/1.1"), [echoed(path="/p", query="q=1")])
case(
    "rl-absolute-host-wins",
    "RFC9112 3.2.2",
    "MUST",
    request("GET http://right.test/p HTTP/1.1", host="wrong"),
    [with_environ({"HTTP_HOST": "right.test"}, path="/p"), BAD_REQUEST_OR_KEPT],
    note="the received Host must be ignored",
)
case(
    "rl-absolute-no-path",
    "RFC9112 3.2.2",
    "MUST",
    request("GET http://h HTTP/1.1"),
    [echoed(path=("/", ""), query=NO_QUERY)],
)
case(
    "rl-absolute-no-path-query",
    "RFC9112 3.2.1",
    "SHOULD",
    request("GET http://h?a=1 HTTP/1.1"),
    [echoed(path=("/", ""), query="a=1"), BAD_REQUEST_OR_KEPT],
)
case(
    "rl-asterisk-options",
    "RFC9112 3.2.4",
    "SHOULD",
    request("OPTIONS * HTTP/1.1"),
    [outcome(response({200, 204, 404, 405}), end=KEEP)],
)
case("rl-asterisk-get", "RFC9112 3.2.4", "SHOULD", request("GET * HTTP/1.1"), [REFUSED_OR_KEPT])
case("rl-authority-get", "RFC9112 3.2.3", "SHOULD", request("GET h:80 HTTP/1.1"), [REFUSED_OR_KEPT])
case(
    "rl-connect",
    "RFC9110 9.3.6",
    "POLICY",
    request("CONNECT h:80 HTTP/1.1"),
    [REFUSED_OR_KEPT],
    note="not a proxy: refuse",
    seconds=1.5,
)
case(
    "rl-8000",
    "RFC9112 3",
    "SHOULD",
    request("GET /" + "a" * 7980 + " HTTP/1.1"),
    [echoed(path=lambda path: len(path) == 7981)],
)
case(
    "rl-bare-lf",
    "RFC9112 2.2",
    "POLICY",
    b"GET /x HTTP/1.1\nHost: h\n\n",
    [REFUSED, DROPPED],
    note="MAY accept; a strict server refuses",
)
case(
    "rl-h2-preface",
    "RFC9112 2.2",
    "SHOULD",
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    [REFUSED, DROPPED, outcome(response(-1), end=ANY | HANG)],
    note="refuse, or speak HTTP/2; never run the application",
)
case(
    "rl-tls-hello",
    "RFC9112 2.2",
    "SHOULD",
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\x00" * 40 + b"\r\n\r\n",
    [REFUSED, DROPPED],
)
