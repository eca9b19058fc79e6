"""Calls the application through a socket, and says what a check needs to be true.

A check is a function of a `Client`. It raises `AssertionError` if the server breaks the rule.
"""

import dataclasses
import json
import time
import uuid

from suite import Verdict
from wire import Connection

CASES = []


@dataclasses.dataclass
class Check:
    """One rule: `run` asks the server, and `note` says what the rule is."""

    name: str
    level: str
    source: str
    run: object
    note: str


def check(level, source="PEP3333", name=None):
    """Adds a check, under the name of its function if there is no other."""

    def add(run):
        called = name or run.__name__
        assert all(other.name != called for other in CASES), f"two checks are called {called}"
        CASES.append(Check(called, level, source, run, (run.__doc__ or "").strip()))
        return run

    return add


class Reply:
    """What came back on one connection. `kept` is None if the server closed it, else whether it still serves."""

    def __init__(self, ident):
        self.ident = ident
        self.first_block = self.response = self.status = self.body = self.kept = None
        self.received, self.faults, self.count, self.surplus, self.closed = b"", ["no response"], 0, 0, False


class Client:
    """Sends requests to one server, and reads the events that the application records and the server's log."""

    def __init__(self, server, slow):
        self.server, self.slow = server, slow

    def judge(self, check):
        """Runs a check and returns the verdict on it."""
        try:
            check.run(self)
            return Verdict(check.name, check.level, check.source, True, "")
        except Exception as error:
            kind = "" if isinstance(error, AssertionError) else f"{type(error).__name__}: "
            return Verdict(check.name, check.level, check.source, False, f"{kind}{error}")

    def call(self, name, method="GET", fields=(), body=b"", path=None, length=True, leave=None, seconds=6):
        """Sends a request on a new connection, and then a second one that shows whether the first was framed well.

        `leave` is `(reset, seconds)`: the client closes the connection after this time, and reads no response.
        """
        reply = Reply(uuid.uuid4().hex[:10])
        connection = Connection(self.server.address, self.slow, [method])
        try:
            lines = [f"{method} {path or f'/{name}?id={reply.ident}'} HTTP/1.1", "Host: h", *fields]
            if body and length:
                lines.append(f"Content-Length: {len(body)}")
            began = time.monotonic()
            connection.send("\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + body)
            if leave:
                connection.until(lambda: len(connection.received) > 200_000, leave[1])
                connection.close(reset=leave[0])
                return reply
            if connection.until(lambda: connection.final or b"first" in connection.received, seconds):
                reply.first_block = time.monotonic() - began
            connection.until(lambda: connection.final, seconds)
            connection.listen(0.1)
            self.record(reply, connection)
            return reply
        finally:
            connection.close()

    def record(self, reply, connection):
        """Fills in the reply, and finds out whether the connection still serves."""
        reply.received, reply.count = connection.received, len(connection.final)
        if connection.final:
            reply.response = connection.final[0]
            reply.status, reply.body = reply.response.status, reply.response.body
            reply.faults = list(reply.response.faults)
        if connection.final and not connection.ended:
            connection.methods = connection.methods[:1] + ["GET"] * 9
            connection.send(b"GET /probe HTTP/1.1\r\nHost: h\r\n\r\n")
            if connection.until(lambda: len(connection.final) > reply.count, 3):
                second = connection.final[reply.count]
                reply.kept = (second.status, second.body) == (200, b"root")
            elif not connection.ended:
                reply.kept = False
        reply.closed = connection.ended
        reply.surplus = len(connection.final) - (reply.count > 0) - (reply.kept is not None)

    def events(self, reply, what=None, seconds=3):
        """Returns what the application recorded in the call, once something is there or the time is over."""
        end = time.monotonic() + seconds * self.slow
        while True:
            connection = Connection(self.server.address, self.slow)
            connection.send(f"GET /events?id={reply.ident} HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n".encode())
            connection.until(lambda: connection.final, 5)
            connection.close()
            recorded = json.loads(connection.final[0].body) if connection.final else []
            found = [event for event in recorded if what in (None, event["what"])]
            if found or time.monotonic() > end:
                return found
            time.sleep(0.1)

    def logged(self, text, seconds=2.0):
        """Returns whether the server's log has this text, or gets it within the time."""
        end = time.monotonic() + seconds * self.slow
        while not (found := text in self.server.text()) and time.monotonic() < end:
            time.sleep(0.1)
        return found

    def alive(self):
        reply = self.call("it_list")
        need(reply.status == 200 and reply.body == b"abc", "the server no longer responds")

    def is_500(self, reply):
        need(reply.status == 500, f"status {reply.status} {(reply.body or b'')[:40]!r}")
        need(not reply.faults, reply.faults)
        need(reply.kept in (True, None), "the connection is out of step")
        self.alive()


def need(condition, text):
    if not condition:
        raise AssertionError(text)


def came(reply):
    """Without this, a check that looks for something absent would pass if no response came at all."""
    need(reply.response is not None, "no response")
    return reply


def good(reply, body=b"abc", status=200):
    need(reply.status == status, f"status {reply.status}")
    need(not reply.faults, reply.faults)
    need(reply.body == body, f"body {reply.body[:60]!r}")
    need(reply.kept in (True, None), "the connection is out of step afterwards")
    return reply


def cut(reply):
    """The response had begun, and the client must see that it was cut short."""
    came(reply)
    short = any("cut short" in fault or "shorter" in fault for fault in reply.faults)
    need(reply.status == 500 or short, f"looks complete to the client: {reply.response.framing} {reply.body[:30]!r}")
    need(reply.closed, "the connection stayed open")
