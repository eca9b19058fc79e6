"""One connection to the server under test: sends bytes, and parses responses as they arrive, their faults included.

*Invariants*: every read has a time limit. A response that breaks the framing rules is still returned, and its `faults`
say how.
"""

import json
import re
import socket
import struct
import time

TOKEN = re.compile(rb"^[!#$%&'*+\-.^_`|~0-9A-Za-z]+$")
STATUS_LINE = re.compile(rb"^(HTTP/\d\.\d) (\d{3}) ?([^\x00-\x08\x0a-\x1f\x7f]*)$")


class Response:
    """A response as received. `echo` is the JSON of the echo application, or None."""

    def __init__(self):
        self.status, self.version, self.framing = -1, "?", "?"
        self.fields, self.body, self.faults, self.echo = [], b"", [], None

    def get(self, name):
        return [value for field, value in self.fields if field.lower() == name]

    def brief(self):
        if self.echo:
            target = f"{self.echo['method']} {self.echo['path']}?{self.echo['query']}"
            return f"{self.status}({target} {self.echo['body'][:30]!r})"
        return str(self.status)


def parse_chunked(received, at):
    """Returns the body, the position after it, and a fault. The position is None if bytes are missing."""
    body = b""
    while True:
        end = received.find(b"\r\n", at)
        if end < 0:
            return body, None, None
        size = received[at:end].split(b";")[0]
        if not re.fullmatch(rb"[0-9A-Fa-f]+", size):
            return body, len(received), f"bad chunk size {size[:20]!r}"
        bytes_wanted = int(size, 16)
        at = end + 2
        if bytes_wanted == 0:
            while (end := received.find(b"\r\n", at)) != at:
                if end < 0:
                    return body, None, None
                at = end + 2
            return body, at + 2, None
        if len(received) < at + bytes_wanted + 2:
            return body, None, None
        body += received[at:at + bytes_wanted]
        at += bytes_wanted + 2
        if received[at - 2:at] != b"\r\n":
            return body, len(received), "a chunk does not end with CRLF"


def parse_head(head):
    """Returns a response without its body, from the bytes before the empty line."""
    response = Response()
    status_line, *lines = head.split(b"\r\n")
    match = STATUS_LINE.match(status_line)
    if not match:
        response.faults.append(f"bad status line {status_line[:60]!r}")
        return response
    response.version, response.status = match[1].decode(), int(match[2])
    if not re.match(rb"^HTTP/\d\.\d \d{3} ", status_line):
        response.faults.append("no space after the status code")
    for line in lines:
        name, colon, value = line.partition(b":")
        if not colon or not TOKEN.match(name):
            response.faults.append(f"bad field line {line[:60]!r}")
            continue
        if re.search(rb"[\x00\r\n]", value):
            response.faults.append(f"control character in field {line[:60]!r}")
        response.fields.append((name.decode("latin-1"), value.strip(b" \t").decode("latin-1")))
    return response


def parse_response(received, ended, method):
    """Returns the first response and the number of its bytes, or `(None, 0)` if it is incomplete."""
    head, empty_line, _ = received.partition(b"\r\n\r\n")
    if not empty_line:
        return None, 0
    response = parse_head(head)
    if response.status < 0:
        return response, len(received)
    at = len(head) + 4
    coded, lengths = response.get("transfer-encoding"), response.get("content-length")
    if coded and lengths:
        response.faults.append("both Transfer-Encoding and Content-Length")
    if len(lengths) > 1:
        response.faults.append("Content-Length more than once")
    if response.status < 200 or response.status in (204, 304) or method == "HEAD":
        response.framing = "none"
        if response.status < 200 or response.status == 204:
            for name in ("Transfer-Encoding", "Content-Length"):
                if response.get(name.lower()):
                    response.faults.append(f"{name} in {response.status}")
        return response, at
    if coded:
        end = chunked_body(response, received, at, ended)
    elif lengths:
        end = body_of_length(response, received, at, ended)
    else:
        response.framing = "eof"
        response.body, end = received[at:], len(received) if ended else None
    if end is None:
        return None, 0
    if response.get("content-type")[:1] == ["application/json"]:
        response.echo = echo_in(response.body)
    return response, end


def chunked_body(response, received, at, ended):
    response.framing = "chunked"
    response.body, end, fault = parse_chunked(received, at)
    if end is None and ended:
        response.body, end, fault = received[at:], len(received), "chunked response cut short"
    if fault:
        response.faults.append(fault)
    return end


def body_of_length(response, received, at, ended):
    response.framing = "length"
    length = response.get("content-length")[0]
    if not re.fullmatch(r"[0-9]+", length):
        response.faults.append(f"bad Content-Length {length!r}")
        length = 0
    response.body = received[at:at + int(length)]
    if len(response.body) < int(length):
        if not ended:
            return None
        response.faults.append("response shorter than its Content-Length")
    return at + len(response.body)


def echo_in(body):
    try:
        echo = json.loads(body)
    except ValueError:
        return None
    return echo if isinstance(echo, dict) and "env" in echo else None


class Connection:
    """A connection from the client's side. `methods` are those of the requests sent, in order: GET if none is named."""

    def __init__(self, address, slow=1.0, methods=()):
        self.socket = socket.create_connection(address, timeout=5)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.slow = slow
        self.methods = list(methods)
        self.received = self.unparsed = b""
        self.final, self.interim = [], []
        self.ended = self.was_reset = self.send_failed = False
        #: What the steps of a case have seen and done.
        self.continued = self.aborted = False

    def send(self, data):
        try:
            self.socket.settimeout(10)
            self.socket.sendall(data)
        except OSError:
            self.send_failed = True

    def half_close(self):
        try:
            self.socket.shutdown(socket.SHUT_WR)
        except OSError:
            self.send_failed = True

    def read(self, seconds):
        """Reads once, for at most this time, and parses what came."""
        if self.ended:
            return
        self.socket.settimeout(max(seconds, 0.001))
        try:
            piece = self.socket.recv(1 << 18)
        except (TimeoutError, BlockingIOError):
            return
        except OSError:
            piece, self.was_reset = b"", True
        self.ended = not piece
        self.received += piece
        self.unparsed += piece
        while self.unparsed:
            number = len(self.final)
            method = self.methods[number] if number < len(self.methods) else "GET"
            response, used = parse_response(self.unparsed, self.ended, method)
            if response is None:
                return
            self.unparsed = self.unparsed[used:]
            interim = 100 <= response.status < 200 and response.status != 101
            (self.interim if interim else self.final).append(response)

    def until(self, condition, seconds):
        """Reads until the condition holds, the connection ends, or the time is over. Returns whether it holds."""
        end = time.monotonic() + seconds * self.slow
        while not condition() and not self.ended and (left := end - time.monotonic()) > 0:
            self.read(left)
        return condition()

    def listen(self, seconds):
        """Reads for this time, or until the connection ends."""
        self.until(lambda: False, seconds)

    def close(self, reset=False):
        if reset:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.socket.close()
