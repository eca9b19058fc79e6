"""The clients of the storm: each kind sends requests in its own way, and knows what became of each.

*Runs on*: the loop of asyncio. *Invariants*: a request has exactly one outcome: its response was right, or it is lost.
A connection that closes at rest is lost, too. Whether a loss is excused is decided at the end, when it is known which
connections a killed worker had.
"""

import asyncio
import collections
import dataclasses
import hashlib
import itertools
import random
import socket
import time

#: The longest time for one response. Nothing in a storm takes as long.
PATIENCE = 60
KINDS = {}


def kind(count):
    """A kind of client: a function of a `Client`. `count` is how many clients of 100 are of this kind."""

    def register(function):
        KINDS[function.__name__] = (function, count)
        return function

    return register


@dataclasses.dataclass
class Loss:
    """A request without its response, or a connection that was closed at rest."""

    kind: str
    names: list
    port: int
    at: float
    why: str


class Wrong(Exception):
    """A response is not as it should be."""


class Storm:
    """What all clients share: the addresses, the outcomes, and the moments of events."""

    def __init__(self, addresses):
        self.addresses = addresses
        self.numbers = itertools.count(1)
        self.answered = {}
        self.losses = []
        self.counts = collections.Counter()
        self.slowest = collections.Counter()
        self.over = asyncio.Event()
        #: Is set at each event, so that idle clients send just then.
        self.event = asyncio.Event()
        #: The oldest version that a new request may get.
        self.version = 0

    async def pause(self, seconds):
        """Waits, or returns early at the end of the storm."""
        try:
            await asyncio.wait_for(self.over.wait(), seconds)
        except TimeoutError:
            pass

    async def repeat(self, kind, address):
        while not self.over.is_set():
            client = Client(self, kind, address)
            try:
                await client.open()
                await KINDS[kind][0](client)
            except (OSError, asyncio.IncompleteReadError, asyncio.TimeoutError, Wrong) as error:
                why = f"{type(error).__name__}: {error}"[:200]
                self.losses.append(Loss(kind, list(client.open_requests), client.port, time.time(), why))
                # Clients do not come back all at once.
                await self.pause(random.uniform(0, 0.5))
            finally:
                await client.close()


class Client:
    """A connection."""

    def __init__(self, storm, kind, address):
        self.storm, self.kind, self.address = storm, kind, address
        self.port, self.writer = 0, None
        #: The requests without a response: the name, and when it was sent and with which version at least.
        self.open_requests = {}

    async def open(self):
        is_unix = self.address.startswith("unix:")
        connection = socket.socket(socket.AF_UNIX if is_unix else socket.AF_INET)
        connection.setblocking(False)
        is_slow = self.kind == "reads_slowly"
        if is_slow:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 16 << 10)
        target = self.address[5:] if is_unix else ("127.0.0.1", int(self.address.rpartition(":")[2]))
        try:
            await asyncio.get_running_loop().sock_connect(connection, target)
            self.reader, self.writer = await asyncio.open_connection(sock=connection, limit=(8 << 10) if is_slow else (1 << 20))
        except BaseException:
            connection.close()
            raise
        self.port = 0 if is_unix else connection.getsockname()[1]

    async def close(self):
        if self.writer is not None:
            self.writer.close()

    async def send(self, data):
        self.writer.write(data)
        await asyncio.wait_for(self.writer.drain(), PATIENCE)

    def name(self):
        name = f"{self.kind}-{next(self.storm.numbers)}"
        self.open_requests[name] = (time.monotonic(), self.storm.version)
        return name

    def head(self, kind, query="", fields=(), method="GET"):
        """Returns the name of a new request and its head."""
        name = self.name()
        lines = [f"{method} /{kind}/{name}?{query} HTTP/1.1", "Host: storm", *fields]
        return name, ("\r\n".join(lines) + "\r\n\r\n").encode()

    async def get(self, kind="work", query="", fields=()):
        name, head = self.head(kind, query, fields)
        await self.send(head)
        await self.response(name, closes=bool(fields))

    async def response(self, name, body=b"", closes=False, read=None):
        """Reads a response and compares it with what it should be."""
        head = await asyncio.wait_for(self.reader.readuntil(b"\r\n\r\n"), PATIENCE)
        status, *lines = head.decode().split("\r\n")[:-2]
        fields = {key.lower(): value for key, value in (line.split(": ", 1) for line in lines)}
        length = int(fields.get("content-length", -1))
        read = read or self.reader.readexactly
        text = await asyncio.wait_for(read(length), PATIENCE)
        if not status.startswith("HTTP/1.1 200"):
            raise Wrong(f"{status} {text[:100]!r}")
        line, _, rest = text.partition(b"\n")
        answered, pid, version = line.decode().split(" ")
        sent, floor = self.open_requests[name]
        if answered != name or rest != body:
            raise Wrong(f"the response of another request, or not whole: {line!r} and {len(rest)} bytes for {name}")
        if int(version) < floor:
            raise Wrong(f"version {version} after the reload to version {floor}")
        if ("close" in fields.get("connection", "")) != closes:
            raise Wrong(f"the field Connection is {fields.get('connection')}")
        del self.open_requests[name]
        self.storm.answered[name] = int(pid)
        self.storm.counts[self.kind] += 1
        took = time.monotonic() - sent
        self.storm.slowest[self.kind] = max(self.storm.slowest[self.kind], took)

    def check_open(self):
        """Checks that the server has not closed the connection at rest."""
        if self.reader.at_eof() or self.writer.transport.is_closing():
            raise Wrong("the connection was closed at rest")


@kind(24)
async def keeps_alive(self):
    while not self.storm.over.is_set():
        await self.get("work", f"ms={random.choice([0, 0, 1, 20])}")
        await self.storm.pause(random.uniform(0, 0.4))


@kind(8)
async def comes_anew(self):
    await self.get("work", fields=["Connection: close"])
    if await self.reader.read(1):
        raise Wrong("more bytes after the last response")
    await self.storm.pause(random.uniform(0, 0.3))


@kind(10)
async def pipelines(self):
    while not self.storm.over.is_set():
        requests = [self.head("work", f"ms={random.choice([0, 2])}") for _ in range(random.randrange(2, 9))]
        data = b"".join(head for _, head in requests)
        # The last piece often ends within a head.
        cut = random.randrange(len(data))
        await self.send(data[:cut])
        await self.storm.pause(random.choice([0, 0, 0.05]))
        await self.send(data[cut:])
        for name, _ in requests:
            await self.response(name)
        await self.storm.pause(random.uniform(0, 1))


@kind(12)
async def sends_slowly(self):
    while not self.storm.over.is_set():
        body = random.randbytes(random.randrange(1, 20_000))
        name, head = self.head("digest", "", [f"Content-Length: {len(body)}"], "POST")
        data, pieces = head + body, random.randrange(3, 12)
        for at in range(0, len(data), size := len(data) // pieces + 1):
            await self.send(data[at:at + size])
            await asyncio.sleep(random.uniform(0, 0.3))
        await self.response(name, hashlib.sha256(body).hexdigest().encode())
        await self.storm.pause(random.uniform(0, 0.5))


@kind(8)
async def reads_slowly(self):
    async def read(length):
        pieces, left = [], length
        while left:
            await asyncio.sleep(random.uniform(0, 0.2))
            piece = await self.reader.read(min(left, length // 8 + 1))
            if not piece:
                raise asyncio.IncompleteReadError(b"".join(pieces), length)
            pieces.append(piece)
            left -= len(piece)
        return b"".join(pieces)

    while not self.storm.over.is_set():
        kib = random.choice([16, 64])
        name, head = self.head("much", f"kib={kib}")
        await self.send(head)
        await self.response(name, name.encode() * (kib << 10), read=read)
        await self.storm.pause(random.uniform(0, 0.5))


@kind(36)
async def rests(self):
    """Is idle for long, and sends at any moment, often just when something happens."""
    while not self.storm.over.is_set():
        await self.get()
        if random.random() < 0.7:
            waits = [asyncio.ensure_future(wait) for wait in (self.storm.event.wait(), self.storm.over.wait())]
            await asyncio.wait(waits, timeout=random.uniform(5, 20), return_when=asyncio.FIRST_COMPLETED)
            for wait in waits:
                wait.cancel()
            await self.storm.pause(random.expovariate(4))
        else:
            await self.storm.pause(random.uniform(1, 10))
        self.check_open()


@kind(2)
async def makes_workers_grow(self):
    while not self.storm.over.is_set():
        await self.get("keep", "kib=4096")
        await self.storm.pause(0.2)
