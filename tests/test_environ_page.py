"""Compares docs/reference/environ.md with the environ of real requests."""

import json
import re
import socket

import pytest

from client import Client
from process import APPS, ROOT

PAGE = (ROOT / "docs" / "reference" / "environ.md").read_text()
CODE = re.compile(r"`([^`]*)`")
# Keys of the header fields in the page's example.
FIELDS = {"HTTP_X_REQUEST_ID", "HTTP_ACCEPT", "HTTP_COOKIE"}


def rows(section):
    """Returns the type and the example of each key in a table of the page. The example may be None."""
    table = PAGE.partition(f"<!-- keys: {section} -->\n")[2].partition("\n\n")[0]
    found = {}
    for line in table.splitlines()[2:]:
        keys, value, *rest = [cell.strip() for cell in line.strip("|").split("|")]
        assert len(rest) == 2 and all(rest), line
        kind, empty, example = re.fullmatch(r"([a-z ]+?)(?:(, empty)| `(.*)`)?", value).groups()
        for key in CODE.findall(keys):
            found[key] = kind, "" if empty else example
    assert found, section
    return found


EVERY, SOME, RAW = rows("every"), rows("some"), rows("raw")
NEVER = set(CODE.findall("".join(re.findall(r"^(\| `[^|]*\|)", PAGE.partition("## Keys that are never")[2].partition("\n## ")[0], re.M))))


def example_request():
    text = PAGE.partition("<!-- example request")[2].partition("```text\n")[2].partition("\n```")[0]
    head, _, body = text.partition("\n\n")
    return (head.replace("\n", "\r\n") + "\r\n\r\n" + body).encode()


def ask(client, data):
    client.send(data)
    return json.loads(client.response().body)


def check(seen, *, keys, raw=False):
    """Checks that the keys are those of the page and `keys`, and that each value has the type that the page names."""
    documented = {**EVERY, **SOME, **(RAW if raw else {})}
    expected = set(EVERY) | set(keys) | (set(RAW) if raw else set())
    assert set(seen) == expected
    assert not NEVER & set(seen)
    for key, (kind, _) in seen.items():
        assert kind == documented[key][0], key


@pytest.fixture(scope="module")
def kinds(module_server):
    return module_server("environ_kinds")


def test_post_has_the_keys_and_examples_of_the_page(kinds):
    with kinds.client() as client:
        port = client.socket.getsockname()[1]
        seen = ask(client, example_request())
    check(seen, keys={"CONTENT_TYPE", "CONTENT_LENGTH", "HTTP_HOST", *FIELDS})
    actual = {"8000": str(kinds.port), "54321": str(port), "203.0.113.7": "127.0.0.1"}
    compared = 0
    for key, (_, example) in {**EVERY, **SOME}.items():
        if example is not None and key in seen:
            pattern = re.escape(actual.get(example, example)).replace("…", ".*")
            assert re.fullmatch(pattern, seen[key][1]), key
            compared += 1
    assert compared >= 20


def test_get_has_no_key_of_a_body(kinds):
    with kinds.client() as client:
        check(ask(client, b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"), keys={"HTTP_HOST"})
        check(ask(client, b"GET / HTTP/1.0\r\n\r\n"), keys=set())


def test_never_keys_are_not_made_by_fields(kinds):
    fields = b"Proxy: a\r\nX_Under: a\r\nContent-Type: a/b\r\nHost: a\r\n"
    with kinds.client() as client:
        check(ask(client, b"GET / HTTP/1.1\r\n" + fields + b"\r\n"), keys={"HTTP_HOST", "CONTENT_TYPE"})


def test_unix_socket_has_the_same_keys_and_the_values_that_the_page_names(server, tmp_path):
    address = f"unix:{tmp_path}/s"
    running = server("environ_kinds", "--bind", address, bind=False)
    with Client(running.address) as client:
        seen = ask(client, b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
    check(seen, keys={"HTTP_HOST"})
    values = {key: seen[key][1] for key in ("SERVER_NAME", "SERVER_PORT", "REMOTE_ADDR", "REMOTE_PORT")}
    assert values == {"SERVER_NAME": "localhost", "SERVER_PORT": "80", "REMOTE_ADDR": "", "REMOTE_PORT": ""}


def test_proxy_protocol_has_the_same_keys_and_the_clients_address(server):
    running = server("environ_kinds", "--proxy-protocol", "v1")
    with running.client() as client:
        client.send(b"PROXY TCP4 203.0.113.7 192.0.2.1 54321 443\r\n")
        seen = ask(client, b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
    check(seen, keys={"HTTP_HOST"})
    for key in ("REMOTE_ADDR", "REMOTE_PORT"):
        assert seen[key][1] == EVERY[key][1]


def test_streamed_chunked_body_has_a_transfer_encoding_and_no_length(server):
    chunked = b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n"
    with server("environ_kinds", "--stream-requests", "always").client() as client:
        check(ask(client, chunked), keys={"HTTP_HOST", "HTTP_TRANSFER_ENCODING"})
    with server("environ_kinds").client() as client:
        check(ask(client, chunked), keys={"HTTP_HOST", "CONTENT_LENGTH"})


def test_worker_has_its_number(server):
    with server("environ_kinds", "-w", "1").client() as client:
        seen = ask(client, b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
    check(seen, keys={"HTTP_HOST", "maypole.worker"})
    assert seen["maypole.worker"][1] == "1"
    assert seen["wsgi.multiprocess"][1] == "True"


def test_werkzeug_socket_is_there_for_an_upgrade_alone(server):
    with server("environ_kinds", "--werkzeug-socket").client() as client:
        check(ask(client, b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"), keys={"HTTP_HOST"})
        upgrade = b"GET / HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n"
        seen = ask(client, upgrade)
    assert seen.pop("HTTP_CONNECTION") and seen.pop("HTTP_UPGRADE")
    check(seen, keys={"HTTP_HOST", "werkzeug.socket"})


def test_headers_raw_adds_its_keys(monkeypatch):
    maypole = pytest.importorskip("maypole")
    monkeypatch.syspath_prepend(str(APPS))
    import environ_kinds

    with maypole.Server(environ_kinds.application, "127.0.0.1:0", headers_raw=True) as running:
        with Client(running.addresses[0]) as client:
            seen = ask(client, example_request())
    check(seen, keys={"CONTENT_TYPE", "CONTENT_LENGTH", "HTTP_HOST", *FIELDS}, raw=True)
    assert seen["RAW_PATH_INFO"][1] == RAW["RAW_PATH_INFO"][1]
    assert seen["headers_raw"][1].startswith(RAW["headers_raw"][1].partition(", …")[0])


def test_constants_follow_the_settings_that_the_page_names(server):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        fd = listener.fileno()
        running = server("environ_kinds", "--threads", "1", "--bind", f"fd://{fd}", bind=False, pass_fds=(fd,))
        with running.client() as client:
            seen = ask(client, b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
    assert seen["wsgi.multithread"][1] == "False" and seen["wsgi.multiprocess"][1] == "True"
