"""A client that speaks to a server in raw bytes.

*Invariants*: every read has a deadline.
"""

import contextlib
import hashlib
import os
import re
import socket

# Generous: two cores may be busy with the build of something else. No test waits this long when all is well.
PATIENCE = float(os.environ.get("TEST_PATIENCE", 20))

# 2 MiB that repeat every 256 bytes, as the application `probe` makes and expects them.
BODY_PIECE = bytes(range(256)) * 8192


def pattern_sha(size):
    """Returns the SHA-256 of that many bytes of the pattern."""
    digest = hashlib.sha256()
    while size > 0:
        digest.update(BODY_PIECE[:size])
        size -= len(BODY_PIECE)
    return digest.hexdigest()


class Response:
    """One response as received."""

    def __init__(self, version, status, reason, fields, head):
        self.version, self.status, self.reason, self.fields, self.head = version, status, reason, fields, head
        self.body = b""
        self.interim = []
        self.trailers = b""

    def all(self, name):
        return [v for k, v in self.fields if k.lower() == name.lower()]

    def get(self, name, default=None):
        values = self.all(name)
        assert len(values) < 2, f"{name} comes {len(values)} times: {values}"
        return values[0] if values else default

    def __repr__(self):
        return f"<{self.status} {self.reason} {self.fields} {self.body[:200]!r}>"


class Closed(Exception):
    """The server closed the connection before the response was complete."""


class Client:
    """A raw connection with just enough HTTP to find the end of a response. Every read has a timeout."""

    def __init__(self, address, timeout=PATIENCE, source=None, receive_buffer=None):
        if address.startswith("unix:"):
            self.socket = socket.socket(socket.AF_UNIX)
            target = address[len("unix:"):]
            target = "\0" + target[1:] if target.startswith("@") else target
        else:
            host, _, port = address.rpartition("//")[2].rpartition(":")
            host = host.strip("[]")
            self.socket = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
            self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            target = (host, int(port))
        self.socket.settimeout(timeout)
        if receive_buffer:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        if source:
            self.socket.bind((source, 0))
        self.socket.connect(target)
        self.buffer = b""
        self.eof = False

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def close(self):
        self.socket.close()

    def reset(self):
        """Closes the connection with a reset."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        self.socket.close()

    def send(self, data):
        self.socket.sendall(data if isinstance(data, bytes) else data.encode("latin-1"))
        return self

    def request(self, line="GET / HTTP/1.1", *fields, host="test.example", body=b""):
        """Sends a request. Adds `Host`, but not `Content-Length`."""
        lines = [line] + ([f"Host: {host}"] if host is not None else []) + list(fields)
        return self.send("\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + body)

    def get(self, path="/", *fields, method="GET"):
        return self.request(f"{method} {path} HTTP/1.1", *fields).response(method)

    def post(self, path, body, *fields, method="POST"):
        return self.request(f"{method} {path} HTTP/1.1", f"Content-Length: {len(body)}", *fields, body=body).response(method)

    def half_close(self):
        self.socket.shutdown(socket.SHUT_WR)
        return self

    def _more(self):
        if self.eof:
            raise Closed(self.buffer)
        try:
            piece = self.socket.recv(1 << 18)
        except (ConnectionResetError, BrokenPipeError):
            piece = b""
        if not piece:
            self.eof = True
            raise Closed(self.buffer)
        self.buffer += piece

    def read_until(self, mark):
        while mark not in self.buffer:
            self._more()
        data, _, self.buffer = self.buffer.partition(mark)
        return data + mark

    def read_exactly(self, count):
        pieces, have = [], 0
        while True:
            take = self.buffer[:count - have]
            self.buffer = self.buffer[len(take):]
            pieces.append(take)
            have += len(take)
            if have == count:
                return b"".join(pieces)
            self._more()

    def head(self):
        """Returns the next head, interim or final, and reads no body."""
        raw = self.read_until(b"\r\n\r\n")
        lines = raw.decode("latin-1").split("\r\n")[:-2]
        match = re.fullmatch(r"(HTTP/1\.[01]) (\d{3}) (.*)", lines[0])
        assert match, f"not a status line: {lines[0]!r}"
        fields = []
        for line in lines[1:]:
            field = re.fullmatch(r"([!#$%&'*+.^_`|~0-9A-Za-z-]+): ?([^\r\n\0]*)", line)
            assert field, f"not a field line: {line!r}"
            fields.append((field[1], field[2].strip(" \t")))
        return Response(match[1], int(match[2]), match[3], fields, raw)

    def response(self, method="GET"):
        """Returns the next final response with its body. Interim responses are in its `interim`."""
        interim = []
        while True:
            response = self.head()
            if response.status >= 200:
                break
            interim.append(response)
        response.interim = interim
        if method == "HEAD" or response.status in (204, 304):
            return response
        if response.get("Transfer-Encoding"):
            assert response.get("Transfer-Encoding").lower() == "chunked"
            assert response.get("Content-Length") is None
            response.body = b"".join(self.chunks(response))
        elif response.get("Content-Length") is not None:
            response.body = self.read_exactly(int(response.get("Content-Length")))
        else:
            response.body = self.rest()
        return response

    def chunks(self, response=None):
        """Yields the chunks of a chunked body as they were sent."""
        while True:
            line = self.read_until(b"\r\n")
            assert re.fullmatch(rb"[0-9A-Fa-f]+\r\n", line), line
            size = int(line, 16)
            if size == 0:
                trailers = b""
                while (line := self.read_until(b"\r\n")) != b"\r\n":
                    trailers += line
                if response is not None:
                    response.trailers = trailers
                return
            yield self.read_exactly(size)
            assert self.read_exactly(2) == b"\r\n"

    def rest(self):
        """Returns all bytes until the server closes."""
        with contextlib.suppress(Closed):
            while True:
                self._more()
        data, self.buffer = self.buffer, b""
        return data

    def assert_closed(self):
        """Checks that the server closes the connection and sends no further byte."""
        assert self.rest() == b""

    def assert_open(self, path="/"):
        """Checks that the connection still serves a request."""
        assert self.get(path).status == 200

    def quiet(self, seconds):
        """Returns whether the server sends no byte for this time and keeps the connection open."""
        self.socket.settimeout(seconds)
        try:
            self._more()
            return False
        except TimeoutError:
            return True
        except Closed:
            return False
        finally:
            self.socket.settimeout(PATIENCE)
