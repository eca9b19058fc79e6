"""An application that violates PEP 3333 in ways that other servers accept. The path names the case."""


class Listed(list):
    """A framework's subclass of list, for headers."""


class Text(str):
    """A framework's subclass of str, for a status."""


class Data(bytes):
    """A framework's subclass of bytes, for a block."""


HEADERS = [("Content-Type", "text/plain"), ("X-A", "b")]


def status(start_response, code):
    start_response(f"{code} Own", HEADERS)
    return [b"body"]


def headers_tuple(start_response):
    start_response("200 OK", tuple(HEADERS))
    return [b"body"]


def headers_subclass(start_response):
    start_response("200 OK", Listed(HEADERS))
    return [b"body"]


def headers_generator(start_response):
    start_response("200 OK", (pair for pair in HEADERS))
    return [b"body"]


def headers_items(start_response):
    start_response("200 OK", dict(HEADERS).items())
    return [b"body"]


def headers_pairs(start_response):
    start_response("200 OK", [list(pair) for pair in HEADERS])
    return [b"body"]


def block_list(start_response):
    start_response("200 OK", HEADERS)
    return [b"bo", bytearray(b"d"), memoryview(b"xyx")[1:2]]


def block_iterated(start_response):
    start_response("200 OK", HEADERS)
    block = bytearray(b"bo")
    yield block
    block[:] = b"!!"
    yield memoryview(b"d")
    yield bytearray()
    yield b"y"


def block_large(start_response):
    start_response("200 OK", HEADERS)
    return [bytearray(b"x" * 3_000_000), b"y"]


def block_write(start_response):
    write = start_response("200 OK", HEADERS)
    write(bytearray(b"bo"))
    write(memoryview(b"dy"))
    return []


def framing(start_response):
    start_response("200 OK", [*HEADERS, ("Transfer-Encoding", "chunked")])
    return [b"4\r\nbody\r\n0\r\n\r\n"]


def hop(start_response):
    start_response("200 OK", [*HEADERS, ("Upgrade", "x"), ("Keep-Alive", "timeout=5")])
    return [b"body"]


def body_list(start_response):
    start_response("204 No Content", HEADERS)
    return [b"body"]


def body_iterated(start_response):
    start_response("304 Not Modified", HEADERS)
    yield b"body"


def fine(start_response):
    start_response(Text("200"), [*HEADERS, ("Connection", "keep-alive"), ("Content-Length", " 4 ")])
    return iter([Data(b"body")])


def application(environ, start_response):
    name, _, argument = environ["PATH_INFO"][1:].partition("/")
    case = globals()[name]
    return case(start_response, argument) if argument else case(start_response)
