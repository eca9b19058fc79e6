"""One application per clause of PEP 3333, chosen by the path. /events returns the recorded events."""

import io
import json
import os
import sys
import tempfile
import threading
from urllib.parse import parse_qs

EVENTS = []
CHANGED = threading.Condition()


def event(text):
    with CHANGED:
        EVENTS.append(text)
        CHANGED.notify_all()


class Body:
    """An iterable that records its close."""

    def __init__(self, name, blocks, fail_at=None):
        self.name, self.blocks, self.fail_at = name, blocks, fail_at

    def __iter__(self):
        for number, block in enumerate(self.blocks):
            if number == self.fail_at:
                raise ValueError("made to fail in the body")
            yield block

    def close(self):
        event("close " + self.name)


PLAIN = [("Content-Type", "text/plain")]
FILE = tempfile.TemporaryFile()
FILE.write(bytes(range(256)) * 4096)
FILE.flush()


def events(environ, start_response, query):
    """Responds with the count of the event `e` when it has happened."""
    wanted = query["e"]
    with CHANGED:
        CHANGED.wait_for(lambda: wanted in EVENTS, float(query.get("t", 10)))
        count = EVENTS.count(wanted)
    start_response("200 OK", PLAIN)
    return [str(count).encode()]


def write(environ, start_response, query):
    put = start_response("200 OK", PLAIN)
    put(b"one,")
    put(b"two,")
    return [b"three"]


def write_only(environ, start_response, query):
    start_response("200 OK", [*PLAIN, ("Content-Length", "7")])(b"written")
    return []


def late(environ, start_response, query):
    def body():
        start_response("201 Created", PLAIN)
        yield b""
        yield b"late"

    return body()


def empty_first(environ, start_response, query):
    start_response("200 OK", PLAIN)
    return iter([b"", b"", b"body"])


def nothing(environ, start_response, query):
    start_response("200 OK", PLAIN)
    return []


def no_start(environ, start_response, query):
    return [b"x"]


def string(environ, start_response, query):
    start_response("200 OK", PLAIN)
    return ["not bytes"]


def none(environ, start_response, query):
    start_response("200 OK", PLAIN)
    return None


def twice(environ, start_response, query):
    start_response("200 OK", PLAIN)
    start_response("200 OK", PLAIN)
    return [b"x"]


def exc_info_before(environ, start_response, query):
    start_response("200 OK", [*PLAIN, ("X-First", "1")])
    try:
        raise KeyError("early")
    except KeyError:
        start_response("503 Oh", [*PLAIN, ("X-Second", "2")], sys.exc_info())
    return [b"replaced"]


def exc_info_after(environ, start_response, query):
    start_response("200 OK", PLAIN)

    def body():
        yield b"sent"
        try:
            raise KeyError("too late")
        except KeyError:
            start_response("500 Oh", PLAIN, sys.exc_info())
        yield b"never"

    return body()


def raises(environ, start_response, query):
    raise ValueError("made to fail in the call")


def raises_first(environ, start_response, query):
    start_response("200 OK", PLAIN)
    return Body("raises_first", [b"x"], 0)


def raises_later(environ, start_response, query):
    start_response("200 OK", PLAIN)
    return Body("raises_later", [b"x" * 1000] * 3, 2)


def raises_in_body(environ, start_response, query):
    start_response("200 OK", PLAIN)
    return Body("raises_in_body", [b"x" * 1000] * 3, 2)


def raises_later_length(environ, start_response, query):
    start_response("200 OK", [*PLAIN, ("Content-Length", "3000")])
    return Body("raises_later_length", [b"x" * 1000] * 3, 2)


def exits(environ, start_response, query):
    sys.exit(3)


def interrupts(environ, start_response, query):
    raise KeyboardInterrupt


def exits_in_body(environ, start_response, query):
    start_response("200 OK", PLAIN)

    def body():
        yield b""
        raise SystemExit(4)

    return body()


def closes(environ, start_response, query):
    start_response("200 OK", PLAIN)
    return Body("closes" + query.get("n", ""), [b"a", b"b"])


def closes_empty(environ, start_response, query):
    start_response("200 OK", PLAIN)
    return Body("closes_empty", [])


def close_raises(environ, start_response, query):
    class Bad(Body):
        def close(self):
            super().close()
            raise ValueError("made to fail in close")

    start_response("200 OK", PLAIN)
    return Bad("close_raises", [b"whole"])


def long(environ, start_response, query):
    """Sends Content-Length 5 and gives 10 bytes."""
    start_response("200 OK", [*PLAIN, ("Content-Length", "5")])
    return Body("long", [b"01234", b"56789"])


def short(environ, start_response, query):
    """Sends Content-Length 10 and gives 5 bytes."""
    start_response("200 OK", [*PLAIN, ("Content-Length", "10")])
    return [b"01234"]


def large(environ, start_response, query):
    start_response("200 OK", PLAIN)
    return [b"x" * 100_000]


def single(environ, start_response, query):
    start_response("200 OK", PLAIN)
    return [b"known"]


def tuple_of_two(environ, start_response, query):
    start_response("200 OK", PLAIN)
    return (b"one", b"two")


def generator(environ, start_response, query):
    start_response("200 OK", PLAIN)
    yield b"gen"
    yield b"erated"


def bytes_itself(environ, start_response, query):
    """Makes a common mistake: iterating over bytes yields integers."""
    start_response("200 OK", PLAIN)
    return b"bytes"


def read(environ, start_response, query):
    """Runs the calls named in `c` on wsgi.input: e.g. `read:3,readline,readline:2,readlines,iter,read`."""
    stream, said = environ["wsgi.input"], []
    for call in query["c"].split(","):
        name, _, size = call.partition(":")
        if name == "iter":
            said.append([line.decode("latin-1") for line in stream])
        else:
            value = getattr(stream, name)(*([int(size)] if size else []))
            said.append([v.decode("latin-1") for v in value] if isinstance(value, list) else value.decode("latin-1"))
    start_response("200 OK", PLAIN)
    return [json.dumps(said).encode()]


def error_stream(environ, start_response, query):
    errors = environ["wsgi.errors"]
    errors.write("written to errors: \xe9\u20ac\n")
    errors.writelines(["line one\n", "line two\n"])
    errors.flush()
    print("printed to errors", file=errors)
    start_response("200 OK", PLAIN)
    return [b"ok"]


def file(environ, start_response, query):
    """Sends a real file from offset `o`, with a Content-Length of `l` if given."""
    handle = os.fdopen(os.dup(FILE.fileno()), "rb")
    handle = open(f"/proc/self/fd/{handle.fileno()}", "rb")
    handle.seek(int(query.get("o", 0)))
    fields = [("Content-Type", "application/octet-stream")]
    if "l" in query:
        fields.append(("Content-Length", query["l"]))
    start_response("200 OK", fields)
    return environ["wsgi.file_wrapper"](handle, 8192)


class Watched(io.BytesIO):
    def close(self):
        event("close file_like")
        super().close()


def file_like(environ, start_response, query):
    start_response("200 OK", PLAIN)
    return environ["wsgi.file_wrapper"](Watched(b"abc" * 5000), 100)


def file_iterated(environ, start_response, query):
    """The wrapper is also an ordinary iterable, and a middleware may iterate over it."""
    start_response("200 OK", PLAIN)
    return [b"".join(environ["wsgi.file_wrapper"](io.BytesIO(b"abc" * 5000), 100))]


def hints(environ, start_response, query):
    environ["wsgi.early_hints"]([("Link", "</style.css>; rel=preload; as=style")])
    environ["wsgi.early_hints"]([("Link", "</script.js>; rel=preload; as=script")])
    start_response("200 OK", PLAIN)
    return [b"hinted"]


def phases(environ, start_response, query):
    """Reads a body in two parts. The application asks for each with a 100."""
    go_on, read = environ["maypole.send_continue"], environ["wsgi.input"].read
    said = [go_on([("X-Phase", "1")]), read(3), go_on([("X-Phase", "2")]), read()]
    start_response("200 OK", PLAIN)
    return [repr(said).encode()]


def gone(environ, start_response, query):
    """Waits until the client has left, at most 10 s."""
    is_gone = environ["maypole.client_disconnected"]
    event("gone asked " + str(is_gone()))
    pause = threading.Event()
    for _ in range(1000):
        if is_gone():
            event("gone seen")
            break
        pause.wait(0.01)
    start_response("200 OK", PLAIN)
    return Body("gone", [b"x"])


def latin1(environ, start_response, query):
    start_response("200 \xdcber", [("Content-Type", "text/plain"), ("X-Latin", "caf\xe9")])
    return [environ["HTTP_X_IN"].encode("latin-1")]


def bad_status(environ, start_response, query):
    start_response(query["s"], PLAIN)
    return [b"x"]


def hop(environ, start_response, query):
    start_response("200 OK", [*PLAIN, ("Transfer-Encoding", "chunked"), ("Connection", "keep-alive")])
    return [b"5\r\nhello\r\n0\r\n\r\n"]


def header_type(environ, start_response, query):
    start_response("200 OK", [("X", 5)])
    return [b"x"]


def own_date(environ, start_response, query):
    start_response("200 OK", [("Date", "Thu, 01 Jan 1970 00:00:00 GMT"), ("Server", "mine")])
    return [b"x"]


def cookies(environ, start_response, query):
    start_response("200 OK", [("Set-Cookie", "a=1"), ("Set-Cookie", "b=2")])
    return [b"x"]


def local(environ, start_response, query):
    """The threads are Python threads with names, and keep their locals."""
    names = [thread.name for thread in threading.enumerate()]
    start_response("200 OK", PLAIN)
    return [json.dumps({"me": threading.current_thread().name, "all": names}).encode()]


def environ_is_a_dict(environ, start_response, query):
    environ["mine"] = 1
    start_response("200 OK", PLAIN)
    return [repr(type(environ) is dict).encode()]


def application(environ, start_response):
    query = {k: v[0] for k, v in parse_qs(environ["QUERY_STRING"], encoding="latin-1").items()}
    return globals()[environ["PATH_INFO"][1:]](environ, start_response, query)
