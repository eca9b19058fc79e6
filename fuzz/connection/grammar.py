"""Makes the bytes of connections: from a grammar of requests, from the corpus, and by damaging both. The result
depends only on the given random generator.
"""

import ipaddress
import pathlib
import struct

from app import LARGE, NAMES

CORPUS = pathlib.Path(__file__).resolve().parent.parent.parent / "tests" / "requests"
# The insertions: words of the grammar, and bytes that have confused parsers.
WORDS = [
    b"\r\n", b"\n", b"\r", b"\r\n\r\n", b"\0", b" ", b"\t", b":", b";", b",", b"=", b'"', b"\\", b"\x0b", b"\x7f", b"\xff", b"%", b"#",
    b"0", b"0\r\n\r\n", b"1", b"5\r\nhello\r\n", b"ffffffffffffffff", b"10000", b"10001", b"-1", b"+5", b"0x5", b"18446744073709551616",
    b"HTTP/1.1", b"HTTP/1.0", b"HTTP/2.0", b"HTTP/1.9", b"GET ", b"HEAD ", b"CONNECT ", b"OPTIONS * HTTP/1.1\r\n",
    b"GET / HTTP/1.1\r\nHost: h\r\n\r\n", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", b"http://h:1/p?q", b"*", b"[::1]", b":65536",
    b"Host: h\r\n", b"Host: a, b\r\n", b"Content-Length: 5\r\n", b"Content-Length: 0\r\n", b"Transfer-Encoding: chunked\r\n",
    b"Transfer-Encoding: gzip, chunked\r\n", b"transfer-encoding : chunked\r\n", b"Content_Length: 3\r\n",
    b"Connection: close\r\n", b"Connection: keep-alive, x\r\n", b"Expect: 100-continue\r\n", b"Expect: x\r\n",
    b"Content-Type: a\r\n", b"Cookie: a=b\r\n", b"Proxy: x\r\n", b"X_Y: z\r\n", b" folded\r\n", b"Upgrade: websocket\r\n",
    b"PROXY TCP4 192.0.2.7 198.51.100.1 4711 443\r\n", b"PROXY UNKNOWN\r\n", b"\r\n\r\n\0\r\nQUIT\n",
]
METHODS = ["GET", "POST", "PUT", "HEAD", "DELETE", "OPTIONS", "PATCH", "get", "M-SEARCH", "A" * 32, "A" * 33]
TARGETS = ["/", "/x?y=z", "/a%20b", "/%zz/%", "//h/../p", "http://h/p?q", "HTTP://h:80", "http://[::1]:8/?a", "/" + "p" * 380, "/é"]
HOSTS = ["h", "h:80", "", "[::1]:80", "a%41", "127.0.0.1", "h:", "a_b"]
FIELDS = [
    "X-A: 1", "x-a:2", "X-Empty:", "X-Latin: \xe9\xff", "X-Tab:\ta\tb\t", "Cookie: a=1", "Cookie: b=2", "Accept: */*", "User-Agent: f",
    "X_Under: 1", "Proxy: evil", "Content-Type: text/plain", "Via: 1.1 x", "Connection: te", "X-Long: " + "v" * 280, "TE: trailers",
    "!#$%&'*+-.^_`|~: odd", "If-None-Match: \"a\"", "X-Forwarded-For: 10.0.0.1", "Transfer_Encoding: chunked",
]
EXTENSIONS = [b"", b"", b"", b";a", b" ; a = b", b';a="b\\"c;"', b";a;b;c=d", b";" + b"e" * 300, b"; a=\"\r\n\"", b";", b" "]
TRAILERS = [b"", b"", b"", b"X-T: 1\r\n", b"Content-Length: 9\r\nHost: evil\r\n", b"X-T\r\n", b": x\r\n", b"X: \x00\r\n", b"A: b\r\n" * 30]
SIZES = [0, 1, 2, 5, 16, 100, 1000, 4096, 5000, 20000, 65535, 65536, 65537]


def corpus():
    """Returns the requests of the corpus that are small enough for a small stream."""
    requests = [path.read_bytes() for path in sorted(CORPUS.glob("*/*.http"))]
    return [request for request in requests if len(request) < 4096]


def stream(random, requests):
    """Returns a whole connection: one or several requests, most of them valid."""
    count = random.choice([1, 1, 2, 3, 5, 8])
    pieces = [random.choice(requests) if random.random() < 0.3 else request(random) for _ in range(count)]
    data = b"".join(pieces)
    if random.random() < 0.6:
        for _ in range(random.choice([1, 1, 1, 2, 3, 6])):
            data = damaged(random, data, requests)
    return data


def bodies(random, requests):
    """Returns requests with bodies whose framing is damaged."""
    data = b""
    for _ in range(random.choice([1, 1, 2, 3])):
        head = request_head(random, framing=(framing := random.choice(["length", "chunked", "chunked"])))
        body = random.randbytes(size := random.choice(SIZES[:10]))
        if framing == "length":
            said = size if random.random() < 0.8 else max(0, size + random.choice([-1, 1, -5, 7, 100000]))
            data += head % said + body
            continue
        framed = chunked(random, body)
        if random.random() < 0.4:
            framed = damaged(random, framed, requests)
        data += head + framed
    return data


def request(random):
    """Returns a request that is nearly always valid."""
    framing = random.choice(["none", "none", "length", "length", "chunked"])
    head = request_head(random, framing)
    if framing == "none":
        return head
    body = random.randbytes(random.choice(SIZES if random.random() < 0.1 else SIZES[:7]))
    return head % len(body) + body if framing == "length" else head + chunked(random, body)


def request_head(random, framing):
    """Returns a head. With `length` it has a place for the number."""
    method = random.choice(METHODS if random.random() < 0.3 else METHODS[:4])
    target = random.choice(TARGETS) if random.random() < 0.2 else f"/{random.choice(NAMES if random.random() < 0.96 else LARGE)}{random.choice(['', '/x', '?q=1'])}"
    version = random.choices(["1.1", "1.0", "1.2"], [10, 2 if framing != "chunked" else 0.1, 0.3])[0]
    fields = [f"Host: {random.choice(HOSTS) if random.random() < 0.2 else 'h'}"]
    fields += random.sample(FIELDS, random.choice([0, 0, 1, 2, 3]))
    if random.random() < 0.1:
        fields.append(random.choice(["Connection: close", "Connection: keep-alive", "connection: x, Close"]))
    if framing != "none" and random.random() < 0.1:
        fields.append("Expect: 100-continue")
    if framing != "none":
        fields.append("Content-Length: @" if framing == "length" else "Transfer-Encoding: chunked")
    random.shuffle(fields)
    head = "\r\n".join([f"{method} {target} HTTP/{version}", *fields, "", ""]).encode("latin-1")
    return head.replace(b"%", b"%%").replace(b"@", b"%d") if framing == "length" else head


def chunked(random, body):
    """Returns the body in chunks of random sizes, sometimes with extensions and trailers."""
    framed, at, plain = b"", 0, random.random() < 0.6
    largest = random.choice([1, 7, 100, 5000, 70000]) if len(body) < 2000 else random.choice([500, 5000, 70000])
    while at < len(body):
        piece = body[at:at + random.randint(1, largest)]
        at += len(piece)
        extension = b"" if plain else random.choice(EXTENSIONS[:8])
        digits = b"%x" % len(piece) if random.random() < 0.9 else b"%08X" % len(piece)
        framed += digits + extension + b"\r\n" + piece + b"\r\n"
    end = random.choice([b"0", b"0", b"000"]) + (b"" if plain else random.choice(EXTENSIONS))
    return framed + end + b"\r\n" + (b"" if plain else random.choice(TRAILERS)) + b"\r\n"


def damaged(random, data, requests):
    """Returns `data` with one change."""
    at = random.randrange(len(data) + 1)
    end = min(len(data), at + random.choice([1, 1, 2, 4, 16, 64, 300]))
    match random.randrange(9):
        case 0:
            return data[:at] + bytes([random.randrange(256)]) + data[at + 1:]
        case 1 | 2:
            return data[:at] + random.choice(WORDS) + data[at:]
        case 3:
            return data[:at] + random.choice(WORDS) + data[end:]
        case 4:
            return data[:at] + data[end:]
        case 5:
            return data[:end] + data[at:]
        case 6:
            return data[:at]
        case 7:
            other = random.choice(requests)
            return data[:at] + other[random.randrange(len(other) + 1):]
        case _:
            # Most rules concern line ends.
            ends = [place for place in range(len(data)) if data.startswith(b"\r\n", place)]
            place = random.choice(ends) if ends else 0
            return data[:place] + random.choice([b"\n", b"\r", b"\r\r\n", b" \r\n", b"\r\n ", b"\r\n\r\n"]) + data[place + 2:]


def proxy_header(random, requests):
    """Returns a PROXY header, in most cases a valid one."""
    header = proxy_v1(random) if random.random() < 0.5 else proxy_v2(random)
    return damaged(random, header, requests) if random.random() < 0.35 else header


def addresses(random, version):
    if version == 4:
        return [str(ipaddress.IPv4Address(random.randrange(1 << 32))) for _ in range(2)]
    return [str(ipaddress.IPv6Address(random.choice([1, random.randrange(1 << 128), 0xffff << 32 | 7]))) for _ in range(2)]


def proxy_v1(random):
    version = random.choice([4, 6])
    ports = [random.choice([0, 1, 443, 65535, random.randrange(65536)]) for _ in range(2)]
    line = f"PROXY TCP{version} {' '.join(addresses(random, version))} {ports[0]} {ports[1]}\r\n"
    odd = ["PROXY UNKNOWN\r\n", "PROXY UNKNOWN ffff::1 ::1 1 2\r\n", "PROXY UNKNOWN " + "x" * 91 + "\r\n", "PROXY UNKNOWN " + "x" * 92 + "\r\n",
           line.replace(" ", "  ", 1), line.replace("TCP4", "TCP6"), line.replace("\r\n", " \r\n"), line.replace("PROXY", "Proxy")]
    return (random.choice(odd) if random.random() < 0.25 else line).encode()


def proxy_v2(random):
    command = random.choice([0x21, 0x21, 0x21, 0x20, 0x22, 0x11])
    family = random.choice([0x11, 0x11, 0x21, 0x21, 0x12, 0x22, 0x31, 0x00, 0x10, 0x41, 0x01])
    version = {1: 4, 2: 6}.get(family >> 4)
    payload = b"".join(ipaddress.ip_address(address).packed for address in addresses(random, version)) if version else b""
    payload += struct.pack("!HH", random.randrange(65536), random.randrange(65536)) if version else b""
    payload += b"/" * 216 if family >> 4 == 3 else b""
    payload += random.choice([b"", b"", b"\3\0\4abcd", b"\4\1\0" + b"\0" * 256, random.randbytes(700)])
    length = len(payload) if random.random() < 0.9 else max(0, len(payload) + random.choice([-1, 1, -13, 60000]))
    return b"\r\n\r\n\0\r\nQUIT\n" + struct.pack("!BBH", command, family, length) + payload


def pieces(random, data):
    """Returns `data` in pieces, each with the following pause in seconds."""
    count = random.choice([1, 2, 2, 3, 5, 8, 20])
    cuts = sorted(random.randrange(len(data) + 1) for _ in range(count - 1)) if data else []
    if len(data) < 300 and random.random() < 0.05:
        cuts = list(range(1, len(data)))
    parts = [data[begin:end] for begin, end in zip([0, *cuts], [*cuts, len(data)])]
    return [(part, random.choice([0, 0, 0.001, 0.003, 0.01])) for part in parts if part]
