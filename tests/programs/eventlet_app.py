"""Serves one application with `eventlet.wsgi` or with `maypole.eventlet`, so that both get the same requests.

    python eventlet_app.py LIBRARY [JSON]

LIBRARY is `maypole` or `eventlet`. JSON has the keyword arguments of `server`, and besides `globals` (assigned to the
module before), `unix` (a path to listen on), `logger` (a logging.Logger, format `LEVEL MESSAGE`, instead of a file),
`pool` (the size of a custom pool), `protocol` (attributes of a subclass) and `end`. *Runs on*: `server` in the main
thread; SIGTERM raises SystemExit there, SIGUSR1 a RuntimeError, SIGUSR2 shuts the listening socket down. What happens
is printed, and `/events?e=NAME` waits for an event of the application's and gives everything that happened until
then.
"""

import hashlib
import importlib
import io
import json
import logging
import os
import signal
import socket
import sys
import threading
import time
from urllib.parse import parse_qs

LIBRARY = sys.argv[1]
ARGUMENTS = json.loads(sys.argv[2]) if len(sys.argv) > 2 else {}
wsgi = importlib.import_module({"maypole": "maypole.eventlet", "eventlet": "eventlet.wsgi"}[LIBRARY])
if LIBRARY == "eventlet":
    import eventlet
    import eventlet.patcher
    # The patch is only for eventlet, which can then wait and serve at the same time.
    eventlet.monkey_patch(time=True, socket=False, thread=False, select=False, os=False)

EVENTS = []


def happened(event):
    EVENTS.append(event)


def plain(start_response, *fields, status="200 OK"):
    return start_response(status, [("Content-Type", "text/plain"), *fields])


def as_json(start_response, value):
    body = json.dumps(value).encode()
    start_response("200 OK", [("Content-Type", "application/json"), ("Content-Length", str(len(body)))])
    return [body]


def query(environ, name, default=""):
    return parse_qs(environ.get("QUERY_STRING", "")).get(name, [default])[0]


# --- environ and input ------------------------------------------------------------------------------------------------


def hello(environ, start_response):
    plain(start_response)
    return [b"hello"]


def show_environ(environ, start_response):
    def shown(value):
        return value if isinstance(value, (str, int, list, tuple)) else type(value).__name__

    values = {key: shown(value) for key, value in environ.items()}
    values["same input"] = environ["wsgi.input"] is environ["eventlet.input"]
    values["is Input"] = isinstance(environ["wsgi.input"], wsgi.Input)
    values["stderr"] = environ["wsgi.errors"] is sys.stderr
    values["set_idle"] = callable(environ["eventlet.set_idle"])
    return as_json(start_response, values)


def upload(environ, start_response):
    digest, size = hashlib.sha256(), 0
    while piece := environ["wsgi.input"].read(65536):
        digest.update(piece)
        size += len(piece)
    return as_json(start_response, {"size": size, "sha256": digest.hexdigest()})


def ways(environ, start_response):
    """Reads a body of lines in each way."""
    body, seen = environ["wsgi.input"], {}
    seen["readline"] = body.readline().decode()
    seen["readline 3"] = body.readline(3).decode()
    seen["read 4"] = body.read(4).decode()
    seen["read 0"] = body.read(0).decode()
    seen["readlines"] = [line.decode() for line in body.readlines()]
    seen["read"] = body.read().decode()
    seen["chunk_length"] = body.chunk_length
    return as_json(start_response, seen)


def iterated(environ, start_response):
    return as_json(start_response, [piece.decode() for piece in environ["wsgi.input"]])


def attributes(environ, start_response):
    body = environ["wsgi.input"]
    names = ("position", "chunk_length", "content_length", "chunked_input", "hundred_continue_headers",
             "is_hundred_continue_response_sent", "should_send_hundred_continue", "headers_sent")
    seen = {name: getattr(body, name) for name in names}
    seen["wfile"] = body.wfile is not None
    seen["wfile_line"] = body.wfile_line.decode() if body.wfile_line else None
    seen["rfile"] = hasattr(body.rfile, "read")
    return as_json(start_response, seen)


def writable(environ, start_response):
    body = environ["wsgi.input"]
    body.content_length = 5
    seen = [body.read().decode()]
    body.content_length = 8
    seen.append(body.read().decode())
    body.chunked_input = False
    return as_json(start_response, seen)


def discards(environ, start_response):
    environ["wsgi.input"].discard()
    return as_json(start_response, environ["wsgi.input"].read().decode())


def failing(environ, start_response):
    """Reads, and reports the failure both as an event, because the client may be gone, and to the client."""
    name = environ.get("QUERY_STRING", "")
    name = name and name + " "
    happened(f"begun {name}".rstrip())
    try:
        environ["wsgi.input"].read()
        outcome = "complete"
    except wsgi.ChunkReadError as error:
        outcome = f"ChunkReadError ValueError={isinstance(error, ValueError)}"
    except OSError as error:
        outcome = f"OSError {error}"
    happened(f"{name}read: {outcome}")
    return as_json(start_response, outcome)


def duplex(environ, start_response):
    """Sends each line back when it arrives."""
    environ["eventlet.minimum_write_chunk_size"] = 0
    plain(start_response)
    return (line.upper() for line in iter(environ["wsgi.input"].readline, b""))


def ignores(environ, start_response):
    plain(start_response, ("Content-Length", "7"))
    return [b"ignored"]


def ignores_piecewise(environ, start_response):
    plain(start_response)
    return iter([b"ignored"])


# --- 100 Continue -----------------------------------------------------------------------------------------------------


def continues(environ, start_response):
    body = environ["wsgi.input"]
    body.set_hundred_continue_response_headers([("x-fIRst", "1"), ("X-Second", "2")],
                                               capitalize_response_headers=query(environ, "c", "1") == "1")
    return as_json(start_response, body.read().decode())


def phases(environ, start_response):
    """Reads several bodies in one request. A further 100 follows each except the last."""
    body, seen = environ["wsgi.input"], []
    body.set_hundred_continue_response_headers([("X-Phase", "1")])
    seen.append(body.read().decode())
    for number in range(2, int(query(environ, "n", "2")) + 1):
        body.set_hundred_continue_response_headers([("X-Phase", str(number))])
        body.send_hundred_continue_response()
        seen.append(body.read().decode())
    return as_json(start_response, seen)


def too_late(environ, start_response):
    write = plain(start_response)
    write(b"begun,")
    environ["wsgi.input"].send_hundred_continue_response()
    return [b"done"]


# --- responses --------------------------------------------------------------------------------------------------------


def pieces(environ, start_response):
    """Yields `n` pieces of `size` bytes. Each next one waits for the event `go N`."""
    if query(environ, "min"):
        environ["eventlet.minimum_write_chunk_size"] = int(query(environ, "min"))
    plain(start_response)
    return (bytes([97 + number]) * int(query(environ, "size", "10")) for number in range(int(query(environ, "n", "3"))))


def gated(environ, start_response):
    """Yields a piece, then waits for a request to `/go`, then yields the rest."""
    environ["eventlet.minimum_write_chunk_size"] = 0
    plain(start_response)

    def body():
        yield b"first"
        wait_for("go")
        yield b"second"

    return body()


def go(environ, start_response):
    happened("go")
    return hello(environ, start_response)


def writes(environ, start_response):
    write = plain(start_response)
    write(b"one,")
    write(b"two,")
    return [b"three"]


def strings(environ, start_response):
    plain(start_response)
    return ["as", "cii"]


def other_strings(environ, start_response):
    plain(start_response)
    return ["caf\u00e9"]


def starts_twice(environ, start_response):
    plain(start_response, ("X-Only-First", "1"))
    plain(start_response, ("X-Second", "2"), status="201 Created")
    return [b"second"]


def starts_late(environ, start_response):
    plain(start_response)
    yield b""
    yield b"late"


def never_starts(environ, start_response):
    return [b"never"]


def names(environ, start_response):
    plain(start_response, ("x-cuSTom-iD", "vAlue"), ("ETag", "1"))
    return [b"names"]


def field_types(environ, start_response):
    start_response("200 OK", (("Content-Length", 5), ("X-Number", 17)))
    return [b"hello"]


def bad_field(value):
    def application(environ, start_response):
        plain(start_response, ("X-Bad", value))
        return [b"bad"]
    return application


def raises(environ, start_response):
    raise LookupError("made to fail 100%s")


def raises_timeout(environ, start_response):
    class Timeout(BaseException):
        pass
    raise Timeout("as eventlet's")


def raises_in_small_body(environ, start_response):
    plain(start_response, ("X-Lost", "1"))
    yield b"x" * 100
    raise LookupError("made to fail in a small body")


def raises_in_large_body(environ, start_response):
    plain(start_response)
    yield b"x" * 8192
    raise LookupError("made to fail in a large body")


def exc_info_before(environ, start_response):
    plain(start_response, ("X-First", "1"))
    try:
        raise LookupError("replaced")
    except LookupError:
        plain(start_response, ("X-Second", "2"), status="503 Oh")
        start_response("503 Oh", [("X-Second", "2")], sys.exc_info())
    return [b"replaced"]


def exc_info_after(environ, start_response):
    write = plain(start_response)
    write(b"begun")
    try:
        raise LookupError("too late")
    except LookupError:
        start_response("500 Oh", [], sys.exc_info())
    return [b"never"]


class Closed:
    def __init__(self, pieces, name):
        self.pieces, self.name = iter(pieces), name

    def __iter__(self):
        return self

    def __next__(self):
        return next(self.pieces)

    def close(self):
        happened(f"close {self.name}")


def closes(environ, start_response):
    def failing():
        yield b"x"
        raise LookupError("made to fail")

    plain(start_response)
    return Closed(failing() if query(environ, "fail") else [b"a", b"b"], query(environ, "name"))


def empty(environ, start_response):
    start_response("204 No Content", [])
    return []


def sends_file(environ, start_response):
    plain(start_response)
    wrapper = environ.get("wsgi.file_wrapper") or (lambda file, size: iter(lambda: file.read(size), b""))
    return wrapper(open(__file__, "rb"), 4096)


# --- hooks, the socket, the end ---------------------------------------------------------------------------------------


def hooks(environ, start_response):
    name = query(environ, "name")

    def hook(hooked, word, *, number):
        happened(f"hook {name} {word} {number} {hooked['PATH_INFO']}")

    def broken(hooked):
        raise LookupError("a hook made to fail")

    if query(environ, "broken"):
        environ["eventlet.posthooks"].append((broken, (), {}))
    environ["eventlet.posthooks"].append((hook, ("word",), {"number": 1}))
    plain(start_response)
    return Closed([b"hooked"], name)


def clears(environ, start_response):
    """Removes all keys from its environ, as some applications do that pass it to another library."""
    name, kind = query(environ, "name"), query(environ, "kind")

    def hook(hooked):
        happened(f"hook {name} cleared")

    environ["eventlet.posthooks"].append((hook, (), {}))
    if kind == "file":
        wrapper = environ["wsgi.file_wrapper"]
    if kind == "replaced":
        environ["eventlet.posthooks"] = [(hook, (), {})]
    elif kind == "method":
        del environ["REQUEST_METHOD"], environ["RAW_URI"], environ["SERVER_PROTOCOL"]
    else:
        environ.clear()
    if kind == "raises":
        raise LookupError("made to fail after clearing")
    plain(start_response)
    if kind == "file":
        return wrapper(io.BytesIO(b"cleared"))
    return [b"clea", b"red"] if kind == "list" else iter([b"clea", b"red"])


def assigns(environ, start_response):
    wsgi.HttpProtocol.minimum_chunk_size = int(query(environ, "size"))
    return as_json(start_response, wsgi.HttpProtocol.minimum_chunk_size)


def takes_socket(environ, start_response):
    sock = environ["eventlet.input"].get_socket()
    sock.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nraw")
    happened(f"echo {sock.recv(100).decode()}")
    wsgi.WSGI_LOCAL.already_handled = True
    return [b""]


def says_nothing(environ, start_response):
    wsgi.WSGI_LOCAL.already_handled = True
    return []


def idles(environ, start_response):
    """Continues until the server stops, and marks itself as idle."""
    environ["eventlet.minimum_write_chunk_size"] = 0
    environ["eventlet.set_idle"]()
    plain(start_response)

    def body():
        while True:
            yield b"tick\n"
            time.sleep(0.05)

    return body()


def sleeps(environ, start_response):
    happened("sleeping")
    time.sleep(float(query(environ, "s", "0.5")))
    plain(start_response)
    return [b"slept"]


def stops_accepting(environ, start_response):
    wsgi.is_accepting = False
    return hello(environ, start_response)


def closes_listener(environ, start_response):
    LISTENER.close()
    return hello(environ, start_response)


def wait_for(event, seconds=10):
    end = time.monotonic() + seconds
    while event not in EVENTS and time.monotonic() < end:
        time.sleep(0.01)


def events(environ, start_response):
    if query(environ, "e"):
        wait_for(query(environ, "e"))
    return as_json(start_response, EVENTS)


def outstanding(environ, start_response):
    return as_json(start_response, EVENT.server.outstanding_requests)


ROUTES = {
    "/": hello, "/environ": show_environ, "/upload": upload, "/ways": ways, "/iter": iterated,
    "/attributes": attributes, "/writable": writable, "/discard": discards, "/failing": failing, "/duplex": duplex,
    "/ignore": ignores, "/ignore_piecewise": ignores_piecewise,
    "/continue": continues, "/phases": phases, "/too_late": too_late, "/pieces": pieces, "/gated": gated, "/go": go,
    "/write": writes, "/str": strings, "/other_str": other_strings, "/twice": starts_twice, "/late": starts_late,
    "/never": never_starts, "/names": names, "/types": field_types, "/beyond": bad_field("\u20ac"),
    "/crlf": bad_field("a\r\nX-Injected: 1"), "/nul": bad_field("a\0b"), "/raises": raises,
    "/raises_timeout": raises_timeout,
    "/raises_small": raises_in_small_body, "/raises_large": raises_in_large_body, "/exc_info_before": exc_info_before,
    "/exc_info_after": exc_info_after, "/closes": closes, "/empty": empty, "/file": sends_file, "/hooks": hooks,
    "/clears": clears, "/assigns": assigns,
    "/socket": takes_socket, "/silent": says_nothing, "/idle": idles, "/sleep": sleeps, "/stop": stops_accepting,
    "/close_listener": closes_listener, "/events": events, "/outstanding": outstanding,
}


def application(environ, start_response):
    return ROUTES.get("/" + environ["PATH_INFO"].split("/")[1], hello)(environ, start_response)


class Event:
    def send(self, server):
        self.server = server
        happened(f"server_event {type(server).__name__} {server.url_length_limit} {server.pid == os.getpid()}")


EVENT = Event()


def listener():
    if "unix" in ARGUMENTS:
        sock = socket.socket(socket.AF_UNIX)
        sock.bind(ARGUMENTS.pop("unix"))
    else:
        sock = socket.socket()
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(("127.0.0.1", 0))
    sock.listen(128)
    return sock


def main():
    global LISTENER
    arguments = dict(ARGUMENTS)
    sock = LISTENER = listener()
    arguments.pop("unix", None)
    for name, value in arguments.pop("globals", {}).items():
        setattr(wsgi, name, value)
    if arguments.pop("logger", False):
        logging.basicConfig(format="%(levelname)s %(message)s", level=logging.DEBUG)
        arguments["log"] = logging.getLogger("made.for.the.test")
    if "protocol" in arguments:
        attributes = {name: (lambda self: None) if value == "method" else value
                      for name, value in arguments["protocol"].items()}
        arguments["protocol"] = type("Protocol", (wsgi.HttpProtocol,), attributes)
    if arguments.pop("server_event", False):
        arguments["server_event"] = EVENT
    if LIBRARY == "eventlet":
        from eventlet import greenio
        pool = eventlet.GreenPool
        sock = greenio.GreenSocket(sock)
    else:
        import maypole
        pool = maypole.Pool
    if "pool" in arguments:
        arguments["custom_pool"] = pool(arguments.pop("pool"))
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(0))
    signal.signal(signal.SIGUSR1, raise_error)
    signal.signal(signal.SIGUSR2, lambda number, frame: sock.shutdown(socket.SHUT_RDWR))
    try:
        result = wsgi.server(sock, application, **arguments)
    except BaseException as error:
        print(f"raised {type(error).__name__}: {error}", flush=True)
    else:
        print(f"returned {result}", flush=True)
    print(f"descriptor {sock.fileno()}", flush=True)
    print(f"threads {sorted(thread.name for thread in threading.enumerate())}", flush=True)


def raise_error(number, frame):
    raise RuntimeError("made to end")


if __name__ == "__main__":
    main()
