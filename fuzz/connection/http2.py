#!/usr/bin/env python3
"""Sends damaged connections of HTTP/2 to a real server: `http2.py --help`.

Each connection follows from the seed and its number alone: requests in frames (RFC 9113), of which some are damaged.
There is no model of the responses. The server must not end, must end each connection, must serve well-formed clients
beside the others, and must keep nothing of a connection afterwards. A finding goes to a file, and `--replay` sends it
again.
"""

import argparse
import collections
import json
import os
import pathlib
import random
import selectors
import socket
import sys
import time

import serve
from model import Limits

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS, PUSH_PROMISE, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = range(10)
END_STREAM, ACK, END_HEADERS, PADDED, WITH_PRIORITY = 1, 1, 4, 8, 32
BATCH, WIDTH = 100, 25
FINDINGS_MAX = 20
#: The server closes each connection within its time limits, which are below. A busy machine may need longer.
TIMES = ("--header-timeout", "1s", "--body-timeout", "1s", "--write-timeout", "1s", "--keep-alive", "1s", "--http2-keep-alive", "500ms")
PATIENCE = 60
PATHS = ("/all", "/none", "/some", "/lines", "/echo", "/early", "/file", "/write", "/raise", "/late", "/nocontent", "/big", "/blocks",
         "/short", "/over", "*", "", "/%", "/" + "x" * 500)
METHODS = ("GET", "POST", "HEAD", "PUT", "OPTIONS", "CONNECT", "get", "PRI")


def frame(kind, flags=0, stream=0, payload=b""):
    return len(payload).to_bytes(3) + bytes([kind & 255, flags & 255]) + (stream & 0xFFFFFFFF).to_bytes(4) + payload


def number(value, bits, first=0):
    """Encodes a number with a prefix (RFC 7541 §5.1)."""
    most = (1 << bits) - 1
    if value < most:
        return bytes([first | value])
    encoded, value = [first | most], value - most
    while value >= 128:
        encoded.append(value & 127 | 128)
        value >>= 7
    return bytes([*encoded, value])


def text(data):
    return number(len(data), 7) + data


def field(chance, name, value):
    """Encodes a field: in the table of the connection, beside it, or never in it."""
    first, bits = chance.choice(((0x40, 6), (0, 4), (0x10, 4)))
    return number(0, bits, first) + text(name) + text(value)


def block(chance):
    """Returns the header block of a request, which may be wrong."""
    path, method = chance.choice(PATHS), chance.choices(METHODS, [20, 12, 4, 2, 1, 1, 1, 1])[0]
    fields = [(b":method", method.encode()), (b":scheme", b"http"), (b":path", path.encode()), (b":authority", b"h")]
    for _ in range(chance.choice((0, 0, 1, 3))):
        fields.append(chance.choice((
            (b"cookie", b"a=1"), (b"accept", b"*/*"), (b"content-length", b"%d" % chance.choice((0, 5, 70_000))),
            (b"expect", b"100-continue"), (b"te", b"trailers"), (b"x-long", b"y" * chance.choice((10, 299, 400, 3000))),
            (b"connection", b"close"), (b"upgrade", b"websocket"), (b"host", b"other"), (b"X-Upper", b"1"), (b":status", b"200"),
            (b":protocol", b"websocket"), (b"x-space", b" a "), (b"transfer-encoding", b"chunked"), (b"x-newline", b"a\nb"))))
    if chance.random() < 0.15:
        chance.shuffle(fields)
    if chance.random() < 0.1:
        fields.pop(chance.randrange(len(fields)))
    encoded = b"".join(field(chance, *pair) for pair in fields)
    if chance.random() < 0.05:
        # References to the table, many of them to nothing.
        encoded += bytes(chance.randrange(128, 256) for _ in range(chance.choice((1, 20, 2000))))
    return encoded


def request(chance, stream):
    """Returns the frames of a request."""
    encoded, has_body = block(chance), chance.random() < 0.4
    flags = 0 if has_body else END_STREAM
    if chance.random() < 0.15:
        cut = chance.randrange(len(encoded) + 1)
        frames = [frame(HEADERS, flags, stream, encoded[:cut]), frame(CONTINUATION, END_HEADERS, stream, encoded[cut:])]
    elif chance.random() < 0.1:
        frames = [frame(HEADERS, flags | END_HEADERS | PADDED | WITH_PRIORITY, stream, b"\x02" + b"\0\0\0\0\x07" + encoded + b"\0\0")]
    else:
        frames = [frame(HEADERS, flags | END_HEADERS, stream, encoded)]
    if has_body:
        for _ in range(chance.choice((1, 1, 2, 5))):
            frames.append(frame(DATA, 0, stream, b"z" * chance.choice((0, 1, 5, 1000, 16_384))))
        if chance.random() < 0.2:
            frames.append(frame(HEADERS, END_HEADERS | END_STREAM, stream, field(chance, b"x-trailer", b"1")))
        elif chance.random() < 0.9:
            frames.append(frame(DATA, END_STREAM, stream, b""))
    if chance.random() < 0.15:
        frames.append(frame(RST_STREAM, 0, stream, chance.choice((0, 7, 8)).to_bytes(4)))
    if chance.random() < 0.2:
        frames.append(frame(WINDOW_UPDATE, 0, stream, chance.choice((0, 1, 100_000, 2**31 - 1)).to_bytes(4)))
    return frames


def other(chance, stream):
    """Returns a frame that is no part of a request."""
    window = chance.choice((0, 1, 65_535, 1 << 20, 2**31 - 1, 2**31)).to_bytes(4)
    return chance.choice((
        frame(SETTINGS, 0, 0, chance.choice((b"\0\4", b"\0\1", b"\0\5", b"\0\3", b"\xff\xff")) + window),
        frame(SETTINGS, ACK), frame(PING, chance.choice((0, ACK)), 0, b"12345678"), frame(WINDOW_UPDATE, 0, 0, window),
        frame(PRIORITY, 0, stream, b"\0\0\0\1\0"), frame(GOAWAY, 0, 0, bytes(4) + chance.choice((0, 2)).to_bytes(4)),
        frame(PUSH_PROMISE, END_HEADERS, stream, bytes(4)), frame(chance.randrange(10, 256), chance.randrange(256), stream, b"?")))


def damage(chance, data):
    """Changes bytes."""
    changed = bytearray(data)
    for _ in range(chance.choice((1, 1, 2, 5))):
        at = chance.randrange(len(changed) + 1)
        match chance.randrange(5):
            case 0 if at < len(changed):
                changed[at] ^= 1 << chance.randrange(8)
            case 1 if at < len(changed):
                changed[at] = chance.choice((0, 1, 127, 128, 255))
            case 2:
                changed[at:at] = bytes(chance.randrange(256) for _ in range(chance.choice((1, 4, 9))))
            case 3:
                del changed[at:at + chance.choice((1, 4, 9))]
            case _:
                changed[at:at] = changed[at:at + 30]
    return bytes(changed)


def connection(seed, index):
    """Returns a connection: the pieces of its bytes, and what its client does at the end."""
    chance = random.Random(f"{seed}/{index}")
    queues = []
    for stream in range(1, 2 * chance.choice((1, 2, 5, 30)), 2):
        queues.append(request(chance, stream))
    frames = [frame(SETTINGS, 0, 0, chance.choice((b"", b"\0\4\0\0\0\0", b"\0\4\0\x0f\0\0", b"\0\5\0\0\x40\0")))]
    while queues:
        queue = queues[0] if chance.random() < 0.7 else chance.choice(queues)
        frames.append(queue.pop(0))
        if not queue:
            queues.remove(queue)
        if chance.random() < 0.1:
            frames.append(other(chance, chance.randrange(0, 12)))
    if chance.random() < 0.2:
        chance.shuffle(frames)
    if chance.random() < 0.4:
        at = chance.randrange(len(frames))
        frames[at] = damage(chance, frames[at])
    data = PREFACE + b"".join(frames)
    if chance.random() < 0.1:
        data = damage(chance, data)
    if chance.random() < 0.15:
        data = data[:chance.randrange(len(data) + 1)]
    pieces = [data] if data else []
    if chance.random() < 0.5:
        cuts = sorted(chance.randrange(len(data) + 1) for _ in range(chance.choice((1, 3, 20))))
        pieces = [data[begin:end] for begin, end in zip([0, *cuts], [*cuts, len(data)]) if begin < end]
    return pieces, chance.choices(("wait", "half-close", "close", "reset"), [6, 3, 2, 2])[0]


class Client:
    """A connection under way."""

    def __init__(self, address, pieces, end):
        self.pieces, self.end, self.received, self.deadline = list(pieces), end, 0, time.monotonic() + PATIENCE
        self.socket = socket.create_connection(address, PATIENCE)
        self.socket.setblocking(False)
        self.has_left = not self.pieces and self.finish()

    def step(self):
        """Sends and receives what it can. Returns whether the connection has ended."""
        try:
            if self.pieces:
                sent = self.socket.send(self.pieces[0])
                self.pieces[0] = self.pieces[0][sent:]
                if not self.pieces[0]:
                    self.pieces.pop(0)
                if not self.pieces:
                    return self.finish()
        except BlockingIOError:
            pass
        except OSError:
            self.pieces = []
        try:
            while piece := self.socket.recv(1 << 18):
                self.received += len(piece)
            return True
        except BlockingIOError:
            return False
        except OSError:
            return True

    def finish(self):
        """Does what the client does at its end. Returns whether that ends the connection."""
        if self.end == "half-close":
            self.socket.shutdown(socket.SHUT_WR)
        elif self.end == "reset":
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        return self.end in ("close", "reset")

    def wants(self):
        return selectors.EVENT_READ | (selectors.EVENT_WRITE if self.pieces else 0)


def converse(address, conversations):
    """Has all of them, some at a time. Returns how many bytes came, and the places of those that did not end."""
    waiting, received, stuck = list(enumerate(conversations))[::-1], 0, []
    with selectors.DefaultSelector() as selector:
        while waiting or selector.get_map():
            while waiting and len(selector.get_map()) < WIDTH:
                place, one = waiting.pop()
                client = Client(address, *one)
                if client.has_left:
                    client.socket.close()
                    continue
                selector.register(client.socket, client.wants(), (place, client))
            for key, _ in selector.select(0.2):
                place, client = key.data
                if client.step():
                    selector.unregister(client.socket)
                    client.socket.close()
                    received += client.received
                elif key.events != client.wants():
                    selector.modify(client.socket, client.wants(), key.data)
            for key in [key for key in selector.get_map().values() if key.data[1].deadline < time.monotonic()]:
                stuck.append(key.data[0])
                selector.unregister(key.fileobj)
                key.fileobj.close()
    return received, stuck


def well_formed(address):
    """Sends a well-formed request. Returns what is wrong with the response."""
    with socket.create_connection(address, serve.POLITE_SECONDS) as client:
        encoded = b"\x82\x86\x41\x01h\x04" + text(b"/_polite")
        client.sendall(PREFACE + frame(SETTINGS) + frame(HEADERS, END_HEADERS | END_STREAM, 1, encoded))
        received = b""
        while b"polite\n" not in received:
            piece = client.recv(65_536)
            if not piece:
                return f"a well-formed client got {received!r}"
            received += piece
    return None


def numbers(path):
    """Returns the numbers of the server, from its status socket."""
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(serve.POLITE_SECONDS)
        client.connect(path)
        client.sendall(b"GET /stats.json HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n")
        received = b""
        while piece := client.recv(65_536):
            received += piece
    return json.loads(received.partition(b"\r\n\r\n")[2])["processes"][0]


class Campaign:
    """A server, and the connections that it gets."""

    def __init__(self, arguments):
        self.seed, self.directory, self.findings = arguments.seed, pathlib.Path(arguments.findings), []
        self.counts = collections.Counter()
        self.servers = [serve.Server(arguments.binary, Limits(), streamed, False, 0, speaks_http2=True, times=TIMES)
                        for streamed in (False, True)]

    def run(self, deadline):
        index = 0
        while time.monotonic() < deadline and len(self.findings) < FINDINGS_MAX:
            for server in self.servers:
                self.batch(server, [connection(self.seed, n) for n in range(index, index + BATCH)])
                index += BATCH
        for server in self.servers:
            for problem in server.stop():
                self.note(server, problem, [])

    def batch(self, server, conversations):
        try:
            received, stuck = converse(server.address, conversations)
            self.counts["connections"] += len(conversations)
            self.counts["bytes received"] += received
            for place in stuck:
                self.note(server, f"a connection has not ended within {PATIENCE} s", [conversations[place]])
            if wrong := well_formed(server.address):
                self.note(server, wrong, conversations)
            if wrong := self.rest(server):
                self.note(server, wrong, conversations)
        except OSError as error:
            self.note(server, f"{type(error).__name__}: {error}", conversations)
        for problem in server.problems():
            self.note(server, problem, conversations)

    def rest(self, server):
        """Waits until nothing is left of the connections. Returns what is."""
        zero = ("connections", "requests", "pool_taken", "queued", "http2_connections", "http2_streams")
        path, seen = f"{server.directory.name}/status", {}

        def is_at_rest():
            seen.update(numbers(path))
            return not any(seen[name] for name in zero)

        if server.wait(is_at_rest):
            self.counts["coroutines at rest"] = max(seen["coroutines"], self.counts["coroutines at rest"])
            if seen["coroutines"] <= 4:
                return None
        return f"left behind: { {name: seen.get(name) for name in (*zero, 'coroutines')} }"

    def note(self, server, problem, conversations):
        """Writes a finding to a file."""
        self.directory.mkdir(parents=True, exist_ok=True)
        path = self.directory / f"http2-{os.getpid()}-{len(self.findings)}.json"
        sent = [{"pieces": [piece.hex() for piece in pieces], "end": end} for pieces, end in conversations]
        path.write_text(json.dumps({"problem": problem, "streamed": server.streamed, "log": "".join(server.log.lines), "sent": sent}))
        self.findings.append(f"{path}: {server.name}: {problem[:600]}")
        print(self.findings[-1], flush=True)


def replay(arguments):
    """Sends the connections of a finding again."""
    finding = json.loads(pathlib.Path(arguments.replay).read_text())
    print(f"recorded: {finding['problem']}")
    sent = [([bytes.fromhex(piece) for piece in one["pieces"]], one["end"]) for one in finding["sent"]]
    campaign = Campaign(arguments)
    for server in campaign.servers:
        if server.streamed == finding["streamed"]:
            campaign.batch(server, sent)
    campaign.run(0)
    return campaign


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--binary", default=serve.default_binary(), help="the server to test")
    parser.add_argument("--minutes", type=float, default=1, help="how long")
    parser.add_argument("--seed", default=time.strftime("%Y%m%d%H%M%S"), help="what all connections follow from")
    parser.add_argument("--findings", default="target/findings", help="directory for what is found")
    parser.add_argument("--replay", metavar="FILE", help="send what was found again")
    arguments = parser.parse_args()
    began = time.monotonic()
    if arguments.replay:
        campaign = replay(arguments)
    else:
        print(f"seed {arguments.seed}", flush=True)
        campaign = Campaign(arguments)
        campaign.run(began + 60 * arguments.minutes)
    for name, count in sorted(campaign.counts.items()):
        print(f"{count:>14,}  {name}")
    print("\n".join(campaign.findings) or f"fuzz: nothing found in {time.monotonic() - began:.0f} s")
    sys.exit(bool(campaign.findings))


if __name__ == "__main__":
    main()
