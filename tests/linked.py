"""Starts processes with a link of their own, so that the test is the supervisor and sends the messages itself."""

import contextlib
import json
import os
import socket

import pytest

import scoreboard
from client import PATIENCE, Client
from process import MAYPOLE


class Worker:
    """A worker that has been told its place."""

    def __init__(self, server, *words, **place):
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"http://127.0.0.1:{self.listener.getsockname()[1]}"
        self.scoreboard = scoreboard.create()
        self.link, end = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.link.settimeout(PATIENCE)
        with end:
            number = end.fileno()
            environment = {"_MAYPOLE_LINK": str(number)}
            self.process = server("unread", command=[MAYPOLE], ready=False, env=environment, pass_fds=[number])
        words = ["maypole", "--access-logfile", "none", *map(str, words)]
        start = {"number": 2, "workers": 3, "words": words, **place}
        self.send("start", self.scoreboard, self.listener.fileno(), **start)

    def send(self, command, *descriptors, **more):
        socket.send_fds(self.link, [json.dumps({"command": command, **more}).encode()], descriptors)

    def receive(self):
        """Returns the next event."""
        return json.loads(self.link.recv(1 << 16))

    def client(self):
        return Client(self.address)

    def hold(self, client):
        """Sends a request that stays inside `probe` until /release/it, and returns once it is there."""
        client.request("GET /hold/it HTTP/1.1")
        with self.client() as asks:
            assert asks.get("/held/it").body == b"yes"

    def end(self):
        """Returns the exit code."""
        return self.process.wait()


@pytest.fixture
def worker(server):
    with contextlib.ExitStack() as stack:

        def start(*words, **place):
            started = Worker(server, *words, **place)
            stack.callback(started.link.close)
            stack.callback(started.listener.close)
            stack.callback(os.close, started.scoreboard)
            return started

        yield start


def ready(worker):
    event = worker.receive()
    assert event["event"] == "ready" and event["python"].startswith("CPython 3."), event
    return worker
