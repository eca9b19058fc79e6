"""What the application returns: iterables, `close`, exceptions on the way, and files."""

import time

from pep3333.client import check, cut, good, need

FILE = bytes(range(256)) * 1024


def check_body(name, body=b"abc"):
    @check("MUST", name=name)
    def whole(client):
        good(client.call(name), body)


for _name in (
    "it_list",
    "it_tuple",
    "it_gen",
    "it_getitem",
    "it_iteronly",
    "it_iterator",
    "it_body",
    "it_listsub",
    "it_emptychunks",
    "it_emptychunks_gen",
    "lazy_start",
    "headers_copied",
):
    check_body(_name)
for _name in ("it_empty", "it_empty_gen", "it_empty_body"):
    check_body(_name, b"")


@check("MUST")
def it_big(client):
    reply = good(client.call("it_big"), b"x" * 2_000_000)
    need(reply.count == 1, "more than one response")


def check_streamed(name, call):
    @check("MUST", name=name)
    def at_once(client):
        """A block is sent before the next one is asked for."""
        reply = good(client.call(call), b"firstsecond")
        need(reply.first_block < 0.9, f"the first block came after {reply.first_block:.1f} s")


check_streamed("stream_block", "stream")
check_streamed("write_stream", "write_stream")


# Exceptions, and blocks of the wrong type.


def check_500(name, level):
    @check(level, name=name)
    def failed(client):
        reply = client.call(name)
        client.is_500(reply)
        if name.startswith(("raise", "iter")):
            need(client.logged(f"MARK-{reply.ident}"), "the traceback is not in the log")
            need(b"MARK" not in reply.received, "the traceback went to the client")


for _name, _level in (
    ("no_start", "SHOULD"),
    ("lazy_never", "SHOULD"),
    ("lazy_late", "SHOULD"),
    ("bad_str", "SHOULD"),
    ("bad_int", "SHOULD"),
    ("bad_none", "SHOULD"),
    ("bad_int_ret", "SHOULD"),
    ("raise_call", "MUST"),
    ("raise_after_start", "MUST"),
    ("raise_stopiteration", "SHOULD"),
    ("raise_first", "MUST"),
    ("iter_fails", "MUST"),
):
    check_500(_name, _level)


@check("MUST")
def raise_mid(client):
    """An exception after the first block: the client must see that the response was cut short."""
    reply = client.call("raise_mid")
    cut(reply)
    need(client.logged(f"MARK-{reply.ident}"), "the traceback is not in the log")
    client.alive()


@check("MUST")
def raise_mid_cl(client):
    cut(client.call("raise_mid_cl"))


# close().


@check("MUST")
def close_normal(client):
    reply = client.call("it_body")
    need(client.events(reply, "close"), "close() was not called")
    # A second call would come soon after the first.
    time.sleep(0.2)
    closes = client.events(reply, "close")
    need(len(closes) == 1, f"close() was called {len(closes)} times")


def check_close(name, method="GET"):
    @check("MUST", name=f"close_{name}" + ("_head" if method == "HEAD" else ""))
    def once(client):
        closes = client.events(client.call(name, method=method), "close")
        need(len(closes) == 1, f"close() was called {len(closes)} times")


for _name in ("it_empty_body", "it_listsub", "raise_first", "raise_mid", "iter_fails", "bad_later_str"):
    check_close(_name)
check_close("head_body", method="HEAD")


@check("MUST")
def close_client_gone_fin(client):
    """close() is called when the client leaves in the middle of the response."""
    reply = client.call("endless", leave=(False, 0.1))
    need(len(client.events(reply, "close", seconds=8)) == 1, "close() was not called")
    client.alive()


@check("MUST")
def close_client_gone_rst(client):
    reply = client.call("slow_body", leave=(True, 0.15))
    need(len(client.events(reply, "close", seconds=12)) == 1, "close() was not called")
    client.alive()


@check("MUST")
def close_raises(client):
    reply = client.call("close_raises")
    need((reply.status, reply.body) == (200, b"abc"), f"status {reply.status}")
    need(client.logged(f"MARK-{reply.ident}"), "not in the log")
    client.alive()


# wsgi.file_wrapper.


def check_file(name, level, body):
    @check(level, name=name)
    def sent(client):
        good(client.call(name), body)


check_file("fw_file", "MUST", FILE)
check_file("fw_offset", "SHOULD", FILE[1000:])
check_file("fw_bytesio", "MUST", b"hello file")


@check("MUST")
def fw_close(client):
    closes = client.events(client.call("fw_offset"), "close")
    need(len(closes) == 1, "the file was not closed")
