"""The protocol of WebSockets as a table: what a client sends, and what it gets. After the cases of Autobahn|Testsuite.

The application sends each message back. A number at the end of the expected frames is the code of the server's close.
"""

import struct

import pytest

from client import Client, Closed
from test_resting_websocket import CONTINUATION, FIELDS, connect, frame, receive
from test_websocket import BINARY, CLOSE, PING, PONG, TEXT

FIN, RSV1, RSV2, RSV3 = 0x80, 0x40, 0x20, 0x10
SMILE = "\u03ba\u1f79\u03c3\u03bc\u03b5 \U0001f600".encode()
LIMIT = 1 << 16


def text(content, first=FIN | TEXT):
    return frame(first, content)


def binary(content, first=FIN | BINARY):
    return frame(first, content)


def part(content=b"", *, last=False):
    return frame((FIN if last else 0) | CONTINUATION, content)


def ping(content=b""):
    return frame(FIN | PING, content)


def pong(content=b""):
    return frame(FIN | PONG, content)


def close(code=None, reason=b""):
    return frame(FIN | CLOSE, b"" if code is None else struct.pack("!H", code) + reason)


def got(content, kind=TEXT):
    return kind, content


CASES = {
    # Framing: each form of the length.
    "text of 0 bytes": (text(b""), [got(b"")]),
    "text of 125 bytes": (text(b"*" * 125), [got(b"*" * 125)]),
    "text of 126 bytes": (text(b"*" * 126), [got(b"*" * 126)]),
    "text of 127 bytes": (text(b"*" * 127), [got(b"*" * 127)]),
    "text of 65535 bytes": (text(b"*" * 65535), [got(b"*" * 65535)]),
    "text of 65536 bytes": (text(b"*" * 65536), [got(b"*" * 65536)]),
    "binary of 0 bytes": (binary(b""), [got(b"", BINARY)]),
    "binary of all bytes": (binary(bytes(range(256))), [got(bytes(range(256)), BINARY)]),
    "length in two bytes that fits into one": (
        bytes([0x81, 0xFE, 0, 1]) + b"\0\0\0\0x", [got(b"x")]),
    "mask of zeros": (frame(0x81, b"plain", mask=b"\0\0\0\0"), [got(b"plain")]),
    "messages in one piece": (text(b"1") + binary(b"2") + text(b"3"), [got(b"1"), got(b"2", BINARY), got(b"3")]),
    # Masks.
    "text without a mask": (frame(0x81, b"x", mask=b""), [1002]),
    "ping without a mask": (frame(0x89, b"x", mask=b""), [1002]),
    "close without a mask": (frame(0x88, b"", mask=b""), [1002]),
    # Pings and pongs.
    "ping without content": (ping(), [got(b"", PONG)]),
    "ping with content": (ping(b"hello"), [got(b"hello", PONG)]),
    "ping of bytes that are no text": (ping(b"\xff\xfe\0"), [got(b"\xff\xfe\0", PONG)]),
    "ping of 125 bytes": (ping(b"\xfe" * 125), [got(b"\xfe" * 125, PONG)]),
    "ping of 126 bytes": (ping(b"\xfe" * 126), [1002]),
    "pong that was not asked for": (pong() + ping(b"1"), [got(b"1", PONG)]),
    "pong with content that was not asked for": (pong(b"x") + text(b"y"), [got(b"y")]),
    "pong of 126 bytes": (pong(b"x" * 126), [1002]),
    "ping in fragments": (frame(PING, b"a") + frame(FIN, b"b"), [1002]),
    "pong in fragments": (frame(PONG, b"a"), [1002]),
    # Reserved bits.
    "first reserved bit": (frame(FIN | RSV1 | TEXT, b"x"), [1002]),
    "second reserved bit": (frame(FIN | RSV2 | TEXT, b"x"), [1002]),
    "third reserved bit": (frame(FIN | RSV3 | BINARY, b"x"), [1002]),
    "all reserved bits of a ping": (frame(FIN | RSV1 | RSV2 | RSV3 | PING, b"x"), [1002]),
    "reserved bit of a close": (frame(FIN | RSV1 | CLOSE, b""), [1002]),
    "reserved bit after a message": (text(b"whole") + frame(FIN | RSV1 | TEXT, b"x"), [got(b"whole"), 1002]),
    # Opcodes.
    **{f"opcode {opcode}": (frame(FIN | opcode, b"x"), [1002]) for opcode in (3, 4, 5, 6, 7, 11, 12, 13, 14, 15)},
    "opcode 3 without content": (frame(FIN | 3), [1002]),
    "opcode 3 after a message": (text(b"whole") + frame(FIN | 3, b"x"), [got(b"whole"), 1002]),
    # Fragments.
    "text in two fragments": (text(b"one", TEXT) + part(b"two", last=True), [got(b"onetwo")]),
    "binary in three fragments": (
        binary(b"1", BINARY) + part(b"2") + part(b"3", last=True), [got(b"123", BINARY)]),
    "fragments without content": (text(b"", TEXT) + part() + part(last=True), [got(b"")]),
    "content in the middle fragment alone": (text(b"", TEXT) + part(b"x") + part(last=True), [got(b"x")]),
    "ping between fragments": (
        text(b"one", TEXT) + ping(b"now") + part(b"two", last=True), [got(b"now", PONG), got(b"onetwo")]),
    "pings between many fragments": (
        text(b"a", TEXT) + ping(b"1") + part(b"b") + ping(b"2") + part(b"c", last=True),
        [got(b"1", PONG), got(b"2", PONG), got(b"abc")]),
    "continuation of nothing": (part(b"x", last=True), [1002]),
    "continuation of nothing, not the last": (part(b"x"), [1002]),
    "continuation after a whole message": (text(b"whole") + part(b"x", last=True), [got(b"whole"), 1002]),
    "text inside a text": (text(b"a", TEXT) + text(b"b"), [1002]),
    "binary inside a text": (text(b"a", TEXT) + binary(b"b", BINARY), [1002]),
    "close between fragments": (text(b"a", TEXT) + close(1000), [1000]),
    # UTF-8.
    "text of several alphabets": (text(SMILE), [got(SMILE)]),
    "character in two fragments": (text(SMILE[:-2], TEXT) + part(SMILE[-2:], last=True), [got(SMILE)]),
    "bytes of characters in fragments of their own": (
        text(SMILE[:1], TEXT) + b"".join(part(SMILE[i:i + 1]) for i in range(1, len(SMILE))) + part(last=True),
        [got(SMILE)]),
    "lone continuation byte": (text(b"\x80"), [1007]),
    "overlong slash": (text(b"\xc0\xaf"), [1007]),
    "overlong zero": (text(b"\xe0\x80\x80"), [1007]),
    "surrogate": (text(b"\xed\xa0\x80"), [1007]),
    "above the last character": (text(b"\xf4\x90\x80\x80"), [1007]),
    "last character": (text(b"\xf4\x8f\xbf\xbf"), [got(b"\xf4\x8f\xbf\xbf")]),
    "noncharacter": (text(b"\xef\xbf\xbf"), [got(b"\xef\xbf\xbf")]),
    "five bytes": (text(b"\xf8\x88\x80\x80\x80"), [1007]),
    "text that ends inside a character": (text(b"x\xce"), [1007]),
    "fragments that end inside a character": (text(b"x\xce", TEXT) + part(last=True), [1007]),
    "wrong byte in the first fragment": (text(b"\xce\xba\xed\xa0\x80", TEXT), [1007]),
    "wrong byte in the second fragment": (text(b"fine", TEXT) + part(b"\xff"), [1007]),
    "binary that is no UTF-8": (binary(b"\xff\xfe"), [got(b"\xff\xfe", BINARY)]),
    # Closes.
    "close without content": (close(), [None]),
    "close with a code": (close(1000), [1000]),
    "close with a reason": (close(1000, b"bye"), [1000]),
    "close with the longest reason": (close(1000, b"x" * 123), [1000]),
    "close of 126 bytes": (close(1000, b"x" * 124), [1002]),
    "close of one byte": (frame(FIN | CLOSE, b"\x03"), [1002]),
    "close in fragments": (frame(CLOSE, b"\x03\xe8"), [1002]),
    "close whose reason is no UTF-8": (close(1000, b"\xff"), [1007]),
    "message after a close": (close(1000) + text(b"late"), [1000]),
    "ping after a close": (close(1000) + ping(b"late"), [1000]),
    "two closes": (close(1000) + close(1001), [1000]),
    "message before a close": (text(b"first") + close(1000), [got(b"first"), 1000]),
    **{f"close {code}": (close(code), [code]) for code in (1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 3000, 3999,
                                                          4000, 4999)},
    **{f"close {code}, which may not be sent": (close(code), [1002]) for code in (0, 999, 1004, 1005, 1006, 1015, 1016,
                                                                                 1100, 2000, 2999, 5000, 65535)},
    # Limits.
    "message of the limit": (binary(b"x" * LIMIT), [got(b"x" * LIMIT, BINARY)]),
    "message above the limit": (binary(b"x" * (LIMIT + 1)), [1009]),
    "head of a message above the limit": (frame(FIN | BINARY, length=LIMIT + 1), [1009]),
    "head of the longest message": (frame(FIN | BINARY, length=(1 << 63) - 1), [1009]),
    "fragments above the limit": (
        binary(b"x" * LIMIT, BINARY) + part(b"x", last=True), [1009]),
    "fragments of the limit": (
        binary(b"x" * (LIMIT - 1), BINARY) + part(b"x", last=True), [got(b"x" * LIMIT, BINARY)]),
}


@pytest.fixture(scope="module")
def resting(module_server):
    return module_server("resting_sockets")


def converse(socket, expected):
    for wanted in expected:
        if isinstance(wanted, tuple):
            assert receive(socket) == wanted
            continue
        kind, content = receive(socket)
        assert (kind, struct.unpack("!H", content[:2])[0] if content else None) == (CLOSE, wanted)
        if wanted in (1002, 1007, 1009):
            socket.client.half_close()
        socket.client.assert_closed()


@pytest.mark.parametrize("name", CASES)
def test_case(resting, name):
    sent, expected = CASES[name]
    with connect(resting, max_message=LIMIT) as socket:
        socket.client.send(sent)
        converse(socket, expected)
        if isinstance(expected[-1], tuple):
            socket.client.send(text(b"and on"))
            assert receive(socket) == got(b"and on")


@pytest.mark.parametrize("name", [name for name, (sent, _) in CASES.items() if len(sent) < 60])
def test_case_in_single_bytes(resting, name):
    sent, expected = CASES[name]
    with connect(resting, max_message=LIMIT) as socket:
        try:
            for byte in sent:
                socket.client.send(bytes([byte]))
        except (BrokenPipeError, ConnectionResetError):
            # The server has closed after the first fault.
            pass
        converse(socket, expected)


def test_extensions_are_declined(resting):
    with Client(resting.address) as client:
        client.request("GET /echo HTTP/1.1", *FIELDS, "Sec-WebSocket-Extensions: permessage-deflate")
        assert client.head().get("Sec-WebSocket-Extensions") is None


def test_client_that_leaves_inside_a_frame_leaves_nothing(resting):
    before = resting.descriptors()
    for sent in (b"", b"\x81", frame(0x81, b"half")[:-1], frame(0x82, length=60_000)):
        with connect(resting) as socket:
            socket.client.send(sent)
            socket.client.half_close()
            with pytest.raises(Closed):
                socket.receive()
    assert resting.descriptors() <= before + 2
