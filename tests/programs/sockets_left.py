"""A program with a server of WebSockets, for what stays of them: those whose calls fail, and those that a stop finds.

It prints its observations as one line of JSON.
"""

import faulthandler
import gc
import json
import logging
import socket
import threading
import time
import weakref

import maypole

HANDSHAKE = (
    "GET {} HTTP/1.1\r\nHost: test.example\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
)
# A text of one letter, with a mask of zeros.
MESSAGE = b"\x81\x81\0\0\0\0a"
INSIDE, GO_ON = threading.Event(), threading.Event()
SEEN = []


def app(environ, start_response):
    def on_message(websocket, message):
        INSIDE.set()
        GO_ON.wait(60)

    # The socket and its functions refer to each other.
    on_message.socket = environ["maypole.websocket"].accept(on_message, lambda websocket, code, reason: on_message)
    SEEN.extend((weakref.ref(on_message), weakref.ref(on_message.socket)))
    if environ["PATH_INFO"] == "/fails":
        raise RuntimeError("made to fail")
    return []


def open_sockets(server, path, status):
    clients = [socket.create_connection((server.host, server.port), 20) for _ in range(10)]
    for client in clients:
        client.sendall(HANDSHAKE.format(path).encode())
        assert client.recv(4096).startswith(b"HTTP/1.1 %d " % status)
    return clients


def left(server):
    """Returns how many functions and sockets there are, once none is left or it is clear that some stay."""
    end, count = time.monotonic() + 20, len(SEEN)
    while count and time.monotonic() < end:
        # A call into the package frees what its threads have released.
        server.stats()
        gc.collect()
        count = sum(one() is not None for one in SEEN)
        time.sleep(0.01)
    return count


def main():
    server = maypole.Server(app, "127.0.0.1:0", threads=1)
    server.start()
    open_sockets(server, "/fails", 500)
    of_failed_calls = left(server)
    clients = open_sockets(server, "/", 101)
    for client in clients:
        client.sendall(MESSAGE * 3)
    assert INSIDE.wait(20)
    stopped = server.stop(timeout=0.2)
    GO_ON.set()
    server.close()
    print(json.dumps({"seen": len(SEEN), "of_failed_calls": of_failed_calls, "stopped": stopped, "left": left(server)}))


if __name__ == "__main__":
    logging.getLogger("maypole").addHandler(logging.NullHandler())
    faulthandler.dump_traceback_later(100, exit=True)
    main()
