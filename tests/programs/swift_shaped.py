"""An object server in the shape of Swift's, on `maypole.eventlet`: what `run_server` does and its PUT does.

The globals are assigned, a subclass of the pool and one of the protocol are given, names are left as they are, a PUT
is a MIME document in a chunked body: the object, a footer, and after another `100 Continue` the word to commit. *Runs
on*: `run_server` in the main thread; SIGHUP shuts the listening socket down, as Swift's workers do. Objects are kept
in memory.
"""

import errno
import hashlib
import json
import signal
import socket
import sys
import threading

import maypole
from maypole import eventlet as wsgi

wsgi.MAX_HEADER_LINE = 8192 + 256
OBJECTS = {}
GO = threading.Event()


class Refused(Exception):
    """Ends a request with this status."""


class RestrictedPool(maypole.Pool):
    """A pool that gets its size as a keyword."""

    def __init__(self, size=1024):
        super().__init__(size)


class Protocol(wsgi.HttpProtocol):
    default_request_version = "HTTP/1.0"


class MimeReader:
    """Reads the parts of a MIME document in sequence. Reads ahead no more than the phases of the body allow."""

    def __init__(self, body, boundary, piece=65536):
        self.body, self.piece = body, piece
        first = b"--" + boundary.encode()
        if body.readline(len(first) + 2).strip() != first:
            raise Refused("400 Bad Request")
        self.boundary = b"\r\n" + first
        self.buffer = b""

    def fill(self):
        piece = self.body.read(self.piece)
        self.buffer += piece
        return bool(piece)

    def headers(self):
        headers = {}
        while True:
            while b"\r\n" not in self.buffer:
                if not self.fill():
                    raise Refused("499 Client Disconnect")
            line, _, self.buffer = self.buffer.partition(b"\r\n")
            if not line:
                return headers
            name, _, value = line.decode().partition(": ")
            headers[name] = value

    def data(self):
        """Yields the part's bytes in pieces, up to the next boundary."""
        while True:
            at = self.buffer.find(self.boundary)
            if at >= 0:
                yield self.buffer[:at]
                self.buffer = self.buffer[at + len(self.boundary):][2:]
                return
            keep = len(self.boundary)
            if len(self.buffer) > keep:
                yield self.buffer[:-keep]
                self.buffer = self.buffer[-keep:]
            if not self.fill():
                raise Refused("499 Client Disconnect")


def put(environ, start_response):
    body = environ["wsgi.input"]
    if not isinstance(body, wsgi.Input):
        raise Refused("500 Not eventlet's")
    fields = []
    if environ.get("HTTP_X_BACKEND_OBJ_MULTIPHASE_COMMIT"):
        fields.append(("X-Obj-Multiphase-Commit", "yes"))
    if environ.get("HTTP_X_BACKEND_OBJ_METADATA_FOOTER"):
        fields.append(("X-Obj-Metadata-Footer", "yes"))
    body.set_hundred_continue_response_headers(fields)
    try:
        mime = MimeReader(body, environ["HTTP_X_BACKEND_OBJ_MULTIPART_MIME_BOUNDARY"])
        mime.headers()
        data = b"".join(mime.data())
        mime.headers()
        footer = json.loads(b"".join(mime.data()))
        etag = hashlib.sha256(data).hexdigest()
        if footer["etag"] != etag:
            raise Refused("422 Unprocessable Entity")
        if len(fields) == 2:
            body.send_hundred_continue_response()
            if mime.headers().get("X-Document") != "put commit" or b"".join(mime.data()) != b"put_commit_confirmation":
                raise Refused("500 No commit")
    except (OSError, wsgi.ChunkReadError):
        raise Refused("499 Client Disconnect") from None
    OBJECTS[environ["PATH_INFO"]] = data
    start_response("201 Created", [("Content-Length", "0"), ("ETag", etag)])
    return [b""]


def heartbeat(environ, start_response):
    environ["eventlet.minimum_write_chunk_size"] = 0
    start_response("200 OK", [])

    def body():
        yield b" "
        GO.wait(10)
        yield b"done"

    return body()


def get(environ, start_response):
    if environ["QUERY_STRING"] == "heartbeat":
        return heartbeat(environ, start_response)
    if environ["QUERY_STRING"] == "go":
        GO.set()
        data = b""
    elif environ["QUERY_STRING"] == "raw":
        meta = {name: value for name, value in environ["headers_raw"] if name.startswith("X-Object")}
        data = json.dumps({**meta, "content type": environ["CONTENT_TYPE"]}).encode()
    else:
        data = OBJECTS.get(environ["PATH_INFO"])
        if data is None:
            raise Refused("404 Not Found")
    start_response("200 OK", [("Content-Length", str(len(data)))])
    return [data]


def application(environ, start_response):
    try:
        return (put if environ["REQUEST_METHOD"] == "PUT" else get)(environ, start_response)
    except Refused as refusal:
        start_response(str(refusal), [("Content-Length", "0")])
        return []


def run_server(sock):
    pool = RestrictedPool(size=64)
    try:
        wsgi.server(
            sock, application, None, custom_pool=pool, protocol=Protocol, socket_timeout=60.0,
            capitalize_response_headers=False, url_length_limit=8192, keepalive=30.0, default_content_type="",
        )
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
    finally:
        pool.waitall()


def main():
    sock = socket.create_server(("127.0.0.1", 0), backlog=4096)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    signal.signal(signal.SIGHUP, lambda number, frame: sock.shutdown(socket.SHUT_RDWR))
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit())
    run_server(sock)
    print("done", flush=True)


if __name__ == "__main__":
    main()
