"""The protocol of WebSockets as a table: what a client sends, and what it gets.

The cases are those of Autobahn|Testsuite, sections 1 to 7, 9 and 10. The program itself needs Python 2. Sections 12 and 13 test
compression, which is not offered. Autobahn calls a server strict if it refuses a wrong byte of UTF-8 in the middle of a frame
before the rest of the frame arrives (6.4.3 and 6.4.4); Maypole refuses it with the frame. The numbers in section 9 are
smaller here: 16 MiB in one frame, but not in all kinds of pieces.

The application sends each message back. A number at the end of the expected frames is the code of the server's close.
"""

import contextlib
import struct
import threading

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
    "text of 128 bytes": (text(b"*" * 128), [got(b"*" * 128)]),
    **{f"binary of {size} bytes": (binary(b"\xfe" * size), [got(b"\xfe" * size, BINARY)])
       for size in (0, 125, 126, 127, 128, 65535, 65536)},
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
    "ten pings": (b"".join(ping(b"%d" % number) for number in range(10)), [got(b"%d" % number, PONG) for number in range(10)]),
    "ping in fragments": (frame(PING, b"a") + frame(FIN, b"b"), [1002]),
    "pong in fragments": (frame(PONG, b"a"), [1002]),
    # Reserved bits.
    "first reserved bit": (frame(FIN | RSV1 | TEXT, b"x"), [1002]),
    "second reserved bit": (frame(FIN | RSV2 | TEXT, b"x"), [1002]),
    "third reserved bit": (frame(FIN | RSV3 | BINARY, b"x"), [1002]),
    "all reserved bits of a ping": (frame(FIN | RSV1 | RSV2 | RSV3 | PING, b"x"), [1002]),
    **{f"reserved bits {bits}": (text(b"whole") + frame(FIN | bits << 4 | TEXT, b"x") + ping(b"late"), [got(b"whole"), 1002])
       for bits in range(1, 8)},
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
    "five fragments and two pings": (
        text(b"1", TEXT) + part(b"2") + ping(b"a") + part(b"3") + part(b"4") + ping(b"b") + part(b"5", last=True),
        [got(b"a", PONG), got(b"b", PONG), got(b"12345")]),
    "continuation after fragments": (
        text(b"a", TEXT) + part(b"b", last=True) + part(b"c") + text(b"d"), [got(b"ab"), 1002]),
    "continuation of nothing before a text": (part(b"x") + text(b"y"), [1002]),
    "last continuation of nothing before a text in fragments": (
        part(b"x", last=True) + text(b"a", TEXT) + part(b"b", last=True), [1002]),
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
    "fragment after a close": (text(b"a", TEXT) + close(1000) + part(b"b", last=True), [1000]),
    "long message, a close and a ping": (
        binary(b"x" * LIMIT) + close(1000) + ping(b"late"), [got(b"x" * LIMIT, BINARY), 1000]),
    "two closes": (close(1000) + close(1001), [1000]),
    "message before a close": (text(b"first") + close(1000), [got(b"first"), 1000]),
    **{f"close {code}": (close(code), [code]) for code in (1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 1012, 1013, 3000, 3999,
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


# Texts by the name of their section, as hexadecimal digits. Python's decoder says which are UTF-8.
KOSME = "\u03ba\u1f79\u03c3\u03bc\u03b5".encode()
UTF_8 = {
    "prefixes": [KOSME[:size].hex() for size in range(1, len(KOSME) + 1)],
    "first of each length": ["00", "c280", "e0a080", "f0908080", "f888808080", "fc8480808080"],
    "last of each length": ["7f", "dfbf", "efbfbf", "f48fbfbf", "f7bfbfbf", "fbbfbfbfbf", "fdbfbfbfbfbf"],
    "boundaries": ["ed9fbf", "ee8080", "efbfbd", "f48fbfbf", "f4908080"],
    "continuations": [
        "80", "bf", "80bf", "80bf80", "80bf80bf", "80bf80bf80", "80bf80bf80bf", bytes(range(0x80, 0xC0)).hex()],
    "lone starts": [
        b" ".join(bytes([start]) for start in range(first, last + 1)).hex() + "20"
        for first, last in ((0xC0, 0xDF), (0xE0, 0xEF), (0xF0, 0xF7), (0xF8, 0xFB), (0xFC, 0xFD))],
    "incomplete": [
        "c0", "e080", "f08080", "f8808080", "fc80808080", "df", "efbf", "f7bfbf", "fbbfbfbf", "fdbfbfbfbf",
        "c0e080f08080f8808080fc80808080dfefbff7bfbffbbfbfbffdbfbfbfbf"],
    "impossible bytes": ["fe", "ff", "fefeffff"],
    "overlong slash": ["c0af", "e080af", "f08080af", "f8808080af", "fc80808080af"],
    "longest overlong": ["c1bf", "e09fbf", "f08fbfbf", "f887bfbfbf", "fc83bfbfbfbf"],
    "overlong zero": ["c080", "e08080", "f0808080", "f880808080", "fc8080808080"],
    "surrogates": ["eda080", "edadbf", "edae80", "edafbf", "edb080", "edbe80", "edbfbf"],
    "pairs of surrogates": [
        "eda080edb080", "eda080edbfbf", "edadbfedb080", "edadbfedbfbf", "edae80edb080", "edae80edbfbf", "edafbfedb080",
        "edafbfedbfbf"],
    "noncharacters": [
        chr(plane << 16 | 0xFFFE | last).encode().hex() for plane in range(17) for last in (0, 1)],
    "specials": [chr(number).encode().hex() for number in range(0xFFF9, 0x10000)],
}


def expected_of(content):
    try:
        content.decode()
    except UnicodeDecodeError:
        return 1007
    return got(content)


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


@pytest.mark.parametrize("section", UTF_8)
def test_text_is_utf_8_or_closes_with_1007(resting, section):
    texts = [bytes.fromhex(digits) for digits in UTF_8[section]]
    for content in texts:
        with connect(resting) as socket:
            socket.client.send(text(content))
            converse(socket, [expected_of(content)])
        # In fragments of a byte each, as far as the fault is.
        with connect(resting) as socket:
            each = [frame(TEXT if at == 0 else CONTINUATION, content[at:at + 1]) for at in range(len(content))]
            # The server may close after the first fault.
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                for sent in [*each, part(last=True)]:
                    socket.client.send(sent)
            converse(socket, [expected_of(content)])


def unmasked(first, content):
    """Returns a frame with a mask of zeros. For long contents, this is a lot faster."""
    return frame(first, mask=b"\0\0\0\0", length=len(content)) + content


def pieces(content, size):
    """Returns a binary message in frames of at most this many bytes."""
    parts = [content[at:at + size] for at in range(0, len(content), size)]
    frames = [unmasked(BINARY, parts[0]), *(unmasked(CONTINUATION, one) for one in parts[1:-1])]
    return b"".join([*frames, unmasked(FIN | CONTINUATION, parts[-1])])


@pytest.mark.parametrize(("size", "frame_size"), [
    (1 << 16, 1300), (1 << 18, 64), (1 << 20, 256), (1 << 20, 4096), (1 << 22, 1 << 16), (1 << 24, 1 << 22)])
def test_large_message_in_frames_comes_back(resting, size, frame_size):
    content = bytes(range(256)) * (size // 256)
    with connect(resting, max_message=size) as socket:
        sender = threading.Thread(target=socket.client.send, args=(pieces(content, frame_size),))
        sender.start()
        assert receive(socket) == (BINARY, content)
        sender.join()


@pytest.mark.parametrize("chop", [64, 997, 2048])
def test_large_message_in_small_packets_comes_back(resting, chop):
    content = b"*" * (1 << 20)
    with connect(resting) as socket:
        sent = unmasked(FIN | TEXT, content)

        def send():
            for at in range(0, len(sent), chop):
                socket.client.send(sent[at:at + chop])

        sender = threading.Thread(target=send)
        sender.start()
        assert receive(socket) == (TEXT, content)
        sender.join()


@pytest.mark.parametrize("size", [0, 16, 64, 256, 1024, 4096, 16384])
def test_many_messages_come_back_one_after_the_other(resting, size):
    content = b"*" * size
    with connect(resting) as socket:
        for _ in range(200):
            socket.client.send(text(content))
            assert receive(socket) == (TEXT, content)
