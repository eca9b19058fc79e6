#!/usr/bin/env python3
"""Serves clients of every kind at once for a long time, and checks for leaks: soak.py MINUTES

The load comes in cycles. Each cycle ends with a burst and a rest without clients. In each rest the server must have as
many descriptors as at the start, and as much memory as in the first rest, which ends the warm-up. Memory counts twice:
the allocations of C and Python, nearly to the byte, and the resident size, roughly. After the last rest there must be
as many threads as at the start. Each response is compared with the expected one, and each error with a provoked one.
"""

import collections
import contextlib
import hashlib
import json
import pathlib
import random
import select
import sys
import threading
import time

import pytest

sys.path.append(str(pathlib.Path(__file__).resolve().parent.parent / "tests"))

from client import BODY_PIECE, PATIENCE, Closed, pattern_sha
from process import all_descriptors, eventually, factory

CYCLES = 10
# How much more a rest may have than the first one. The allocator cannot always return free memory between used blocks.
# A leak of a few bytes per request exceeds the margin for used memory within an hour.
GROWTH_MAX = {"rss_mib": 128, "used_mib": 4, "python_blocks": 20_000}
# The server makes some eventfds when it first needs them, and keeps them.
DESCRIPTORS_KEPT_MAX = 6
# The thread that writes temporary files starts with the first file.
THREADS_KEPT_MAX = 1
# The number of clients of each kind. Server and tests share a machine, and most clients wait.
CLIENTS_OF_A_KIND = 2
BURST_CLIENTS = 400
FAILURES_MAX = 10
# An application thread ends when it has had nothing to do for 10 s.
THREADS_PATIENCE = PATIENCE + 15
KIB, MIB = 1 << 10, 1 << 20

KINDS = {}


def kind(function):
    """A kind of client: a function of the run, which is called repeatedly."""
    KINDS[function.__name__] = function
    return function


def expect(response, status, body=None):
    assert response.status == status, f"{response} instead of {status}"
    if body is not None:
        body = body if isinstance(body, bytes) else body.encode()
        assert response.body == body, f"{len(response.body)} bytes {response.body[:60]!r} instead of {len(body)} {body[:60]!r}"


def pattern(size):
    return (BODY_PIECE * (size // len(BODY_PIECE) + 1))[:size]


def digest(body, declared):
    """Returns the response of /sha."""
    return f"{len(body)} {hashlib.sha256(body).hexdigest()} {declared}"


def in_chunks(body, size):
    pieces = (body[at:at + size] for at in range(0, len(body), size))
    return b"".join(b"%x\r\n%s\r\n" % (len(piece), piece) for piece in pieces) + b"0\r\n\r\n"


@kind
def keeps_alive(run):
    with run.client() as client:
        for _ in range(random.randrange(1, 100)):
            expect(client.get("/"), 200, "Hello, World!\n")
            run.count()
            if random.random() < 0.05:
                size = random.randrange(1, 200 * KIB)
                expect(client.get(f"/whole?n={size}"), 200, pattern(size))
                run.count()


@kind
def comes_anew(run):
    with run.client() as client:
        expect(client.get("/", *random.choice([(), ("Connection: close",)])), 200, "Hello, World!\n")
        run.count()


@kind
def uploads_little(run):
    with run.client() as client:
        for _ in range(20):
            body = random.randbytes(random.randrange(0, 100 * KIB))
            if random.random() < 0.5:
                expect(client.post("/sha", body), 200, digest(body, len(body)))
            else:
                client.request("POST /sha HTTP/1.1", "Transfer-Encoding: chunked", body=in_chunks(body, random.randrange(1000, 30000)))
                expect(client.response("POST"), 200, digest(body, len(body)))
            run.count()


@kind
def uploads_much(run):
    with run.client() as client:
        body = pattern(random.randrange(MIB, 8 * MIB))
        if random.random() < 0.5:
            client.request("POST /sha HTTP/1.1", f"Content-Length: {len(body)}", "Expect: 100-continue")
            expect(client.head(), 100)
            client.send(body)
        else:
            client.request("POST /sha HTTP/1.1", "Transfer-Encoding: chunked", body=in_chunks(body, 50_000))
        expect(client.response("POST"), 200, digest(body, len(body)))
        run.count()
        run.pause(0.5)


@kind
def reads_slowly(run):
    with run.client(receive_buffer=8 * KIB) as client:
        size = random.choice([300 * KIB, 5 * MIB, 9 * MIB])
        path, seconds = random.choice(["big", "whole"]), random.uniform(0.5, 2)
        client.request(f"GET /{path}?n={size} HTTP/1.1", "Connection: close")
        expect(client.head(), 200)
        hashed, have = hashlib.sha256(), 0
        while have < size and not run.over():
            piece = client.read_exactly(min(size - have, size // 20))
            hashed.update(piece)
            have += len(piece)
            run.pause(seconds / 20)
        if have == size:
            assert hashed.hexdigest() == pattern_sha(size)
            client.assert_closed()
            run.count()


@kind
def drips_and_gives_up(run):
    with run.client() as client:
        if random.random() < 0.5:
            client.send(b"POST /sha HTTP/1.1\r\nHost: a\r\nContent-Length: 100000\r\n\r\n")
        for byte in b"GET /x HTTP/1.1\r\nHost: a\r\nX-Long: aaaaaaaaaaaaa"[:random.randrange(1, 50)]:
            client.send(bytes([byte]))
            run.pause(0.02)
        if random.random() < 0.5:
            client.reset()
        run.count()


@kind
def is_idle(run):
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(run.client()) for _ in range(30)]
        for client in clients:
            expect(client.get("/"), 200, "Hello, World!\n")
            run.count()
        run.pause(random.uniform(0.1, 3))
        for client in random.sample(clients, 5):
            expect(client.get("/"), 200, "Hello, World!\n")
            run.count()


@kind
def leaves_in_the_middle(run):
    with run.client() as client:
        choice = random.randrange(5)
        if choice == 0:
            client.request(f"GET /big?n={64 * MIB} HTTP/1.1").read_exactly(random.randrange(1, 300 * KIB))
        elif choice == 1:
            client.request(f"GET /blocks?n={64 * MIB} HTTP/1.1").read_exactly(random.randrange(1, 300 * KIB))
        elif choice == 2:
            client.request("POST /sha HTTP/1.1", f"Content-Length: {8 * MIB}", body=pattern(random.randrange(2 * MIB)))
        elif choice == 3:
            client.request("POST /sha HTTP/1.1", "Transfer-Encoding: chunked", body=in_chunks(pattern(300 * KIB), 10_000)[:-5])
        else:
            client.request("GET /sleep?s=0.05 HTTP/1.1")
        if random.random() < 0.5:
            client.reset()
        run.count()
    run.pause(0.05)


@kind
def pipelines(run):
    with run.client() as client:
        sizes = [random.choice([0, 10, 5000]) for _ in range(20)]
        requests = [b"POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n%s" % (size, pattern(size)) for size in sizes]
        client.send(b"".join(requests))
        for size in sizes:
            expect(client.response("POST"), 200, pattern(size))
            run.count()


@kind
def asks_for_heads(run):
    with run.client() as client:
        for _ in range(10):
            response = client.get("/big?n=70000", method="HEAD")
            expect(response, 200, b"")
            assert response.get("Content-Length") == "70000", response
            expect(client.get("/"), 200, "Hello, World!\n")
            run.count(2)


@kind
def provokes_errors(run):
    with run.client() as client:
        expect(client.get("/fail"), 500)
        run.count()
    with run.client() as client:
        expect(client.get("/status?s=503%20Later"), 503, "a body")
        expect(client.get("/status?s=204%20None"), 204, b"")
        expect(client.get("/nowhere"), 404, "no such route")
        expect(client.post("/unread", random.randbytes(20 * KIB)), 200, "not read")
        run.count(4)
    with run.client() as client:
        expect(client.send(b"GET / HTTP/1.1\r\nHost: a\r\nContent-Length: x\r\n\r\n").response(), 400)
        client.assert_closed()
        run.count()
    # Each request leaves a traceback or a line in the log.
    run.pause(1)


@kind
def takes_streams(run):
    with run.client() as client:
        for _ in range(5):
            size = random.randrange(0, MIB)
            expect(client.get(f"/blocks?n={size}"), 200, pattern(size))
            run.count()
    with run.client() as client:
        # The response is HTTP/1.0, which has no chunks.
        client.send(f"GET /blocks?n={size} HTTP/1.0\r\n\r\n")
        expect(client.response(), 200, pattern(size))
        run.count()


@kind
def waits(run):
    with run.client() as client:
        expect(client.get(f"/sleep?s={random.choice([0.001, 0.01, 0.2])}"), 200, "slept")
        run.count()


class Run:
    """The load on one server, and its results."""

    def __init__(self, server):
        self.server = server
        self.counts = collections.Counter()
        self.failures = []
        self.deadline = 0
        self.peaks = collections.Counter()
        self.mine = threading.local()

    def client(self, **more):
        return self.server.client(**more)

    def count(self, requests=1):
        self.counts[self.mine.kind] += requests

    def over(self):
        return time.monotonic() > self.deadline or len(self.failures) >= FAILURES_MAX

    def pause(self, seconds):
        time.sleep(max(0, min(seconds, self.deadline - time.monotonic())))

    def repeat(self, name):
        self.mine.kind = name
        while not self.over():
            try:
                KINDS[name](self)
            except (AssertionError, Closed, OSError) as error:
                self.failures.append(f"{name}: {type(error).__name__}: {str(error)[:500]}")

    def look(self):
        for name, value in self.figures().items():
            self.peaks[name] = max(self.peaks[name], value)

    def figures(self):
        return {"rss_mib": self.server.status("VmRSS") / 1024, "descriptors": self.server.descriptors(), "threads": self.server.status("Threads")}

    def load(self, seconds):
        """Runs all kinds of clients at once for this time."""
        self.deadline = time.monotonic() + seconds
        clients = [threading.Thread(target=self.repeat, args=[name]) for name in KINDS for _ in range(CLIENTS_OF_A_KIND)]
        for client in clients:
            client.start()
        while not self.over():
            self.look()
            self.pause(0.25)
        for client in clients:
            client.join(PATIENCE * 3)
        assert not any(client.is_alive() for client in clients), "a client does not end"

    def burst(self):
        """Runs many clients at once, each with the largest body that stays in memory. Half leave before the response."""
        body = pattern(48 * KIB)
        half = len(body) // 2
        with contextlib.ExitStack() as stack:
            clients = [stack.enter_context(self.client()) for _ in range(BURST_CLIENTS)]
            for client in clients:
                client.request("POST /echo HTTP/1.1", f"Content-Length: {len(body)}", body=body[:half])
            self.look()
            for client in clients[::2]:
                client.send(body[half:])
            for client in clients[::2]:
                select.select([client.socket], [], [], PATIENCE)
            self.look()
            for client in clients[::2]:
                expect(client.response("POST"), 200, body)
                self.counts["burst"] += 1
            for client in clients[1::2]:
                client.reset()

    def rest(self, first, base):
        """Measures descriptors, threads and memory without any client."""
        most = base["descriptors"] if base else first["descriptors"] + DESCRIPTORS_KEPT_MAX
        eventually(lambda: self.server.descriptors() <= most, what=f"{most} descriptors or fewer in rest")
        # The allocators return memory within this time.
        time.sleep(2)
        left = self.figures() | json.loads(self.server.get("/memory").body)
        for name, most in GROWTH_MAX.items() if base else ():
            assert left[name] - base[name] <= most, f"{name} is {left[name]:,}, and was {base[name]:,} in the first rest"
        return left


def soak(server, seconds, cycles=CYCLES, say=print):
    """Runs the soak test. A failed assertion says what is wrong."""
    run = Run(server)
    expect(server.get("/"), 200)
    first, base = run.figures(), None
    say(f"at first: {described(first)}")
    for cycle in range(1, cycles + 1):
        run.load(seconds / cycles)
        run.burst()
        assert not run.failures, f"{len(run.failures)} wrong answers:\n" + "\n".join(run.failures)
        left = run.rest(first, base)
        say(f"cycle {cycle}: {run.counts.total():,} answers; at most {described(run.peaks)}; in rest {described(left)}")
        base = base or left
    most = first["threads"] + THREADS_KEPT_MAX
    eventually(lambda: server.status("Threads") <= most, THREADS_PATIENCE, f"{most} threads or fewer of {server.thread_names()}")
    expect(server.get("/"), 200, "Hello, World!\n")
    missing = [name for name in KINDS if not run.counts[name]]
    assert not missing, f"no answers for {missing}"
    say("answers: " + ", ".join(f"{name} {count:,}" for name, count in sorted(run.counts.items())))
    return run


def described(figures):
    used = f" ({figures['used_mib']:.2f} in use, {figures['python_blocks']:,} blocks of Python)" if "used_mib" in figures else ""
    return f"{figures['rss_mib']:.1f} MiB{used}, {figures['descriptors']} descriptors, {figures['threads']} threads"


def start(factory_start):
    """Starts the server with its defaults, except for a longer queue for bursts."""
    return factory_start("soaking", "--backlog", "1024", preexec_fn=all_descriptors)


def main():
    minutes = float(sys.argv[1])
    all_descriptors()
    with factory() as factory_start:
        server = start(factory_start)
        try:
            soak(server, minutes * 60, say=lambda line: print(time.strftime("%H:%M:%S"), line, flush=True))
        except (AssertionError, pytest.fail.Exception) as error:
            print(f"the end of the error log:\n{server.err.text()[-3000:]}", file=sys.stderr)
            sys.exit(f"soak: {error}")
    print("soak: all is well")


if __name__ == "__main__":
    main()
