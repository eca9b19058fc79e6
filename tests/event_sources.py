"""Many clients that behave like a browser's EventSource, on raw sockets: they connect again, and say what they have seen.

*Runs on*: the test's thread. *Invariants*: every wait has a deadline. *Source*: HTML standard, "Server-sent events".
"""

import contextlib
import re
import selectors
import socket
import time

from client import PATIENCE

#: After this time a client connects again.
AGAIN_SECONDS = 0.1
EVENT = re.compile(rb"id: ([^\n]*)\n(?:event: [^\n]*\n)?data: ([^\n]*)\n\n")


class EventSource:
    """A client."""

    def __init__(self, crowd):
        self.crowd, self.last, self.events, self.connections = crowd, None, [], 0
        self.connect()

    def connect(self):
        self.received, self.is_open = b"", False
        self.socket = socket.socket()
        self.socket.settimeout(PATIENCE)
        self.connections += 1
        try:
            self.socket.connect(("127.0.0.1", self.crowd.port))
            last = "" if self.last is None else f"Last-Event-ID: {self.last}\r\n"
            self.socket.sendall(f"GET {self.crowd.path} HTTP/1.1\r\nHost: test.example\r\n{last}\r\n".encode())
        except ConnectionError:
            self.lose()
            return
        self.crowd.selector.register(self.socket, selectors.EVENT_READ, self)

    def lose(self):
        with contextlib.suppress(KeyError):
            self.crowd.selector.unregister(self.socket)
        self.socket.close()
        self.is_open = False
        self.crowd.lost.append((time.monotonic() + AGAIN_SECONDS, self))

    def receive(self):
        """Reads what has come. An event is in one chunk, so that the framing of chunks needs no care. The end of a
        response is the end of the connection."""
        try:
            piece = self.socket.recv(65536)
        except ConnectionError:
            piece = b""
        self.received += piece
        if not self.is_open and b"\r\n\r\n" in self.received:
            head, _, self.received = self.received.partition(b"\r\n\r\n")
            # A browser gives up on any other status: then this client has no further events, and its test fails.
            self.is_open = b" 200 " in head.partition(b"\r\n")[0]
        end = 0
        for match in EVENT.finditer(self.received):
            self.last, end = match[1].decode(), match.end()
            self.events.append(match[2].decode())
        self.received = self.received[end:]
        if not piece or b"\r\n0\r\n\r\n" in self.received:
            self.lose()


class EventSources:
    """Clients of one address and path."""

    def __init__(self, port, path, count):
        self.port, self.path = port, path
        self.selector, self.lost = selectors.DefaultSelector(), []
        self.clients = [EventSource(self) for _ in range(count)]

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for client in self.clients:
            client.socket.close()
        self.selector.close()

    def run(self, condition, timeout=3 * PATIENCE):
        """Lets the clients read and connect until `condition(client)` holds for each of them."""
        end = time.monotonic() + timeout
        while not all(condition(client) for client in self.clients):
            left = [client for client in self.clients if not condition(client)]
            assert time.monotonic() < end, f"{len(left)} of {len(self.clients)} clients have {left[0].events[-5:]}"
            for key, _ in self.selector.select(0.05):
                key.data.receive()
            now = time.monotonic()
            again, self.lost = [client for due, client in self.lost if due <= now], [one for one in self.lost if one[0] > now]
            for client in again:
                client.connect()
