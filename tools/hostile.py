#!/usr/bin/env python3
"""Clients that try to starve all others, each at full speed, and a polite client that measures the latency left to it.

    hostile.py send KIND PORT READS       sends until its standard input ends; READS is a path that reads its body
    hostile.py table [SECONDS [KIND …]]   starts servers (MAYPOLE), and prints how long the polite client's answers took

The senders run in a separate process and send prepared buffers, so that only the server limits them.
"""

import collections
import contextlib
import json
import os
import pathlib
import re
import select
import socket
import struct
import subprocess
import sys
import threading
import time

TESTS = pathlib.Path(__file__).resolve().parent.parent / "tests"
PREPARED = 256 * 1024
PIECE = 64 * 1024
# The number of threads with which a kind keeps the server busy. Most need one.
THREADS = {"accept flood": 3, "reset storm": 3, "one-byte segments": 3, "uploads": 4, "downloads": 4, "body unread": 2}
DRIPPING = 500
CROWD = 64
HELLO = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"

KINDS = {}


def kind(name, *options):
    """A kind of sender: a function of a `Target`, which is called repeatedly. `options` are those of the server."""
    def add(function):
        KINDS[name] = (function, options)
        return function
    return add


class Target:
    """The target of a sender, and the number of bytes sent."""

    def __init__(self, port, reads):
        self.port, self.reads, self.connections, self.sent = port, reads.encode(), 0, 0

    @contextlib.contextmanager
    def connect(self):
        with socket.create_connection(("127.0.0.1", self.port), 10) as made:
            made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self.connections += 1
            yield made

    def flood(self, beginning, buffer, read=False):
        """Sends the beginning, then the buffer repeatedly, until the server closes the connection."""
        with self.connect() as made:
            if read:
                threading.Thread(target=drain, args=(made,), daemon=True).start()
            made.sendall(beginning)
            buffer = memoryview(buffer)
            while True:
                for at in range(0, len(buffer), PIECE):
                    made.sendall(buffer[at:at + PIECE])
                    self.sent += PIECE

    def post(self, *fields, path=None, framing=b"Transfer-Encoding: chunked"):
        return b"\r\n".join([b"POST %s HTTP/1.1" % (path or self.reads), b"Host: a", framing, *fields, b"", b""])


def drain(made):
    with contextlib.suppress(OSError):
        while made.recv(1 << 18):
            pass


def prepared(piece):
    """Returns the piece repeated to at least PREPARED bytes."""
    return piece * (PREPARED // len(piece) + 1)


TINY = prepared(b"1\r\nx\r\n")
STREAMED = ("--stream-requests", "always")


@kind("tiny chunks")
@kind("tiny chunks, streamed", *STREAMED)
def tiny_chunks(target):
    target.flood(target.post(), TINY)


@kind("tiny chunks, no buffer", "--request-buffer", "0")
def tiny_chunks_to_a_file(target):
    target.flood(target.post(), TINY)


@kind("sizes of 16 digits")
@kind("sizes of 16 digits, streamed", *STREAMED)
def long_sizes(target):
    target.flood(target.post(), prepared(b"0000000000000001\r\nx\r\n"))


@kind("huge extensions")
@kind("huge extensions, streamed", *STREAMED)
def huge_extensions(target):
    target.flood(target.post(), prepared(b'1000;a="' + b"e" * 4000 + b'"\r\n' + b"x" * 4096 + b"\r\n"))


@kind("trailers")
@kind("trailers, streamed", *STREAMED)
def trailers(target):
    fields = b"".join(b"T%d: %s\r\n" % (number, b"v" * 110) for number in range(64))
    target.flood(b"", prepared(target.post() + b"1\r\nx\r\n0\r\n" + fields + b"\r\n"), read=True)


@kind("one-byte segments")
@kind("one-byte segments, streamed", *STREAMED)
def one_byte_segments(target):
    with target.connect() as made:
        made.sendall(target.post())
        while True:
            for byte in (b"1", b"\r", b"\n", b"x", b"\r", b"\n"):
                made.send(byte)
            target.sent += 6


@kind("many with tiny chunks")
@kind("many with tiny chunks, streamed", *STREAMED)
def many_with_tiny_chunks(target):
    with contextlib.ExitStack() as stack:
        crowd = [stack.enter_context(target.connect()) for _ in range(CROWD)]
        for made in crowd:
            made.sendall(target.post())
            made.setblocking(False)
        # The next send begins at the start of a chunk, for any number of sent bytes: the buffer repeats every 6 bytes.
        at = dict.fromkeys(crowd, 0)
        while True:
            for made in select.select([], crowd, [], 1)[1]:
                sent = made.send(TINY[at[made]:at[made] + 30_000])
                at[made] = (at[made] + sent) % 6
                target.sent += sent


@kind("pipelined requests")
def pipelined(target):
    target.flood(b"", prepared(b"GET /404 HTTP/1.1\r\nHost: a\r\n\r\n"), read=True)


@kind("pipelined requests, 64 connections")
def pipelined_by_many(target):
    with contextlib.ExitStack() as stack:
        crowd = [stack.enter_context(target.connect()) for _ in range(CROWD)]
        requests = b"GET /404 HTTP/1.1\r\nHost: a\r\n\r\n" * 100
        answer = None
        for made in crowd:
            made.sendall(requests)
        while True:
            for made in select.select(crowd, [], [], 1)[0]:
                # One response makes room for about one more request.
                answer = made.recv(1 << 16)
                if not answer:
                    return
                more = HELLO * answer.count(b"HTTP/1.1 ")
                made.sendall(more)
                target.sent += len(more)


@kind("pipelined bodies")
@kind("pipelined bodies, streamed", *STREAMED)
def pipelined_bodies(target):
    target.flood(b"", prepared(target.post(framing=b"Content-Length: 1") + b"x"), read=True)


@kind("refused, then a flood")
def refused(target):
    target.flood(b"GET / HTTP/1.1\r\n\r\n", prepared(b"GET / HTTP/1.1\r\n\r\n"))


@kind("empty lines")
def empty_lines(target):
    target.flood(b"", prepared(b"\r\n"))


@kind("empty lines between requests")
def empty_lines_between(target):
    target.flood(b"", prepared(b"\r\n\r\n\r\n\r\n" + HELLO), read=True)


@kind("long heads")
def long_heads(target):
    fields = b"".join(b"F%d: %s\r\n" % (number, b"v" * 600) for number in range(95))
    target.flood(b"", prepared(HELLO[:-2] + fields + b"\r\n"), read=True)


@kind("100-continue")
@kind("100-continue, streamed", *STREAMED)
def expecting(target):
    with target.connect() as made:
        head = target.post(b"Expect: 100-continue", framing=b"Content-Length: 1")
        while True:
            made.sendall(head)
            if not made.recv(1 << 16):
                return
            made.sendall(b"x")
            if not made.recv(1 << 16):
                return
            target.sent += len(head) + 1


@kind("body unread, streamed", *STREAMED)
def body_unread(target):
    # The body is small enough that the server receives it although the application does not read it.
    target.flood(b"", prepared(target.post(path=b"/404") + b"1\r\nx\r\n" * 20_000 + b"0\r\n\r\n"), read=True)


@kind("unread for ever, streamed", *STREAMED)
def unread_for_ever(target):
    target.flood(target.post(path=b"/404"), TINY)


@kind("drip")
def drip(target):
    with contextlib.ExitStack() as stack:
        crowd = [stack.enter_context(target.connect()) for _ in range(DRIPPING)]
        for byte in HELLO[:-2] + b"F: %s\r\n" % (b"v" * 7000):
            for made in crowd:
                made.send(bytes([byte]))
            target.sent += len(crowd)


@kind("reset storm")
def reset_storm(target):
    with target.connect() as made:
        made.send(HELLO)
        made.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        target.sent += len(HELLO)


@kind("accept flood")
def accept_flood(target):
    # The close is a reset, because otherwise the ports run out.
    with target.connect() as made:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


@kind("proxy headers", "--proxy-protocol", "v1")
def proxy_headers(target):
    header = b"PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\n"
    target.flood(header, prepared(b"GET /404 HTTP/1.1\r\nHost: a\r\n\r\n"), read=True)


@kind("uploads")
@kind("uploads, streamed", *STREAMED)
def uploads(target):
    target.flood(target.post(framing=b"Content-Length: 1000000000"), bytes(PREPARED))


@kind("downloads")
def downloads(target):
    with target.connect() as made:
        made.sendall(b"GET /blocks?n=100000000000 HTTP/1.1\r\nHost: a\r\n\r\n")
        while piece := made.recv(1 << 18):
            target.sent += len(piece)


# The kinds for a server inside a program, which streams all bodies.
EMBEDDED = ["tiny chunks, streamed", "sizes of 16 digits, streamed", "many with tiny chunks, streamed",
            "body unread, streamed", "one-byte segments, streamed", "pipelined requests"]


# --- the sender's process ---------------------------------------------------------------------------------------------


def send(name, port, reads):
    target = Target(int(port), reads)

    def work():
        while True:
            # The server may close the connection at any time.
            with contextlib.suppress(OSError):
                KINDS[name][0](target)

    for _ in range(THREADS.get(name.partition(",")[0], 1)):
        threading.Thread(target=work, daemon=True).start()
    for _ in sys.stdin:
        print(json.dumps({"connections": target.connections, "sent": target.sent}), flush=True)
    os._exit(0)


def burn():
    """Keeps a processor busy and sends nothing, to measure the latencies on a busy machine."""
    threading.Thread(target=sys.stdin.read, daemon=True).start()
    while threading.active_count() > 1:
        sum(range(10_000))


class Sender:
    """Starts a process that sends. For `None`, the process is busy and sends nothing."""

    def __init__(self, name, port, reads="/sha"):
        words = ["burn"] if name is None else ["send", name, str(port), reads]
        self.process = subprocess.Popen(
            [sys.executable, __file__, *words], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def stat(self):
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        assert select.select([self.process.stdout], [], [], 20)[0], "the sender says nothing"
        return json.loads(self.process.stdout.readline())

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.kill()
        self.process.wait()
        self.process.stdin.close()
        self.process.stdout.close()


# --- the polite client ------------------------------------------------------------------------------------------------


def latencies(port, seconds, header=b"", patience=30):
    """Sends one request after the other, on old and new connections. Returns the sorted times of the responses."""
    took, end = [], time.monotonic() + seconds
    while time.monotonic() < end or len(took) < 10:
        begin = time.monotonic()
        with socket.create_connection(("127.0.0.1", port), patience) as made:
            made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            for number in range(10):
                made.sendall((b"" if number else header) + HELLO)
                answer = made.recv(1 << 16)
                assert answer.startswith(b"HTTP/1.1 200 "), answer
                took.append(time.monotonic() - begin)
                time.sleep(0.002)
                begin = time.monotonic()
    return sorted(took)


def share(sorted_values, part):
    return sorted_values[min(len(sorted_values) - 1, int(len(sorted_values) * part))]


def measure(name, port, seconds, reads="/sha"):
    """Returns the polite client's latencies beside this kind of sender, and the sender's work per second."""
    assert name is None or name in KINDS, name
    header = b"PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\n" if name and name.startswith("proxy") else b""
    with Sender(name, port, reads) as sender:
        if name is None:
            return latencies(port, seconds, header), {}
        before = sender.stat()
        latencies(port, min(0.5, seconds), header)
        before, begun = sender.stat(), time.monotonic()
        took = latencies(port, seconds, header)
        after, passed = sender.stat(), time.monotonic() - begun
        assert after["sent"] or after["connections"] > THREADS.get(name, 1), f"the sender did next to nothing: {after}"
        return took, {key: (after[key] - before[key]) / passed for key in after}


# --- the table --------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def serving(*options):
    """Starts a server of `probe` and yields its port. Kills it at the end, because a stop waits for all input."""
    program = os.environ.get("MAYPOLE", "target/release/maypole")
    words = [program, "--bind", "127.0.0.1:0", "--access-logfile", "none", "--chdir", str(TESTS / "apps"), *options, "probe"]
    with running(words) as port:
        yield port


@contextlib.contextmanager
def serving_eventlet():
    """Does the same for a server inside a program, whose READS is /upload."""
    with running([sys.executable, "-W", "ignore", str(TESTS / "programs" / "eventlet_app.py"), "maypole"]) as port:
        yield port


@contextlib.contextmanager
def running(words):
    process = subprocess.Popen(words, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    try:
        for line in process.stderr:
            if listening := re.search(r"(?:listening|starting up) on http://127\.0\.0\.1:(\d+)", line):
                threading.Thread(target=collections.deque, args=(process.stderr, 0), daemon=True).start()
                yield int(listening[1])
                break
        else:
            sys.exit(f"{words} does not start")
    finally:
        process.kill()
        process.wait()


def table(seconds=10, *names):
    """Runs each kind on its own server. Kinds that begin with `embedded: ` run on a server inside a program."""
    unknown = [name for name in names if name.removeprefix("embedded: ") not in KINDS]
    if unknown:
        sys.exit(f"no such kind: {', '.join(unknown)}; there are: {', '.join(KINDS)}")
    print(f"| {'kind':<41} | p50 ms | p99 ms | max ms | moved, MB/s | connections/s |")
    print(f"|{'-' * 43}|-------:|-------:|-------:|------------:|--------------:|")
    worst = 0
    for title in names or (None, *KINDS, *(f"embedded: {name}" for name in EMBEDDED)):
        name = title and title.removeprefix("embedded: ")
        with serving_eventlet() if title != name else serving(*(KINDS[name][1] if name else ())) as port:
            try:
                took, rate = measure(name, port, float(seconds), "/sha" if title == name else "/upload")
            except OSError as error:
                print(f"| {title:<41} | the polite client got no answer: {error}", flush=True)
                worst = float("inf")
                continue
        p99 = share(took, 0.99) * 1000
        worst = max(worst, p99)
        figures = (share(took, 0.5) * 1000, p99, took[-1] * 1000, rate.get("sent", 0) / 1e6, rate.get("connections", 0))
        print(f"| {title or 'none, a busy processor':<41} | {figures[0]:6.2f} | {figures[1]:6.1f} | {figures[2]:6.1f} | "
              f"{figures[3]:11.2f} | {figures[4]:13.1f} |", flush=True)
    if worst >= 20:
        sys.exit(f"the p99 has to stay below 20 ms on a machine that does nothing else, and was {worst:.1f} ms")


if __name__ == "__main__":
    {"send": send, "burn": burn, "table": table}[sys.argv[1]](*sys.argv[2:])
