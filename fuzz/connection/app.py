"""The applications under the fuzzers. Each request chooses one by its path, and each response reports what it saw.

`/_seen` returns the reports of all requests since its last request, and deletes them.
"""

import hashlib
import json
import os
import re
import tempfile

SEEN = []
NAMES = ("all", "none", "some", "lines", "echo", "early", "file", "write", "raise", "late", "nocontent", "short", "over")
# The applications whose responses exceed the memory for a slow client.
LARGE = ("big", "blocks")
CHOICE = re.compile(rf"/({'|'.join(NAMES + LARGE)})(?=[/?]|$)")
FILLING = bytes(range(256)) * 600


def chosen(target):
    """Returns the name of the application that a request target chooses."""
    match = CHOICE.search(target)
    return match[1] if match else "all"


def report(environ):
    """Returns what the application saw of a request, without the body."""
    fields = {k: v for k, v in environ.items() if k.startswith(("HTTP_", "CONTENT_"))}
    names = ("REQUEST_METHOD", "RAW_URI", "PATH_INFO", "QUERY_STRING", "SERVER_PROTOCOL")
    seen = {name: environ.get(name) for name in names}
    seen["remote"] = f"{environ.get('REMOTE_ADDR')} {environ.get('REMOTE_PORT')}"
    return json.dumps(seen | {"fields": fields}, sort_keys=True).encode() + b"\n"


def digest(body):
    return f"{len(body)} {hashlib.sha256(body).hexdigest()}\n".encode()


def application(environ, start_response):
    if environ["RAW_URI"] == "/_seen":
        body = json.dumps([seen.decode() for seen in SEEN]).encode()
        SEEN.clear()
        start_response("200 OK", [])
        return [body]
    if environ["RAW_URI"] == "/_polite":
        start_response("200 OK", [])
        return [b"polite\n"]
    said = report(environ)
    SEEN.append(said)
    return globals()[f"answer_{chosen(environ['RAW_URI'])}"](environ["wsgi.input"], start_response, said, environ)


def answer_all(body, start_response, said, environ):
    read = body.read()
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [said + digest(read)]


def answer_none(body, start_response, said, environ):
    start_response("200 OK", [])
    return [said]


def answer_some(body, start_response, said, environ):
    read = body.read(5)
    start_response("200 OK", [])
    return [said + read]


def answer_lines(body, start_response, said, environ):
    read = said + b"".join(body)
    start_response("200 OK", [("Content-Length", str(len(read)))])
    return (read[at:at + 1000] for at in range(0, len(read), 1000))


def answer_echo(body, start_response, said, environ):
    start_response("200 OK", [])
    yield said
    while piece := body.read(100):
        yield piece


def answer_early(body, start_response, said, environ):
    start_response("200 OK", [])
    yield said
    yield digest(body.read())


def answer_file(body, start_response, said, environ):
    file = tempfile.TemporaryFile(dir=os.environ.get("FUZZ_DIR"))
    file.write(said + body.read())
    file.seek(0)
    start_response("200 OK", [])
    return environ["wsgi.file_wrapper"](file, 1000)


def answer_write(body, start_response, said, environ):
    write = start_response("200 OK", [])
    write(said)
    return [body.read()]


def answer_raise(body, start_response, said, environ):
    body.read(3)
    raise RuntimeError("asked for")


def answer_late(body, start_response, said, environ):
    start_response("200 OK", [])
    yield said
    body.read(3)
    raise RuntimeError("asked for")


def answer_nocontent(body, start_response, said, environ):
    start_response("204 No Content", [])
    return []


def answer_short(body, start_response, said, environ):
    """Sends a Content-Length larger than its body."""
    start_response("200 OK", [("Content-Length", str(len(said) + 5))])
    return [said]


def answer_over(body, start_response, said, environ):
    """Sends a Content-Length smaller than its body."""
    start_response("200 OK", [("Content-Length", "10")])
    return [said]


def answer_big(body, start_response, said, environ):
    start_response("200 OK", [])
    return [said + body.read() + FILLING]


def answer_blocks(body, start_response, said, environ):
    start_response("200 OK", [])
    yield said + body.read()
    for at in range(0, len(FILLING), 5000):
        yield FILLING[at:at + 5000]
