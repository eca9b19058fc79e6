"""`Host`, and field lines."""

from http1.words import (
    BAD_REQUEST_OR_KEPT,
    CLIENT_ERROR,
    CLOSE,
    DROPPED,
    GET_X,
    REFUSED,
    case,
    echoed,
    request,
    with_environ,
)

# Host.

case("host-missing", "RFC9112 3.2", "MUST", request(host=None), [BAD_REQUEST_OR_KEPT])
case("host-missing-10", "RFC9112 3.2", "MUST", request("GET /x HTTP/1.0", host=None), [echoed(CLOSE, path="/x")])
case("host-twice-same", "RFC9112 3.2", "MUST", request("GET /x HTTP/1.1", "Host: h"), [BAD_REQUEST_OR_KEPT])
case("host-twice-diff", "RFC9112 3.2", "MUST", request("GET /x HTTP/1.1", "Host: other"), [BAD_REQUEST_OR_KEPT])
case("host-twice-10", "RFC9112 3.2", "MUST", request("GET /x HTTP/1.0", "Host: h"), [BAD_REQUEST_OR_KEPT])
case("host-empty", "RFC9112 3.2", "MUST", request(host=""), [echoed(**GET_X), BAD_REQUEST_OR_KEPT])
case("host-space-inside", "RFC9112 3.2", "MUST", request(host="a b"), [BAD_REQUEST_OR_KEPT])
case("host-slash", "RFC9112 3.2", "MUST", request(host="a/b"), [BAD_REQUEST_OR_KEPT])
case("host-userinfo", "RFC9112 3.2", "MUST", request(host="u@a"), [BAD_REQUEST_OR_KEPT])
case("host-bad-port", "RFC9112 3.2", "MUST", request(host="a:8x"), [BAD_REQUEST_OR_KEPT])
case("host-port-empty", "RFC9110 7.2", "MUST", request(host="a:"), [echoed(**GET_X)])
case("host-ipv6", "RFC9110 7.2", "MUST", request(host="[::1]:80"), [with_environ({"HTTP_HOST": "[::1]:80"})])
case(
    "host-case-name",
    "RFC9110 5.1",
    "MUST",
    request("GET /x HTTP/1.1", "hOsT: zz", host=None),
    [with_environ({"HTTP_HOST": "zz"})],
)

# Header fields.

case(
    "hdr-ows", "RFC9112 5.1", "MUST", request("GET /x HTTP/1.1", "X-A: \t v w \t "), [with_environ({"HTTP_X_A": "v w"})]
)
case("hdr-no-ows", "RFC9112 5.1", "MUST", request("GET /x HTTP/1.1", "X-A:v"), [with_environ({"HTTP_X_A": "v"})])
case("hdr-empty-value", "RFC9110 5.5", "MUST", request("GET /x HTTP/1.1", "X-A:"), [with_environ({"HTTP_X_A": ""})])
case(
    "hdr-colon-in-value",
    "RFC9110 5.5",
    "MUST",
    request("GET /x HTTP/1.1", "X-A: a:b"),
    [with_environ({"HTTP_X_A": "a:b"})],
)
case("hdr-tchar-name", "RFC9110 5.1", "MUST", request("GET /x HTTP/1.1", "X!#$%&'*+.^`|~9: v"), [echoed(**GET_X)])
case(
    "hdr-dup-combine",
    "RFC9110 5.3",
    "SHOULD",
    request("GET /x HTTP/1.1", "X-A: 1", "X-B: 0", "X-A: 2"),
    [with_environ({"HTTP_X_A": ("1, 2", "1,2")})],
)
case(
    "hdr-cookie-combine",
    "RFC6265 5.4",
    "POLICY",
    request("GET /x HTTP/1.1", "Cookie: a=1", "Cookie: b=2"),
    [with_environ({"HTTP_COOKIE": "a=1; b=2"}), BAD_REQUEST_OR_KEPT],
)
case(
    "hdr-obs-text",
    "RFC9110 5.5",
    "SHOULD",
    request("GET /x HTTP/1.1", "X-A: \xe9\xff"),
    [with_environ({"HTTP_X_A": "\xe9\xff"})],
    note="opaque, latin-1 in environ",
)
case("hdr-space-before-colon", "RFC9112 5.1", "MUST", request("GET /x HTTP/1.1", "X-A : v"), [BAD_REQUEST_OR_KEPT])
case("hdr-tab-before-colon", "RFC9112 5.1", "MUST", request("GET /x HTTP/1.1", "X-A\t: v"), [BAD_REQUEST_OR_KEPT])
case("hdr-no-colon", "RFC9112 2.2", "SHOULD", request("GET /x HTTP/1.1", "X-A"), [REFUSED])
case("hdr-empty-name", "RFC9112 2.2", "SHOULD", request("GET /x HTTP/1.1", ": v"), [REFUSED])
case("hdr-bad-name", "RFC9112 2.2", "SHOULD", request("GET /x HTTP/1.1", "X[]: v"), [REFUSED])
case("hdr-space-in-name", "RFC9112 2.2", "SHOULD", request("GET /x HTTP/1.1", "X A: v"), [REFUSED])
case(
    "hdr-nul-value",
    "RFC9110 5.5",
    "MUST",
    request("GET /x HTTP/1.1", "X-A: a\x00b"),
    [REFUSED, with_environ({"HTTP_X_A": "a b"})],
)
case(
    "hdr-cr-value",
    "RFC9112 2.2",
    "MUST",
    request("GET /x HTTP/1.1", "X-A: a\rb"),
    [REFUSED, with_environ({"HTTP_X_A": "a b"})],
)
case("hdr-ctl-value", "RFC9110 5.5", "POLICY", request("GET /x HTTP/1.1", "X-A: a\x07b"), [REFUSED])
case("hdr-del-value", "RFC9110 5.5", "POLICY", request("GET /x HTTP/1.1", "X-A: a\x7fb"), [REFUSED])
case(
    "hdr-obs-fold",
    "RFC9112 5.2",
    "MUST",
    request("GET /x HTTP/1.1", "X-A: a", "  b"),
    [
        BAD_REQUEST_OR_KEPT,
        with_environ(
            {
                "HTTP_X_A": lambda value: (
                    value and value.split() == ["a", "b"] and "\r" not in value and "\n" not in value
                )
            }
        ),
    ],
)
case("hdr-bare-lf", "RFC9112 2.2", "POLICY", b"GET /x HTTP/1.1\r\nHost: h\nX-A: 1\r\n\r\n", [REFUSED, DROPPED])
case(
    "hdr-underscore",
    "RFC3875 4.1.18",
    "POLICY",
    request("GET /x HTTP/1.1", "X_A: evil"),
    [REFUSED, with_environ({"HTTP_X_A": None})],
    note="X_A would overwrite X-A in environ",
)
case(
    "hdr-underscore-both",
    "RFC3875 4.1.18",
    "POLICY",
    request("GET /x HTTP/1.1", "X-A: good", "X_A: evil"),
    [REFUSED, with_environ({"HTTP_X_A": "good"})],
)
case(
    "hdr-proxy-httpoxy",
    "CVE-2016-5385",
    "POLICY",
    request("GET /x HTTP/1.1", "Proxy: http://evil"),
    [REFUSED, with_environ({"HTTP_PROXY": None}), with_environ({"HTTP_PROXY": "http://evil"})],
    note="recorded only",
)
case(
    "hdr-content-type-plain",
    "RFC3875 4.1.3",
    "MUST",
    request("GET /x HTTP/1.1", "Content-Type: a/b"),
    [with_environ({"CONTENT_TYPE": "a/b"})],
)
case(
    "hdr-many-100",
    "RFC9110 5.4",
    "MUST",
    request("GET /x HTTP/1.1", *["X-%d: v" % i for i in range(95)]),
    [echoed(**GET_X), CLIENT_ERROR],
)
