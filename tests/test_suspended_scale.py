"""Thousands of suspended responses: their threads, their memory, a broadcast to all, and clients that leave together.

`SUBSCRIBERS=10000` in the environment makes the crowd larger, and `pytest -s` shows the figures.
"""

import json
import os
import resource
import select
import socket
import struct
import time

import pytest

from client import PATIENCE
from process import eventually

SUBSCRIBERS = int(os.environ.get("SUBSCRIBERS", 400))
OPEN, EVENT = b": open\n\n", b"data: event\n\n"


class Crowd:
    """Clients whose responses are suspended, on one thread."""

    def __init__(self, port, number, path="/subscribe"):
        resource.setrlimit(resource.RLIMIT_NOFILE, (resource.getrlimit(resource.RLIMIT_NOFILE)[1],) * 2)
        self.poll = select.epoll()
        self.sockets = {}
        for at in range(number):
            # One address of this machine has too few ports for very many clients.
            client = socket.create_connection(("127.0.0.1", port), PATIENCE, (f"127.0.1.{at % 200 + 1}", 0))
            client.sendall(f"GET {path} HTTP/1.1\r\nHost: test.example\r\n\r\n".encode())
            client.setblocking(False)
            self.sockets[client.fileno()] = client
            self.poll.register(client, select.EPOLLIN)

    def read(self, mark):
        """Reads until each client has received `mark` once more."""
        waiting, end = set(self.sockets), time.monotonic() + 3 * PATIENCE
        while waiting:
            assert time.monotonic() < end, f"{len(waiting)} clients have got nothing"
            for number, _ in self.poll.poll(1):
                if mark in self.sockets[number].recv(4096):
                    waiting.discard(number)

    def leave(self, number, reset=False):
        for _ in range(number):
            client = self.sockets.popitem()[1]
            if reset:
                client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            client.close()


@pytest.fixture
def crowded(server):
    running = server("subscribers")

    def ask(path):
        return json.loads(running.get(path).body)

    return running, ask


def test_crowd_of_subscribers(crowded):
    running, ask = crowded
    ask("/numbers")
    before = ask("/numbers")
    crowd = Crowd(running.port, SUBSCRIBERS)
    crowd.read(OPEN)
    eventually(lambda: ask("/numbers")["waiting"] == SUBSCRIBERS, what="all wait")
    during = ask("/numbers")
    memory = (during["memory"] - before["memory"]) / SUBSCRIBERS
    print(f"\n{SUBSCRIBERS} subscribers: {during['threads']} threads, {memory / 1024:.2f} KiB each")
    # More than the pool holds by default, or threads exist. On a busy machine, calls may look as if they waited, and get
    # more threads for some time.
    eventually(lambda: ask("/numbers")["threads"] <= 16, 60, "few threads")
    assert during["generators"] == SUBSCRIBERS
    for _ in range(3):
        began = time.monotonic()
        told = ask("/broadcast")
        crowd.read(EVENT)
        print(f"broadcast: {time.monotonic() - began:.3f} s until all have it, {told['seconds']:.3f} s for the calls")
        assert told["resumed"] == SUBSCRIBERS
        eventually(lambda: ask("/numbers")["waiting"] == SUBSCRIBERS, what="all wait again")
    after = ask("/numbers")
    print(f"after broadcasts: {after['threads']} threads, {(after['memory'] - before['memory']) / SUBSCRIBERS / 1024:.2f} KiB each")
    eventually(lambda: ask("/numbers")["threads"] <= 16, 60, "few threads after the broadcasts")
    began = time.monotonic()
    crowd.leave(SUBSCRIBERS // 2)
    left = time.monotonic()
    eventually(lambda: ask("/numbers")["closed"] == SUBSCRIBERS // 2, what="that the iterables of clients that left are closed")
    print(f"{SUBSCRIBERS // 2} left within {left - began:.3f} s: closed {time.monotonic() - left:.3f} s later")
    crowd.leave(len(crowd.sockets))
    ask("/forget")
    numbers = eventually(
        lambda: (seen := ask("/numbers"))["closed"] == SUBSCRIBERS and seen["descriptors"] <= before["descriptors"] and seen,
        what="all are closed",
    )
    # No generator is left.
    assert (numbers["generators"], numbers["waiting"]) == (0, 0)
    print(f"after all: {(numbers['memory'] - before['memory']) / 1024:.0f} KiB more than before, {numbers['threads']} threads")


@pytest.mark.parametrize("path, first", [("/subscribe", OPEN), ("/events", b":\n\n")], ids=["generators", "sse"])
def test_subscribers_that_are_killed_leave_nothing(crowded, path, first):
    if path == "/events":
        pytest.importorskip("maypole.sse")
    running, ask = crowded
    closed = 0

    def come_and_go(number):
        """Lets clients come, and breaks all their connections off. Returns the numbers once all is over."""
        nonlocal closed
        crowd = Crowd(running.port, number, path)
        crowd.read(first)
        eventually(lambda: ask("/numbers")["generators"] == number, what="all streams")
        closed += number
        began = time.monotonic()
        crowd.leave(number, reset=True)
        left = time.monotonic()
        eventually(lambda: ask("/numbers")["closed"] == closed, what="that all are closed")
        print(f"\n{number} were killed within {left - began:.3f} s: closed {time.monotonic() - left:.3f} s later")
        ask("/forget")
        return eventually(lambda: (seen := ask("/numbers"))["generators"] == 0 and seen, what="no stream")

    # The first ones start threads, and load what is loaded once.
    before = come_and_go(20)
    after = come_and_go(SUBSCRIBERS)
    assert (after["subscribers"], after["waiting"]) == (0, 0)
    assert after["threads"] <= 16 and after["descriptors"] <= before["descriptors"] + 1
    # One object for each of them would be left if something had a reference.
    assert after["objects"] - before["objects"] < SUBSCRIBERS / 4, (before, after)
