"""The environ, `wsgi.errors`, `wsgi.input`, and `wsgiref.validate` around an application."""

import json

from pep3333.client import check, good, need

BODY = b"one\ntwo\n\nthree four"
TEXT = BODY.decode()


def environ(client, path="/env", **request):
    """Returns the environ that the application got: each value with its type."""
    reply = client.call("env", path=path, **request)
    need(reply.status == 200, f"status {reply.status}")
    return json.loads(reply.body)


@check("MUST")
def env_required(client):
    """The keys of CGI and wsgi.* are there, and are exactly str."""
    found = environ(client)
    for name in (
        "REQUEST_METHOD",
        "SCRIPT_NAME",
        "PATH_INFO",
        "SERVER_NAME",
        "SERVER_PORT",
        "SERVER_PROTOCOL",
        "wsgi.url_scheme",
    ):
        need(name in found, f"{name} is missing")
        need(found[name][0] == "str", f"{name} is {found[name][0]}")
    need(found["SERVER_PORT"][1] == str(client.server.address[1]), f"SERVER_PORT {found['SERVER_PORT'][1]!r}")
    need(found["SERVER_NAME"][1], "SERVER_NAME is empty")
    need(found["SERVER_PROTOCOL"][1] == "HTTP/1.1", found["SERVER_PROTOCOL"])


@check("MUST")
def env_wsgi_types(client):
    """wsgi.version is (1, 0), the scheme is http, and input and errors have their methods."""
    found = environ(client)
    need(found["wsgi.version"] == ["tuple", [1, 0]], found["wsgi.version"])
    need(found["wsgi.url_scheme"][1] == "http", found["wsgi.url_scheme"])
    need(len(found["-input"]) == 4, found["-input"])
    need(len(found["-errors"]) == 3, found["-errors"])
    need(found["-fw"], "wsgi.file_wrapper cannot be called")
    for name in ("wsgi.multithread", "wsgi.multiprocess", "wsgi.run_once"):
        need(name in found, f"{name} is missing")


@check("SHOULD")
def env_flags_bool(client):
    found = environ(client)
    for name in ("wsgi.multithread", "wsgi.multiprocess", "wsgi.run_once"):
        need(found[name][0] == "bool", f"{name} is {found[name][0]}")


@check("MUST")
def env_exact_dict(client):
    kind = environ(client)["-type"]
    need(kind == "dict", f"environ is a {kind}")


@check("MUST")
def env_latin1(client):
    """PATH_INFO is the decoded bytes as latin-1, and so is every str."""
    found = environ(client, path="/env/%E2%82%AC%FF?id=1")
    need(found["PATH_INFO"][1] == "/env/\xe2\x82\xac\xff", repr(found["PATH_INFO"][1]))
    need(found["-latin"], "a str beyond latin-1")


@check("MUST")
def env_query(client):
    need(environ(client, path="/env?a=%20b&c")["QUERY_STRING"][1] == "a=%20b&c", "QUERY_STRING is decoded")
    need(environ(client).get("QUERY_STRING", ["str", ""])[1] == "", "QUERY_STRING is not empty")


@check("MUST", "wsgiref.validate")
def env_content_headers(client):
    """CONTENT_TYPE and CONTENT_LENGTH are there, and HTTP_CONTENT_* is not."""
    found = environ(client, method="POST", fields=["Content-Type: a/b"], body=b"xyz")
    need(found["CONTENT_LENGTH"] == ["str", "3"], found.get("CONTENT_LENGTH"))
    need(found["CONTENT_TYPE"] == ["str", "a/b"], found.get("CONTENT_TYPE"))
    need("HTTP_CONTENT_LENGTH" not in found and "HTTP_CONTENT_TYPE" not in found, "HTTP_CONTENT_* is there")


@check("MUST")
def env_mutable_fresh(client):
    """The application may change its environ, and the next request gets a fresh one."""
    for _ in range(4):
        need(not environ(client)["-dirty"], "two requests share an environ")


@check("POLICY")
def env_remote(client):
    need(environ(client).get("REMOTE_ADDR", ["", ""])[1] == "127.0.0.1", "REMOTE_ADDR")


@check("MUST")
def errors_stream(client):
    """wsgi.errors takes text of any kind, and it reaches the log."""
    reply = good(client.call("errors"), b"ok")
    need(client.logged(f"MARK-{reply.ident}") and client.logged(f"MARK2-{reply.ident}"), "not in the log")


# What the application reads, as JSON. `wsgi_app.py` has the calls.


def read(client, name, body=BODY, **request):
    reply = client.call(name, method="POST", body=body, **request)
    need(reply.status == 200, f"status {reply.status}")
    return json.loads(reply.body)


def read_chunked(client, name):
    return read(client, name, in_chunks(BODY), length=False, fields=["Transfer-Encoding: chunked"])


def in_chunks(data, sizes=(3, 1, 7)):
    chunks, number = b"", 0
    while data:
        size = sizes[number % len(sizes)]
        part, data = data[:size], data[size:]
        chunks += b"%x\r\n%s\r\n" % (len(part), part)
        number += 1
    return chunks + b"0\r\n\r\n"


WANTED = {
    "in_read": [TEXT],
    "in_read_m1": [TEXT],
    "in_loop": [TEXT],
    "in_read_n": [TEXT[:3], "", TEXT[3:7], TEXT[7:], "", ""],
    "in_past": [TEXT, "", "", "", [], []],
    "in_readline": ["one\n", "two\n", "\n", "three four", ""],
    "in_readlines": ["one\n", "two\n", "\n", "three four"],
    "in_iter": ["one\n", "two\n", "\n", "three four"],
    "in_types": ["bytes", "bytes", "bytes"],
}


def check_input(name):
    @check("MUST", name=name)
    def read_with_length(client):
        got = read(client, name)
        need(got == WANTED[name], repr(got))


def check_chunked_input(name):
    @check("SHOULD", "wsgi.input_terminated", name=f"{name}_chunked")
    def read_without_length(client):
        got = read_chunked(client, name)
        need(got == WANTED[name], repr(got))


for _name in WANTED:
    check_input(_name)
for _name in ("in_read", "in_loop", "in_readline", "in_iter"):
    check_chunked_input(_name)


@check("MUST")
def in_empty_get(client):
    """Reading the input of a request without a body returns b'' at once."""
    reply = client.call("in_read", seconds=2)
    need(reply.status == 200 and json.loads(reply.body) == [""], f"status {reply.status}")


@check("POLICY", "wsgi.input_terminated")
def in_chunked_flag(client):
    """A chunked body: CONTENT_LENGTH is there, or wsgi.input_terminated is."""
    length, terminated = read_chunked(client, "in_terminated")
    need(length or terminated, (length, terminated))


@check("SHOULD")
def in_client_gone(client):
    """The client leaves in the middle of its body: a read ends soon, by an error or early."""
    fields = ["Content-Length: 100"]
    reply = client.call("in_gone", method="POST", fields=fields, body=b"x" * 10, length=False, leave=(False, 0.1))
    need(client.events(reply, seconds=4), "the application still waits, or was never called")


def check_validated(name, path="/valid/x", status=200, **request):
    @check("MUST", "wsgiref.validate", name=f"valid_{name}")
    def validated(client):
        reply = client.call("valid", path=path, **request)
        need(reply.status == status, f"status {reply.status}")


check_validated("get")
check_validated("post", method="POST", body=b"hello", fields=["Content-Type: text/plain"])
check_validated("head", method="HEAD")
check_validated("204", path="/valid/204", status=204)
check_validated("odd_method", method="PROPFIND")
