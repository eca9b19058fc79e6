"""Holds many connections at once, and compares the responses on each with the model."""

import heapq
import re
import selectors
import socket
import struct
import time

from model import REMOTE

STATUS_LINE = re.compile(rb"HTTP/1\.1 ([1-5][0-9]{2}) [\t\x20-\x7e\x80-\xff]*")
FIELD_LINE = re.compile(rb"([!#$%&'*+\-.^_`|~0-9A-Za-z]+): ([\x21-\x7e\x80-\xff](?:[\t\x20-\x7e\x80-\xff]*[\x21-\x7e\x80-\xff])?)?")
CHUNK = re.compile(rb"([0-9a-f]+)\r\n")
# If a connection lasts longer than this, the server hangs.
PATIENCE = 30
# The bytes that a lazy client reads at once.
LAZY_BYTES = 4096
# With this value of SO_LINGER, close(2) resets the connection.
RESET = struct.pack("ii", 1, 0)


class Incomplete(Exception):
    """The response is not complete."""


class Malformed(Exception):
    """The response breaks a rule."""


class Response:
    """A final response, parsed strictly."""

    def __init__(self, status, fields, body, until_close):
        self.status, self.body, self.until_close = status, body, until_close
        self.closes = until_close or b"close" in fields.get(b"connection", [])


def parse(data, at, is_head, may_continue):
    """Returns the final response at `at`, and its end. Raises `Incomplete` with what is there if the body is cut."""
    while True:
        end = data.find(b"\r\n\r\n", at)
        if end < 0:
            raise Incomplete(None)
        status, fields = parse_head(bytes(data[at:end]))
        at = end + 4
        if status >= 200:
            break
        if status != 100 or fields or not may_continue:
            raise Malformed(f"an interim response that was not asked for: {status} {fields}")
    return parse_body(data, at, status, fields, is_head)


def parse_head(head):
    lines = head.split(b"\r\n")
    line = STATUS_LINE.fullmatch(lines[0])
    if not line:
        raise Malformed(f"a status line {lines[0]!r}")
    fields = {}
    for text in lines[1:]:
        field = FIELD_LINE.fullmatch(text)
        if not field:
            raise Malformed(f"a field line {text!r}")
        fields.setdefault(field[1].lower(), []).append(field[2] or b"")
    for name in (b"content-length", b"transfer-encoding", b"date", b"connection"):
        if len(fields.get(name, [])) > 1:
            raise Malformed(f"{name} more than once")
    if int(line[1]) >= 200 and b"date" not in fields:
        raise Malformed("no Date")
    if b"content-length" in fields and b"transfer-encoding" in fields:
        raise Malformed("both Content-Length and Transfer-Encoding")
    return int(line[1]), fields


def parse_body(data, at, status, fields, is_head):
    if is_head or status in (204, 304):
        return Response(status, fields, b"", False), at
    if b"transfer-encoding" in fields:
        if fields[b"transfer-encoding"] != [b"chunked"]:
            raise Malformed(f"Transfer-Encoding {fields[b'transfer-encoding']}")
        body, at = parse_chunks(data, at)
        return Response(status, fields, body, False), at
    if b"content-length" in fields:
        end = at + int(fields[b"content-length"][0])
        if end > len(data):
            raise Incomplete(bytes(data[at:]))
        return Response(status, fields, bytes(data[at:end]), False), end
    return Response(status, fields, bytes(data[at:]), True), len(data)


def parse_chunks(data, at):
    body = b""
    while True:
        line = CHUNK.match(data, at)
        if not line:
            if re.fullmatch(rb"[0-9a-f]*\r?", bytes(data[at:])):
                raise Incomplete(body)
            raise Malformed(f"a chunk begins {bytes(data[at:at + 40])!r}")
        size, at = int(line[1], 16), line.end()
        body += data[at:at + size]
        at += size
        if at + 2 > len(data):
            raise Incomplete(body)
        if data[at:at + 2] != b"\r\n":
            raise Malformed(f"a chunk ends {bytes(data[at:at + 40])!r}")
        at += 2
        if size == 0:
            return body, at


class Conversation:
    """A connection: the bytes to send, and the bytes received."""

    def __init__(self, data, script, end, reading, name, lazy=False):
        self.data, self.script, self.reading, self.name = data, script, reading, name
        # A lazy client reads only after it has sent everything, and then little at a time.
        self.lazy, self.reads = lazy, not lazy
        waits = end == "wait" and not any(one.needs_end or one.optional for one in reading.expected)
        self.end = "half-close" if end == "wait" and not waits else end
        self.received = bytearray()
        # The end of the connection: "end", "reset", "left" by the client, or "hangs".
        self.ended = None
        self.parsed = None

    def connect(self, address):
        self.socket = socket.socket()
        if self.lazy:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, LAZY_BYTES)
        self.socket.settimeout(PATIENCE)
        self.socket.connect(address)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        host, port = self.socket.getsockname()[:2]
        self.remote = f"{host} {port}"
        self.socket.setblocking(False)
        self.deadline = time.monotonic() + PATIENCE
        self.at, self.sent, self.may_send = 0, 0, True

    def wanted(self):
        """Returns what it waits for besides room to send."""
        return selectors.EVENT_READ if self.reads else 0

    def write(self):
        """Sends the next piece. Returns the pause until the next one, or None if everything has been sent."""
        if self.may_send and self.at < len(self.script):
            piece, pause = self.script[self.at]
            try:
                self.sent += self.socket.send(piece[self.sent:])
            except BlockingIOError:
                # The server may be waiting until the client reads.
                self.reads = True
                return 0
            except OSError:
                # The server has closed, because it need not read after an error.
                self.may_send = False
            else:
                if self.sent < len(piece):
                    return 0
                self.at, self.sent = self.at + 1, 0
                return pause if self.reads else 0
        self.finish()
        return None

    def finish(self):
        """Ends the connection in its own way, because everything has been sent."""
        self.reads = True
        if self.end == "reset":
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        if self.end in ("reset", "close"):
            self.ended = "left"
        elif self.end == "half-close" or self.has_all():
            self.close_side()

    def close_side(self):
        self.end = "half-close"
        try:
            self.socket.shutdown(socket.SHUT_WR)
        except OSError:
            # A reset has arrived. The next read shows it.
            pass

    def read(self):
        try:
            piece = self.socket.recv(LAZY_BYTES if self.lazy else 1 << 18)
        except BlockingIOError:
            return
        except OSError:
            self.ended = "reset"
            return
        self.received += piece
        if not piece:
            self.ended = "end"
        elif self.end == "wait" and self.at >= len(self.script) and self.has_all():
            self.close_side()

    def has_all(self):
        """Returns whether every required response has arrived."""
        at = 0
        for one in self.reading.expected:
            try:
                _, at = parse(self.received, at, one.is_head, one.may_continue)
            except (Incomplete, Malformed):
                return False
        return True

    def own(self, text):
        """Returns a report with the address of this connection."""
        return text.replace(REMOTE.encode(), self.remote.encode())

    def seen(self):
        return [self.own(seen) for seen in self.reading.seen]

    def problems(self):
        """Returns what is wrong with the received bytes."""
        if self.parsed is None:
            self.parsed, self.wrong = [], []
            try:
                self.compare()
            except Malformed as malformed:
                self.wrong.append(f"not HTTP: {malformed}")
            if self.ended == "hangs":
                self.wrong.insert(0, f"no end within {PATIENCE} s")
        return self.wrong

    def compare(self):
        at, ends, closed = 0, False, False
        for number, one in enumerate(self.reading.expected):
            if at == len(self.received):
                if not (ends or one.optional or one.may_be_cut or self.ended == "left"):
                    self.wrong.append(f"response {number} is missing: {one}")
                return
            try:
                response, at = parse(self.received, at, one.is_head, one.may_continue)
                if response.until_close and self.ended != "end" and not self.is_whole_before_reset(one, response.body):
                    raise Incomplete(response.body)
            except Incomplete as incomplete:
                body = incomplete.args[0]
                self.parsed.append(("cut", number))
                if not one.may_be_cut and self.ended != "left":
                    self.wrong.append(f"response {number} is cut off: {one}")
                elif body and one.body is not None and not (self.own(one.body).startswith(body) or body.startswith(self.own(one.body))):
                    self.wrong.append(f"response {number} is cut off and {body!r} instead of {one}")
                return
            closed = response.closes
            self.parsed.append((response.status, response.body.replace(self.remote.encode(), b"")))
            if response.status not in one.statuses:
                self.wrong.append(f"response {number} is {response.status} {response.body[:300]!r} instead of {one}")
                return
            if one.body is not None and not one.is_head and response.body != self.own(one.body):
                self.wrong.append(f"response {number} is {response.body[:2000]!r} instead of {one}")
            if closed and one.persistence == "keep":
                self.wrong.append(f"response {number} closes the connection and need not: {one}")
            ends = one.persistence == "either"
            if closed:
                break
        if at < len(self.received):
            self.wrong.append(f"more than was asked for: {bytes(self.received[at:at + 300])!r}")
        if self.ended == "reset" and not (self.reading.expected and self.reading.expected[-1].persistence == "close"):
            self.wrong.append("a reset")

    def is_whole_before_reset(self, one, body):
        """Returns whether a whole response arrived before the reset for what the client sent after its last request."""
        return self.ended == "reset" and self.reading.goes_on and one.body is not None and body == self.own(one.body)

    def differs(self, other):
        """Returns how the result differs from that of `other`, which sent the same bytes."""
        mine, theirs = (self.problems() or self.parsed), (other.problems() or other.parsed)
        loose = any(one.persistence == "either" or one.optional or one.may_be_cut or len(one.statuses) > 1 and 200 in one.statuses
                    for one in self.reading.expected)
        if mine == theirs or loose or "left" in (self.ended, other.ended):
            return None
        return f"{mine} and {theirs}"

    def outcomes(self):
        self.problems()
        counted = [f"responses {parsed[0]}" for parsed in self.parsed]
        return [*counted, f"ends: {self.ended}"]

    def as_json(self):
        return {
            "name": self.name,
            "data": self.data.decode("latin-1"),
            "script": [(len(piece), pause) for piece, pause in self.script],
            "end": self.end,
            "lazy": self.lazy,
            "ended": self.ended,
            "received": bytes(self.received).decode("latin-1"),
            "expected": repr(self.reading.expected),
        }


def converse(address, conversations, width):
    """Runs all connections, a few at a time."""
    waiting, active, sleeping = list(reversed(conversations)), set(), []
    selector = selectors.DefaultSelector()
    count = 0
    while waiting or active:
        while waiting and len(active) < width:
            one = waiting.pop()
            one.connect(address)
            active.add(one)
            selector.register(one.socket, one.wanted() | selectors.EVENT_WRITE, one)
        timeout = max(0, sleeping[0][0] - time.monotonic()) if sleeping else 1
        for key, mask in selector.select(timeout):
            one = key.data
            if mask & selectors.EVENT_READ:
                one.read()
            if mask & selectors.EVENT_WRITE and not one.ended:
                pause = one.write()
                sends = 0 if pause is None or pause > 0 else selectors.EVENT_WRITE
                selector.modify(one.socket, one.wanted() | sends, one)
                if pause:
                    count += 1
                    heapq.heappush(sleeping, (time.monotonic() + pause, count, one))
        now = time.monotonic()
        while sleeping and sleeping[0][0] <= now:
            one = heapq.heappop(sleeping)[2]
            if one in active and not one.ended:
                selector.modify(one.socket, selectors.EVENT_READ | selectors.EVENT_WRITE, one)
        for one in [one for one in active if one.ended or now > one.deadline]:
            one.ended = one.ended or "hangs"
            active.remove(one)
            selector.unregister(one.socket)
            one.socket.close()
    selector.close()
