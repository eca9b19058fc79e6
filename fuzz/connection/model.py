"""Models the required behaviour for the bytes of one connection, from RFC 9112, RFC 9110 and the PROXY protocol.

The model reads whole byte strings with regular expressions, and shares no code with the server. If the two disagree,
one is wrong. If the RFCs leave a choice, `docs/explain/differences.md` says which one the server makes. A request that
breaks several rules may be refused with the status of any of them.
"""

import dataclasses
import ipaddress
import json
import re
import struct
import urllib.parse

from app import FILLING, LARGE, chosen, digest

TOKEN = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+"
QUOTED = rb'"(?:[\t \x21\x23-\x5b\x5d-\x7e\x80-\xff]|\\[\t \x21-\x7e\x80-\xff])*"'
EXTENSION = rb"[ \t]*;[ \t]*%s(?:[ \t]*=[ \t]*(?:%s|%s))?" % (TOKEN, TOKEN, QUOTED)
CHUNK_LINE = re.compile(rb"([0-9A-Fa-f]{1,16})((?:%s)*)\r\n" % EXTENSION)
TRAILER_LINE = re.compile(rb"%s:[\t\x20-\x7e\x80-\xff]*\r\n" % TOKEN)
FIELD_LINE = re.compile(rb"(%s):[ \t]*([\t\x20-\x7e\x80-\xff]*?)[ \t]*" % TOKEN)
BARE = re.compile(rb"(?<!\r)\n|\r(?!\n)")
# An address may have a zone (RFC 6874), also after a percent sign that is not encoded.
ZONE = rb"%(?:[A-Za-z0-9\-._~]|%[0-9A-Fa-f]{2})+"
HOST = re.compile(rb"(\[([^\]%%]*)(?:%s)?\]|(?:[A-Za-z0-9\-._~!$&'()*+,;=]|%%[0-9A-Fa-f]{2})+)(?::([0-9]*))?" % ZONE)
ABSOLUTE = re.compile(rb"(?i:https?)://([^/?]*)([^?]*)(?:\?(.*))?", re.DOTALL)
METHOD_BYTES_MAX = 32
EMPTY_LINES_MAX = 4
EXTENSION_LINE_BYTES_MAX, EXTENSION_BYTES_MAX = 4096, 64 * 1024
TRAILERS_MAX, TRAILER_BYTES_MAX = 64, 8192
# Replaces the client's address in the application's reports, until the client has one.
REMOTE = "@remote@"
# Applications that read the whole body; that begin the response before they read; that fail in the middle.
READ_ALL = ("all", "lines", "echo", "early", "file", "write", *LARGE)
BEGIN_FIRST = ("echo", "early", "write", "late")


@dataclasses.dataclass
class Limits:
    """The limits, named as the server's settings."""

    request_line: int = 400
    request_fields: int = 20
    request_field_size: int = 300
    request_head: int = 2048
    max_body_size: int = 65536

    def arguments(self):
        names = ("limit-request-line", "limit-request-fields", "limit-request-field-size", "limit-request-head", "max-body-size")
        return [word for name, value in zip(names, dataclasses.astuple(self)) for word in (f"--{name}", str(value))]


@dataclasses.dataclass
class Expected:
    """A required response."""

    statuses: set
    body: bytes | None = dataclasses.field(default=None, repr=False)
    is_head: bool = False
    # "keep", "close", or "either" if the server may do both.
    persistence: str = "keep"
    # The response may end visibly early, also after `body`, or may be missing.
    may_be_cut: bool = False
    # The server need not respond.
    optional: bool = False
    may_continue: bool = False
    http10: bool = False
    # The server waits for more bytes until the client closes its side.
    needs_end: bool = False


@dataclasses.dataclass
class Reading:
    """The required result of a connection: its responses, and the reports of requests that an application may see."""

    expected: list
    seen: list
    # Whether the client sends more after a request that ends the connection (RFC 9112 §9.6: it must not).
    goes_on: bool = False


class Refused(Exception):
    """The server must refuse the message with one of these statuses."""

    def __init__(self, statuses, needs_end=False):
        self.statuses, self.needs_end = set(statuses), needs_end


@dataclasses.dataclass
class Head:
    method: bytes
    target: bytes
    path: bytes
    query: bytes
    http10: bool
    fields: list
    host: bytes | None
    length: int | None
    chunked: bool
    closes: bool
    expects_continue: bool

    @property
    def has_body(self):
        return self.chunked or bool(self.length)


def read_connection(data, limits, streamed=False, proxied=False):
    """Returns what the server must do with `data`, if the client sends nothing more."""
    reading, at, remote = Reading([], []), 0, REMOTE
    is_request = not proxied
    try:
        if proxied and data:
            at, source = read_proxy_header(data)
            remote, is_request = source or REMOTE, True
        while at is not None and at < len(data):
            at = read_request(data, at, limits, streamed, remote, reading)
    except Refused as refused:
        is_head = is_request and bool(re.match(rb"(\r\n)*HEAD ", data[at:]))
        # A message that begins like TLS gets no response.
        is_tls = is_request and data.startswith(b"\x16", at)
        reading.expected.append(
            Expected(refused.statuses, None, is_head, "close", optional=is_tls, needs_end=refused.needs_end))
    return reading


def read_request(data, at, limits, streamed, remote, reading):
    """Reads a request and its body. Returns where the next request begins, or None if there can be none."""
    if re.fullmatch(rb"(\r\n){1,4}\r?|\r", data[at:]):
        # There are only empty lines: the server may refuse or ignore them.
        reading.expected.append(Expected({400}, persistence="close", optional=True, needs_end=True))
        return None
    head, at = read_head(data, at, limits)
    if head.length is not None and head.length > limits.max_body_size:
        return refuse(reading, head, Refused({413}))
    application = chosen(head.target.decode("latin-1"))
    problem, body = None, b""
    try:
        body, at = read_body(data, at, head, limits)
    except Refused as refused:
        problem = refused
        if not streamed:
            return refuse(reading, head, refused)
    seen = report(head, body, streamed, remote)
    reading.seen.append(seen)
    if problem is None:
        expected = answered(application, head, seen, body)
        if streamed and head.expects_continue and expected.persistence == "keep":
            # The server cannot know whether the client sends the body without `100 Continue`.
            expected.persistence = "either"
    else:
        expected = failed(application, head, seen, problem)
    reading.expected.append(expected)
    if expected.persistence == "close":
        reading.goes_on = at is not None and at < len(data)
        return None
    return at


def refuse(reading, head, refused):
    reading.expected.append(Expected(refused.statuses, None, head.method == b"HEAD", "close", needs_end=refused.needs_end,
                                     may_continue=head.expects_continue))


def answered(application, head, seen, body):
    """Returns the response to a complete request."""
    bodies = {"all": seen + digest(body), "none": seen, "some": seen + body[:5], "early": seen + digest(body),
              "big": seen + body + FILLING, "blocks": seen + body + FILLING,
              "nocontent": b"", "over": seen[:10], "late": seen, "short": seen, "raise": None}
    expected = Expected({200}, bodies.get(application, seen + body), head.method == b"HEAD", http10=head.http10,
                        may_continue=head.expects_continue)
    # A response of unknown length to HTTP/1.0 ends with the connection.
    expected.persistence = "close" if head.closes else "either" if head.http10 else "keep"
    if application == "nocontent":
        expected.statuses = {204}
    elif application == "raise":
        expected.statuses = {500}
        expected.persistence = "close" if head.closes else "either"
    elif application in ("late", "short"):
        # A response to HEAD has no body that could be too short.
        expected.may_be_cut, expected.persistence = True, "either" if expected.is_head else "close"
    return expected


def failed(application, head, seen, problem):
    """Returns the response to a request whose streamed body is wrong or incomplete. No other response follows."""
    expected = answered(application, head, seen, b"")
    expected.persistence, expected.needs_end = "close", problem.needs_end
    if application in BEGIN_FIRST:
        expected.may_be_cut, expected.body = True, seen
        if expected.is_head:
            # No byte of the body need be sent, so the server may still have changed the head.
            expected.statuses = {200, 500}
    elif application in READ_ALL:
        expected.statuses, expected.body = {500}, None
    elif application == "some":
        expected.statuses, expected.body = {200, 500}, None
    return expected


def report(head, body, streamed, remote):
    """Returns the application's report of a request."""
    values = {}
    for name, value in head.fields:
        name = name.lower()
        if name in (b"host", b"content-length", b"proxy") or b"_" in name or (name == b"transfer-encoding" and not streamed):
            continue
        key = name.decode().upper().replace("-", "_")
        values.setdefault(key if key == "CONTENT_TYPE" else f"HTTP_{key}", []).append(value.decode("latin-1"))
    fields = {key: ("; " if key == "HTTP_COOKIE" else ", ").join(value) for key, value in values.items()}
    if head.host is not None:
        fields["HTTP_HOST"] = head.host.decode("latin-1")
    if head.length is not None or (head.chunked and not streamed):
        fields["CONTENT_LENGTH"] = str(len(body) if head.chunked else head.length)
    seen = {
        "REQUEST_METHOD": head.method.decode(),
        "RAW_URI": head.target.decode(),
        "PATH_INFO": "/" if head.path == b"*" else urllib.parse.unquote_to_bytes(head.path).decode("latin-1"),
        "QUERY_STRING": head.query.decode(),
        "SERVER_PROTOCOL": "HTTP/1.0" if head.http10 else "HTTP/1.1",
        "remote": remote,
        "fields": fields,
    }
    return json.dumps(seen, sort_keys=True).encode() + b"\n"


# Heads (RFC 9112 §2.2, §3, §5).

def read_head(data, at, limits):
    """Returns the head that begins at `at`, and where it ends."""
    begin = at
    while data.startswith(b"\r\n", at):
        at += 2
    if at - begin > 2 * EMPTY_LINES_MAX:
        raise Refused({400})
    end = data.find(b"\r\n\r\n", at)
    head = data[at:] if end < 0 else data[at:end + 4]
    lines = head.split(b"\r\n")
    complete = lines[:-1] if end < 0 else lines[:-2]
    faults = line_faults(lines if end < 0 else complete, limits)
    if len(head) + at - begin > limits.request_head:
        faults.add(431)
    if BARE.search(head.removesuffix(b"\r") if end < 0 else head) or not re.match(TOKEN, head):
        faults.add(400)
    parts = None
    if complete:
        request_faults, parts = read_request_line(complete[0])
        faults |= request_faults
    if end < 0:
        raise Refused(faults | {400}, needs_end=True)
    fields = []
    for line in complete[1:]:
        if field := FIELD_LINE.fullmatch(line):
            fields.append(field.groups())
        else:
            faults.add(400)
    if parts is None:
        raise Refused(faults)
    head = understand(parts, fields, faults)
    if faults:
        raise Refused(faults)
    return head, end + 4


def line_faults(lines, limits):
    faults = set()
    if len(lines[0]) > limits.request_line:
        faults.add(414)
    if any(len(line) > limits.request_field_size for line in lines[1:]):
        faults.add(431)
    if len([line for line in lines[1:] if line]) > limits.request_fields:
        faults.add(431)
    return faults


def read_request_line(line):
    """Returns the faults of a request line, and its parts if it has any."""
    words = line.split(b" ")
    if len(words) != 3 or not re.fullmatch(TOKEN, words[0]) or not words[1]:
        # The server may check the version of a line with another fault.
        return {400}, None
    method, target, version = words
    faults, path, query, authority = set(), target, b"", None
    if re.fullmatch(rb"HTTP/[02-9]\.[0-9]|HTTP/[23]", version):
        faults.add(505)
    elif not re.fullmatch(rb"HTTP/1\.[0-9]", version):
        faults.add(400)
    if len(method) > METHOD_BYTES_MAX or method == b"CONNECT":
        faults.add(501)
    if not re.fullmatch(rb"[\x21\x22\x24-\x7e]+", target):
        faults.add(400)
    if target.startswith(b"/"):
        path, _, query = target.partition(b"?")
    elif absolute := ABSOLUTE.fullmatch(target):
        authority, path, query = absolute[1], absolute[2] or b"/", absolute[3] or b""
        if not authority or not is_host(authority):
            faults.add(400)
    elif target != b"*" or method != b"OPTIONS":
        faults.add(400)
    return faults, (method, target, path, query, version == b"HTTP/1.0", authority)


def understand(parts, fields, faults):
    """Returns what the fields tell the server. Adds their faults to `faults`."""
    method, target, path, query, http10, authority = parts

    def values(name):
        return [value for key, value in fields if key.lower() == name]

    def options(name):
        return [option.strip(b" \t").lower() for value in values(name) for option in value.split(b",") if option.strip(b" \t")]

    hosts, lengths, codings = values(b"host"), values(b"content-length"), values(b"transfer-encoding")
    if len(hosts) > 1 or (not hosts and not http10) or any(host and not is_host(host) for host in hosts):
        faults.add(400)
    if len(lengths) > 1 or len(codings) > 1 or len(values(b"content-type")) > 1:
        faults.add(400)
    if values(b"content_length") or values(b"transfer_encoding"):
        faults.add(400)
    for length in lengths:
        if not re.fullmatch(rb"[0-9]+", length):
            faults.add(400)
        elif int(length) >= 1 << 64:
            faults.add(413)
    if codings and (lengths or http10):
        faults.add(400)
    if codings and codings[0].lower() != b"chunked":
        # A further coding below chunked is not implemented. Other codings leave the end of the body unknown.
        faults.update({501, 400})
    expectations = options(b"expect")
    if not http10 and any(expectation != b"100-continue" for expectation in expectations):
        faults.add(417)
    connection = options(b"connection")
    length = int(lengths[0]) if lengths and re.fullmatch(rb"[0-9]+", lengths[0]) else None
    return Head(
        method, target, path, query, http10, fields,
        host=authority if authority is not None else hosts[0] if hosts else None,
        length=length,
        chunked=bool(codings),
        closes=b"close" in connection or (http10 and b"keep-alive" not in connection),
        expects_continue=bool(expectations) and not http10 and (bool(codings) or bool(length)),
    )


def is_host(value):
    """Returns whether the text is `uri-host [ ":" port ]` (RFC 9110 §7.2) with a possible port."""
    match = HOST.fullmatch(value)
    if not match or (match[3] and int(match[3]) > 65535):
        return False
    if match[2] is None:
        return True
    return is_address(match[2].decode("latin-1"), ipaddress.IPv6Address)


def is_address(text, kind):
    try:
        return bool(kind(text)) and "%" not in text
    except ValueError:
        return False


# Bodies (RFC 9112 §6, §7.1).

def read_body(data, at, head, limits):
    """Returns the body, and where it ends."""
    if head.chunked:
        return read_chunks(data, at, limits)
    end = at + (head.length or 0)
    if end > len(data):
        raise Refused({400}, needs_end=True)
    return data[at:end], end


def read_chunks(data, at, limits):
    body, extensions = b"", 0
    while True:
        line = CHUNK_LINE.match(data, at)
        digits = re.compile(rb"[0-9A-Fa-f]{0,16}").match(data, at)[0]
        too_large = bool(digits) and int(digits, 16) > limits.max_body_size - len(body)
        if too_large:
            raise Refused({413} if line else {413, 400})
        if not line:
            raise Refused({400}, needs_end=True)
        extensions += len(line[2])
        if len(line[2]) > EXTENSION_LINE_BYTES_MAX or extensions > len(body) + EXTENSION_BYTES_MAX:
            raise Refused({400})
        at, size = line.end(), int(line[1], 16)
        if size == 0:
            return body, read_trailers(data, at)
        if data[at + size:at + size + 2] != b"\r\n":
            raise Refused({400}, needs_end=True)
        body += data[at:at + size]
        at += size + 2


def read_trailers(data, at):
    begin, count = at, 0
    while line := TRAILER_LINE.match(data, at):
        at, count = line.end(), count + 1
    end = at + 2 if data.startswith(b"\r\n", at) else None
    faults = set()
    if count > TRAILERS_MAX or (end or len(data)) - begin > TRAILER_BYTES_MAX:
        faults.add(431)
    if end is None:
        faults.add(400)
        if count == TRAILERS_MAX:
            # The wrong line is also one line too many.
            faults.add(431)
    if faults:
        raise Refused(faults, needs_end=end is None)
    return end


# The PROXY protocol, versions 1 and 2 (§2.1, §2.2).

def read_proxy_header(data):
    """Returns where the header ends, and its address as the application reports it, or None without an address."""
    return read_proxy_v1(data) if data.startswith(b"P") else read_proxy_v2(data)


def read_proxy_v1(data):
    end = data.find(b"\r\n", 0, 107)
    if end < 0:
        raise Refused({400}, needs_end=True)
    words = data[:end].decode("latin-1").split(" ")
    if words[:2] == ["PROXY", "UNKNOWN"]:
        if BARE.search(data[:end]):
            raise Refused({400})
        return end + 2, None
    if len(words) != 6 or words[0] != "PROXY" or words[1] not in ("TCP4", "TCP6"):
        raise Refused({400})
    kind = ipaddress.IPv4Address if words[1] == "TCP4" else ipaddress.IPv6Address
    ports = [re.fullmatch("0|[1-9][0-9]{0,4}", port) and int(port) <= 65535 for port in words[4:]]
    if not all(is_address(address, kind) for address in words[2:4]) or not all(ports):
        raise Refused({400})
    return end + 2, f"{address_text(kind(words[2]))} {words[4]}"


def read_proxy_v2(data):
    if len(data) < 16:
        raise Refused({400}, needs_end=True)
    signature, version, family, length = struct.unpack("!12sBBH", data[:16])
    end = 16 + length
    if signature != b"\r\n\r\n\0\r\nQUIT\n" or version not in (0x20, 0x21):
        raise Refused({400})
    sizes = {0x00: 0, 0x01: 0, 0x02: 0, 0x10: 0, 0x20: 0, 0x30: 0, 0x11: 12, 0x12: 12, 0x21: 36, 0x22: 36, 0x31: 216, 0x32: 216}
    if version == 0x21 and (family not in sizes or length < sizes[family]):
        raise Refused({400})
    if end > len(data):
        raise Refused({400}, needs_end=True)
    if version == 0x20 or family >> 4 not in (1, 2) or not sizes[family]:
        return end, None
    address_bytes = 4 if family >> 4 == 1 else 16
    address = ipaddress.ip_address(data[16:16 + address_bytes])
    port = struct.unpack_from("!H", data, 16 + 2 * address_bytes)[0]
    return end, f"{address_text(address)} {port}"


def address_text(address):
    mapped = getattr(address, "ipv4_mapped", None)
    return f"::ffff:{mapped}" if mapped else str(address)
