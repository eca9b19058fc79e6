"""The application that the checks call. The variable CONFORMANCE_DIR names a directory for its files.

/NAME?id=ID runs the function NAME of CALLS. What happens inside a call is written to CONFORMANCE_DIR/events, one JSON
object a line. /events?id=ID returns the events of a call.
"""

import io
import json
import os
import sys
import threading
import time
from wsgiref.validate import validator

DIR = os.environ["CONFORMANCE_DIR"]
EVENTS = os.path.join(DIR, "events")
CALLS = {}
CT = [("Content-Type", "text/plain")]


def note(environ, what, **more):
    line = json.dumps(dict(more, id=ident(environ), what=what))
    fd = os.open(EVENTS, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    os.write(fd, line.encode() + b"\n")
    os.close(fd)


def ident(environ):
    for part in (environ.get("QUERY_STRING") or "").split("&"):
        if part.startswith("id="):
            return part[3:]
    return ""


def call(function):
    CALLS[function.__name__] = function
    return function


class Body:
    """An iterable that records a call of its `close`."""

    def __init__(self, environ, blocks, fail_at=None, pause=0, close_fails=False, exc=RuntimeError):
        self.environ, self.blocks, self.fail_at, self.pause = environ, list(blocks), fail_at, pause
        self.close_fails, self.sent, self.exc = close_fails, 0, exc

    def __iter__(self):
        return self

    def __next__(self):
        if self.fail_at == self.sent:
            raise self.exc("MARK-" + ident(self.environ))
        if self.sent >= len(self.blocks):
            raise StopIteration
        self.sent += 1
        if self.pause and self.sent > 1:
            time.sleep(self.pause)
        return self.blocks[self.sent - 1]

    def close(self):
        note(self.environ, "close", n=self.sent)
        if self.close_fails:
            raise RuntimeError("MARK-" + ident(self.environ))


# The environ.


@call
def env(environ, start_response):
    data = {
        k: [type(v).__name__, v if isinstance(v, (str, int, bool, list, tuple)) else repr(v)]
        for k, v in environ.items()
    }
    data["-type"] = type(environ).__name__
    data["-latin"] = all(max(map(ord, v), default=0) < 256 for v in environ.values() if isinstance(v, str))
    data["-input"] = [m for m in ("read", "readline", "readlines", "__iter__") if hasattr(environ["wsgi.input"], m)]
    data["-errors"] = [m for m in ("write", "writelines", "flush") if hasattr(environ["wsgi.errors"], m)]
    data["-fw"] = callable(environ.get("wsgi.file_wrapper", len))
    data["-dirty"] = "x.dirty" in environ
    environ["x.dirty"] = 1
    del environ["REQUEST_METHOD"]
    start_response("200 OK", CT)
    return [json.dumps(data).encode()]


@call
def errors(environ, start_response):
    stream = environ["wsgi.errors"]
    stream.write(f"MARK-{ident(environ)}-\u20ac-\xe9\n")
    stream.writelines([f"MARK2-{ident(environ)}\n"])
    stream.flush()
    start_response("200 OK", CT)
    return [b"ok"]


# What the application returns.


def returns(name, make):
    def called(environ, start_response):
        start_response("200 OK", list(CT))
        return make(environ)

    CALLS[name] = called


class GetItem:
    def __getitem__(self, index):
        return (b"a", b"b", b"c")[index]


class IterOnly:
    def __iter__(self):
        return iter((b"a", b"b", b"c"))


class ListSubclass(list):
    def close(self):
        note(self.environ, "close")


def list_subclass(environ):
    blocks = ListSubclass([b"a", b"b", b"c"])
    blocks.environ = environ
    return blocks


returns("it_list", lambda environ: [b"a", b"b", b"c"])
returns("it_tuple", lambda environ: (b"a", b"b", b"c"))
returns("it_gen", lambda environ: (block for block in (b"a", b"b", b"c")))
returns("it_getitem", lambda environ: GetItem())
returns("it_iteronly", lambda environ: IterOnly())
returns("it_iterator", lambda environ: iter([b"a", b"b", b"c"]))
returns("it_body", lambda environ: Body(environ, [b"a", b"b", b"c"]))
returns("it_listsub", list_subclass)
returns("it_emptychunks", lambda environ: [b"", b"a", b"", b"", b"b", b"", b"c", b""])
returns("it_emptychunks_gen", lambda environ: (block for block in (b"", b"a", b"", b"b", b"c", b"")))
returns("it_empty", lambda environ: [])
returns("it_empty_gen", lambda environ: (block for block in ()))
returns("it_empty_body", lambda environ: Body(environ, []))
returns("it_big", lambda environ: [b"x" * 100000] * 20)
returns("bad_str", lambda environ: ["MARK-" + ident(environ)])
returns("bad_int", lambda environ: [1, 2])
returns("bad_none", lambda environ: None)
returns("bad_int_ret", lambda environ: 5)
returns("bad_later_str", lambda environ: Body(environ, [b"a", "str"]))
returns("stream", lambda environ: Body(environ, [b"first", b"second"], pause=1.2))


@call
def lazy_start(environ, start_response):
    start_response("200 OK", CT)
    yield b"abc"


@call
def lazy_never(environ, start_response):
    return
    yield b""


@call
def lazy_late(environ, start_response):
    note(environ, "body-before-start")
    yield b"abc"
    start_response("200 OK", CT)


@call
def no_start(environ, start_response):
    return [b"abc"]


@call
def headers_held(environ, start_response):
    """The head is not sent before the first block with a byte: it can still be replaced."""
    start_response("200 OK", CT + [("X-Old", "1")])
    yield b""
    try:
        raise KeyError("x")
    except KeyError:
        start_response("503 Replaced", CT + [("X-New", "1")], sys.exc_info())
    yield b"new"


# start_response and write.


@call
def write_callable(environ, start_response):
    write = start_response("200 OK", CT)
    write(b"a")
    write(b"b")
    return [b"c"]


@call
def write_only(environ, start_response):
    write = start_response("200 OK", CT + [("Content-Length", "2")])
    write(b"a")
    write(b"b")
    return []


@call
def write_stream(environ, start_response):
    write = start_response("200 OK", CT)
    write(b"first")
    time.sleep(1.2)
    write(b"second")
    return []


@call
def start_twice(environ, start_response):
    start_response("200 OK", CT)
    try:
        start_response("201 Second", CT)
    except BaseException as error:
        note(environ, "raised", type=type(error).__name__)
    return [b"abc"]


@call
def exc_before(environ, start_response):
    start_response("200 OK", CT + [("X-Old", "1")])
    try:
        raise ValueError("x")
    except ValueError:
        start_response("503 Replaced", CT + [("X-New", "1")], sys.exc_info())
    return [b"new"]


@call
def exc_after(environ, start_response):
    start_response("200 OK", CT)
    yield b"abc"
    try:
        raise ValueError("MARK-" + ident(environ))
    except ValueError as first:
        try:
            start_response("500 Late", CT, sys.exc_info())
        except ValueError as second:
            note(environ, "reraised", same=first is second)
            raise
    yield b"late"


@call
def headers_copied(environ, start_response):
    fields = [("Content-Type", "text/plain"), ("X-A", "1")]
    start_response("200 OK", fields)
    fields.append(("X-B", "2"))
    return [b"abc"]


def with_fields(name, status="200 OK", headers=(), body=b"abc", replace=False):
    def called(environ, start_response):
        try:
            start_response(status, (list(headers) if replace else CT + list(headers)))
        except BaseException as error:
            note(environ, "raised", type=type(error).__name__)
            raise
        return [body]

    CALLS[name] = called


with_fields("h_cookies", headers=[("Set-Cookie", "a=1"), ("Set-Cookie", "b=2"), ("set-cookie", "c=3")])
with_fields("h_latin", headers=[("X-A", "\xe9\xff")])
with_fields("h_date_server", headers=[("Date", "Mon, 01 Jan 2001 00:00:00 GMT"), ("Server", "mine/1")])
with_fields("h_crlf_value", headers=[("X-A", "a\r\nX-Injected: 1")])
with_fields("h_crlf_name", headers=[("X-A: 1\r\nX-Injected", "1")])
with_fields("h_crlf_status", status="200 OK\r\nX-Injected: 1")
with_fields("h_bytes_value", headers=[("X-A", b"a")])
with_fields("h_int_value", headers=[("X-A", 5)])
with_fields("h_bytes_status", status=b"200 OK")
with_fields("s_custom", status="299 My Own Reason")
with_fields("hop_te", headers=[("Transfer-Encoding", "chunked")])
with_fields("cl_short", headers=[("Content-Length", "2")])
with_fields("cl_long", headers=[("Content-Length", "9")])
with_fields("body_204", status="204 No Content", replace=True)


@call
def head_body(environ, start_response):
    start_response("200 OK", CT + [("Content-Length", "3")])
    return Body(environ, [b"abc"])


# Exceptions, and close.


@call
def raise_call(environ, start_response):
    raise RuntimeError("MARK-" + ident(environ))


@call
def raise_after_start(environ, start_response):
    start_response("200 OK", CT)
    raise RuntimeError("MARK-" + ident(environ))


@call
def raise_stopiteration(environ, start_response):
    raise StopIteration("MARK-" + ident(environ))


def body(name, headers=(), **more):
    def called(environ, start_response):
        start_response("200 OK", CT + list(headers))
        return Body(environ, **more)

    CALLS[name] = called


body("raise_first", blocks=[b"a"], fail_at=0)
body("raise_mid", blocks=[b"a", b"b"], fail_at=1)
body("raise_mid_cl", headers=[("Content-Length", "9")], blocks=[b"a", b"b"], fail_at=1)
body("close_raises", blocks=[b"abc"], close_fails=True)
body("endless", blocks=[b"z" * 65536] * 20000)
body("slow_body", blocks=[b"z" * 65536] * 100, pause=0.05)


class IterFails:
    def __init__(self, environ):
        self.environ = environ

    def __iter__(self):
        raise RuntimeError("MARK-" + ident(self.environ))

    def close(self):
        note(self.environ, "close")


returns("iter_fails", IterFails)


# The input.


def reads(name, read):
    def called(environ, start_response):
        try:
            data = read(environ["wsgi.input"])
        except Exception as error:
            note(environ, "input-raised", type=type(error).__name__, text=str(error))
            raise
        note(environ, "input", n=len(repr(data)))
        start_response("200 OK", CT)
        return [json.dumps(data, default=lambda v: v.decode("latin-1")).encode()]

    CALLS[name] = called


def in_parts(stream):
    body = b""
    while data := stream.read(7):
        body += data
    return body


reads("in_read", lambda stream: [stream.read()])
reads("in_read_m1", lambda stream: [stream.read(-1)])
reads(
    "in_read_n",
    lambda stream: [stream.read(3), stream.read(0), stream.read(4), stream.read(1000), stream.read(1), stream.read()],
)
reads("in_loop", lambda stream: [in_parts(stream)])
reads(
    "in_past",
    lambda stream: [stream.read(), stream.read(), stream.read(5), stream.readline(), stream.readlines(), list(stream)],
)
reads(
    "in_readline",
    lambda stream: [stream.readline(), stream.readline(), stream.readline(), stream.readline(), stream.readline()],
)
reads("in_readlines", lambda stream: stream.readlines())
reads("in_iter", list)
reads(
    "in_types",
    lambda stream: [type(stream.read(1)).__name__, type(stream.readline()).__name__, type(stream.read()).__name__],
)


@call
def in_terminated(environ, start_response):
    start_response("200 OK", CT)
    return [json.dumps([environ.get("CONTENT_LENGTH"), bool(environ.get("wsgi.input_terminated"))]).encode()]


@call
def in_gone(environ, start_response):
    try:
        data = environ["wsgi.input"].read(100)
        note(environ, "short", n=len(data))
    except BaseException as error:
        note(environ, "input-raised", type=type(error).__name__, os=isinstance(error, OSError))
        raise
    start_response("200 OK", CT)
    return [b"x"]


# wsgi.file_wrapper.


class RecordedFile(io.FileIO):
    def close(self):
        if not self.closed and getattr(self, "environ", None):
            note(self.environ, "close")
        super().close()


def file_path():
    path = os.path.join(DIR, "file.bin")
    if not os.path.exists(path):
        # The rename makes the file appear whole, also while calls run at the same time.
        unfinished = f"{path}.{threading.get_ident()}"
        with open(unfinished, "wb") as file:
            file.write(bytes(range(256)) * 1024)
        os.rename(unfinished, path)
    return path


def wrapped(name, make):
    def called(environ, start_response):
        start_response("200 OK", CT)
        return environ["wsgi.file_wrapper"](*make(environ))

    CALLS[name] = called


def recorded(environ, offset=0):
    file = RecordedFile(file_path(), "rb")
    file.environ = environ
    file.seek(offset)
    return file


wrapped("fw_file", lambda environ: (recorded(environ),))
wrapped("fw_offset", lambda environ: (recorded(environ, 1000), 4096))
wrapped("fw_bytesio", lambda environ: (io.BytesIO(b"hello file"), 4))


# wsgiref.validate.


def to_validate(environ, start_response):
    length = int(environ.get("CONTENT_LENGTH") or 0)
    data = environ["wsgi.input"].read(length) if length else b""
    if environ["PATH_INFO"].endswith("204"):
        start_response("204 No Content", [("X-A", "b")])
        return [b""]
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", str(len(data) + 5))])
    return [b"valid", data]


VALID = validator(to_validate)


def events(wanted):
    """Returns what the calls with this id have written. A line that is being written has no end yet."""
    if not os.path.exists(EVENTS):
        return []
    with open(EVENTS) as file:
        written = [json.loads(line) for line in file if line.endswith("\n")]
    return [event for event in written if event["id"] == wanted]


def app(environ, start_response):
    name = environ["PATH_INFO"].split("/")[1]
    if name == "events":
        data = json.dumps(events(ident(environ))).encode()
        start_response("200 OK", [("Content-Type", "application/json"), ("Content-Length", str(len(data)))])
        return [data]
    if name == "valid":
        return VALID(environ, start_response)
    if name not in CALLS:
        start_response("200 OK", CT)
        return [b"root"]
    return CALLS[name](environ, start_response)
