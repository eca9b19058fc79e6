"""Very many WebSockets on one thread: they send a message each and wait for its echo, reply to pings, and leave."""

import resource
import select
import socket
import time

PATIENCE = 60
# A client's frame with a mask of zeros, and the server's frame with the same text.
TEXT = b"sixteen bytes..."
SENT = bytes([0x81, 0x80 | len(TEXT)]) + b"\0\0\0\0" + TEXT
ECHO = bytes([0x81, len(TEXT)]) + TEXT
PING, PONG = b"\x89\x00", b"\x8a\x80\0\0\0\0"
HEAD_END = b"\r\n\r\n"


class Crowd:
    """Open WebSockets. Each operation ends when all of them have done it, or fails and says how many have not."""

    def __init__(self, port, number, path="/"):
        hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        request = (f"GET {path} HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
                   "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n").encode()
        self.epoll = select.epoll()
        self.sockets, self.buffers = {}, {}
        self.pings = 0
        for at in range(number):
            # One address of this machine has too few ports for very many clients.
            made = socket.create_connection(("127.0.0.1", port), PATIENCE, (f"127.0.1.{at % 200 + 1}", 0))
            made.sendall(request)
            made.setblocking(False)
            self.sockets[made.fileno()], self.buffers[made.fileno()] = made, b""
            self.epoll.register(made, select.EPOLLIN)
        self._until_each(self._is_open, "have no handshake")

    def _is_open(self, descriptor):
        head, end, rest = self.buffers[descriptor].partition(HEAD_END)
        if not end:
            return False
        assert head.startswith(b"HTTP/1.1 101 "), head
        self.buffers[descriptor] = rest
        return True

    def _has_echo(self, descriptor):
        while self.buffers[descriptor].startswith(PING):
            self.buffers[descriptor] = self.buffers[descriptor][len(PING):]
            self.sockets[descriptor].send(PONG)
            self.pings += 1
        found = self.buffers[descriptor].startswith(ECHO)
        if found:
            self.buffers[descriptor] = self.buffers[descriptor][len(ECHO):]
        return found

    def _until_each(self, condition, sentence):
        waiting = set(self.sockets)
        last = time.monotonic()
        while waiting:
            for descriptor in self._receive():
                if descriptor in waiting and condition(descriptor):
                    waiting.discard(descriptor)
                    last = time.monotonic()
            assert time.monotonic() - last < PATIENCE, f"{len(waiting)} of {len(self.sockets)} WebSockets {sentence}"

    def _receive(self, timeout=1):
        """Waits for bytes. Returns the sockets that have more of them now."""
        # Without a number, epoll returns at most as many events as fit into its default.
        ready = [descriptor for descriptor, _ in self.epoll.poll(timeout, len(self.sockets) or 1)]
        for descriptor in ready:
            received = self.sockets[descriptor].recv(65536)
            assert received, f"the server has closed a WebSocket after {self.buffers[descriptor]!r}"
            self.buffers[descriptor] += received
        return ready

    def echo(self):
        """Sends a message through each, and waits for all echoes. Returns how long that took, in seconds."""
        began = time.monotonic()
        for made in self.sockets.values():
            made.send(SENT)
        self._until_each(self._has_echo, "have no echo")
        return time.monotonic() - began

    def beat(self, seconds):
        """Replies to pings for this long. Returns how many there were."""
        before, end = self.pings, time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            for descriptor in self._receive(left):
                assert not self._has_echo(descriptor)
        return self.pings - before

    def leave(self, number=None):
        """Closes the connections of some, or of all, without a close of the WebSocket."""
        for _ in range(len(self.sockets) if number is None else number):
            descriptor, made = self.sockets.popitem()
            del self.buffers[descriptor]
            made.close()
