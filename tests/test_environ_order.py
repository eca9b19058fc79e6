"""The environ of a request says what this request and its connection say, whatever came before on the same thread.

A thread keeps parts of an environ for the next one: addresses, the target, values of fields. Every test has one thread
for calls, sends every kind of request after every other, and an application that spoils each environ it has got.
"""

import contextlib
import itertools
import json
from dataclasses import dataclass, field

import pytest

from certs import Authority
from client import Client
from http2 import Http2Client
from test_proxy_protocol import v1
from tls import TlsClient

# The longest target that a thread keeps has 512 bytes.
LONGEST, LONGER = "/" + "l" * 511, "/" + "m" * 512


@dataclass
class Kind:
    """A request, and the entries of its environ that a request for `/` of the same connection has not."""

    target: str = "/"
    expected: dict = field(default_factory=dict)
    fields: tuple = ()
    method: str = "GET"
    version: str = "HTTP/1.1"
    host: str = "test.example"
    body: bytes = b""
    sent: bytes = b""

    def told(self):
        """Returns what every kind says in the same way."""
        path, _, query = self.target.partition("?")
        return {
            "REQUEST_METHOD": self.method, "SERVER_PROTOCOL": self.version, "PATH_INFO": path, "QUERY_STRING": query,
            "RAW_URI": self.target, "REQUEST_URI": self.target, "HTTP_HOST": self.host,
        }


def posted(body, *fields):
    return {"method": "POST", "body": body, "fields": (f"Content-Length: {len(body)}", *fields)}


#: The beginning of a connection of a proxy that speaks for itself.
ITSELF = b"PROXY UNKNOWN\r\n"
#: What a trusted proxy says; other clients may not say it.
PROXIED = {
    "REMOTE_ADDR": "192.0.2.9", "REMOTE_PORT": "5", "wsgi.url_scheme": "https", "HTTPS": "on", "HTTP_HOST": "shop.example",
    "SERVER_NAME": "shop.example", "SERVER_PORT": "443", "SCRIPT_NAME": "/below",
}
OF_PROXY = {
    "X-Forwarded-For": "192.0.2.9:5", "X-Forwarded-Proto": "https", "X-Forwarded-Host": "shop.example",
    "X-Forwarded-Prefix": "/below",
}

KINDS = [
    Kind(),
    Kind("/a"),
    Kind("/b"),
    Kind("//a"),
    Kind("/a/"),
    Kind(LONGEST),
    Kind(LONGER),
    Kind("/a?secret=1"),
    Kind("/a?"),
    Kind("/?a"),
    Kind("/%61", {"PATH_INFO": "/a"}),
    Kind("/a%3Fb", {"PATH_INFO": "/a?b"}),
    Kind("/a", method="HEADING"),
    Kind("/a", method="OPTIONS"),
    Kind("*", {"PATH_INFO": "/"}, method="OPTIONS"),
    Kind("http://other.example:1/a", {"PATH_INFO": "/a", "HTTP_HOST": "other.example:1"}),
    Kind("http://other.example:1", {"PATH_INFO": "/", "HTTP_HOST": "other.example:1"}),
    Kind("/a", version="HTTP/1.0", fields=("Connection: keep-alive",), expected={"HTTP_CONNECTION": "keep-alive"}),
    Kind("/a", host="other.example"),
    Kind("/a", {"HTTP_X_A": "1", "HTTP_ACCEPT": "a/b", "HTTP_COOKIE": "s=1"}, ("X-A: 1", "Accept: a/b", "Cookie: s=1")),
    Kind("/a", {"HTTP_X_A": "2, 3", "HTTP_ACCEPT": "c/d, a/b"}, ("X-A: 2", "Accept: c/d", "X-A: 3", "Accept: a/b")),
    Kind("/a", {"CONTENT_LENGTH": "4", "CONTENT_TYPE": "t/u"}, **posted(b"body", "Content-Type: t/u")),
    Kind("/a", {"CONTENT_LENGTH": "0"}, **posted(b"")),
    Kind("/a", {"CONTENT_LENGTH": "3"}, ("Transfer-Encoding: chunked",), "POST", body=b"abc", sent=b"3\r\nabc\r\n0\r\n\r\n"),
    Kind("/a", {"HTTP_X_REQUEST_ID": "own", "maypole.request_id": "own"}, ("X-Request-ID: own",)),
    Kind("/a", {**PROXIED, **{f"HTTP_{key.upper().replace('-', '_')}": value for key, value in OF_PROXY.items()}},
         tuple(f"{key}: {value}" for key, value in OF_PROXY.items())),
]


class Connection:
    """A connection that stays open, with what all its requests say."""

    version, kinds = "HTTP/1.1", KINDS

    def __init__(self, client, listener, remote=None, trusted=True):
        self.client, self.trusted = client, trusted
        host, port = ("localhost", "80") if "unix:" in listener else listener.rpartition("//")[2].split(":")
        address, remote_port = remote or self.socket().getsockname()
        self.environ = {
            "SERVER_NAME": host, "SERVER_PORT": port, "REMOTE_ADDR": address, "REMOTE_PORT": str(remote_port),
            "SCRIPT_NAME": "", "wsgi.url_scheme": "http",
        }
        if listener.startswith("https:"):
            self.environ |= {"wsgi.url_scheme": "https", "HTTPS": "on"}
        self.ids = set()
        # What does not change during a connection, and what its handshake has agreed on.
        first = json.loads(self.ask(Kind()).body)
        self.environ |= {key: value for key, value in first["environ"].items() if key.startswith(("SERVER_SOFT", "SSL_"))}
        self.others = first["others"]

    def socket(self):
        return self.client.socket

    def ask(self, kind):
        line = f"{kind.method} {kind.target} {kind.version}"
        return self.client.request(line, *kind.fields, host=kind.host, body=kind.sent or kind.body).response(kind.method)

    def check(self, kind):
        """Sends a request, and checks every entry of its environ."""
        response = self.ask(kind)
        assert response.status == 200, (kind, response)
        said = json.loads(response.body)
        seen, expected = said["environ"], self.expected(kind)
        if "maypole.request_id" not in expected:
            made = seen["maypole.request_id"]
            assert made not in self.ids | {"own"}
            self.ids.add(made)
            expected |= dict.fromkeys(("maypole.request_id", "HTTP_X_REQUEST_ID"), made)
        assert seen == expected
        assert (said["others"], said["body"]) == (self.others, kind.body.decode())

    def expected(self, kind):
        told = kind.told()
        if kind.version == "HTTP/1.1":
            told["SERVER_PROTOCOL"] = self.version
        if self.trusted:
            return self.environ | told | kind.expected
        # The fields of proxies and the ids of strangers are left out.
        of_proxies = [key for key in kind.expected if "FORWARDED" in key or key in PROXIED]
        if "HTTP_X_FORWARDED_FOR" in of_proxies or "maypole.request_id" in kind.expected:
            return self.environ | told
        return self.environ | told | kind.expected


class Http2Connection(Connection):
    """The same over HTTP/2."""

    version = "HTTP/2.0"
    kinds = [kind for kind in KINDS if kind.version == "HTTP/1.1" and kind.target[0] == "/" and not kind.sent]

    def socket(self):
        return self.client.client.socket

    def ask(self, kind):
        fields = [(name.lower(), value) for name, value in (line.split(": ", 1) for line in kind.fields)]
        return self.client.get(kind.target, *fields, method=kind.method, body=kind.body or None, authority=kind.host)


@pytest.fixture(scope="module")
def issued(tmp_path_factory):
    authority = Authority(tmp_path_factory.mktemp("authority"))
    authority.issue("a", "localhost")
    authority.issue("client", "one.example", subject="/CN=Client 7")
    return authority


@pytest.fixture
def connected(server, issued, tmp_path):
    """Starts a server, and opens a connection of every kind to it."""
    opened = []

    def connect(*options):
        running = server(
            "spoiling:main", "--threads", "1", "--request-id-header", "X-Request-ID", "--proxy-protocol", "auto",
            "--proxy-allow-from", "127.0.0.1,127.0.0.2", "--bind", "http://127.0.0.1:0", "--bind", "http://127.0.0.1:0",
            "--bind", f"http://unix:{tmp_path}/socket", *issued.options("a"),
            "--ca-certs", issued.path("ca.pem"), "--cert-reqs", "1", *options)
        secured, plain, other, unix = running.addresses
        opened.extend([
            Connection(Client(plain).send(ITSELF), plain),
            Connection(Client(other).send(ITSELF), other),
            Connection(Client(plain).send(ITSELF), plain),
            Connection(Client(plain, source="127.0.0.2").send(ITSELF), plain, trusted=False),
            Connection(Client(plain).send(v1("192.0.2.7")), plain, ("192.0.2.7", 4711), trusted=False),
            Connection(Client(plain).send(v1("2001:db8::7", "::1", (1, 2))), plain, ("2001:db8::7", 1), trusted=False),
            Connection(Client(f"unix:{tmp_path}/socket").send(ITSELF), unix, ("", "")),
            Connection(TlsClient(secured, issued.context(), ITSELF), secured),
            Connection(TlsClient(secured, issued.context("client"), ITSELF), secured),
            Http2Connection(Http2Client(plain, first=ITSELF), plain),
            Http2Connection(Http2Client(other, first=v1("192.0.2.7")), other, ("192.0.2.7", 4711), trusted=False),
        ])
        return opened

    yield connect
    for connection in opened:
        connection.socket().close()


def test_every_kind_after_every_other_on_one_connection(connected):
    first = connected()[0]
    for before, after in itertools.product(KINDS, repeat=2):
        first.check(before)
        first.check(after)


@pytest.mark.parametrize("options", [(), ("--workers", "2", "--preload")], ids=["one process", "preloaded workers"])
def test_every_connection_after_every_other(connected, options):
    opened = connected(*options)
    tls = [{key for key in one.environ if key.startswith("SSL_CLIENT_S")} for one in opened]
    assert [index for index, names in enumerate(tls) if names] == [8]
    assert opened[8].environ["SSL_CLIENT_S_DN"] == "CN=Client 7"
    kinds = [itertools.cycle(connection.kinds) for connection in opened]
    # Odd and even numbers of connections between two visits shift the kinds against each other.
    for _ in range(3):
        for before, after in itertools.product(range(len(opened)), repeat=2):
            for index in (before, after):
                opened[index].check(next(kinds[index]))


def test_every_application_after_every_other(server):
    running = server(
        "spoiling:main", "--threads", "1", "--prefix", "/p", "--mount", "/admin=spoiling:admin",
        "--virtual-host", "shop.example=spoiling:shop")
    below, prefixed = "test.example", ("X-Forwarded-Prefix: /front",)
    cases = [
        ("/p/a", below, (), ["main", "/p", "/a"]),
        ("/p", below, (), ["main", "/p", ""]),
        ("/p/a", below, prefixed, ["main", "/front/p", "/a"]),
        ("/p/a?b", below, (), ["main", "/p", "/a"]),
        ("/p/%61", below, (), ["main", "/p", "/a"]),
        ("/p/admin/a", below, (), ["admin", "/p/admin", "/a"]),
        ("/p/admin/a", below, prefixed, ["admin", "/front/p/admin", "/a"]),
        ("/p/admin", below, (), ["admin", "/p/admin", ""]),
        ("/p/a", "shop.example", (), ["shop", "/p", "/a"]),
        ("/p/admin/a", "shop.example", (), ["shop", "/p", "/admin/a"]),
    ]
    with running.client() as client:
        for case in itertools.chain.from_iterable(itertools.product(cases, repeat=2)):
            target, host, fields, expected = case
            said = json.loads(client.request(f"GET {target} HTTP/1.1", *fields, host=host).response().body)
            seen = said["environ"]
            assert [said["name"], seen["SCRIPT_NAME"], seen["PATH_INFO"]] == expected, case
            query = target.partition("?")[2]
            assert (seen["RAW_URI"], seen["REQUEST_URI"], seen["QUERY_STRING"]) == (target, target, query), case
            assert (seen["HTTP_HOST"], "HTTP_X_FORWARDED_PREFIX" in seen) == (host, bool(fields)), case
            assert "HTTP_SPOILT" not in seen


def test_more_clients_than_a_thread_keeps_the_addresses_of(server):
    running = server("spoiling:main", "--threads", "1", "--proxy-protocol", "v1")
    # A thread keeps 512 addresses, so some of these take the places of others.
    remotes = [(f"192.0.2.{number % 3}" if number % 4 else "2001:db8::1", 1 + number // 3) for number in range(600)]
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(running.client()) for _ in remotes]
        for client, (address, port) in zip(clients, remotes, strict=True):
            client.send(v1(address, "::1" if ":" in address else "198.51.100.1", (port, 80)))
        pairs = list(zip(clients, remotes, strict=True))
        # Some of them have the place of one of the first four.
        after_each_other = itertools.chain.from_iterable(itertools.product(pairs[:4], pairs))
        for client, (address, port) in after_each_other:
            seen = json.loads(client.get("/").body)["environ"]
            assert (seen["REMOTE_ADDR"], seen["REMOTE_PORT"]) == (address, str(port))
