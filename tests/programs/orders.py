"""Runs every order of the events of one response: the call returns, another thread writes, another reads, the iterable
is closed, the client leaves, the server stops. Prints what went wrong, as JSON.

Each order has a separate server. A step may wait: a write to a client that reads nothing, a read of a body that does
not arrive, a stop. It continues in its thread while the next step begins.
"""

import itertools
import json
import socket
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import maypole

RETURNS, CLOSES, WRITE, READ, LEAVES, STOP = "returns", "closes", "write", "read", "leaves", "stop"
PATIENCE = 60
BLOCK = bytes(1 << 20)
SETTINGS = {
    "stream_requests": "always", "response_buffer": 65536, "response_spool": 65536, "write_timeout": 30,
    "graceful_timeout": 1, "pool_size": 2,
}


def orders():
    """Yields all orders, with and without each optional event. An iterable is closed after the call has returned."""
    for count in range(5):
        for others in itertools.combinations((WRITE, READ, LEAVES, STOP), count):
            for order in itertools.permutations((RETURNS, CLOSES, *others)):
                if order.index(RETURNS) < order.index(CLOSES):
                    yield order


class Case:
    def __init__(self, order):
        self.order = order
        self.begun = {step: threading.Event() for step in (RETURNS, CLOSES, WRITE, READ)}
        self.entered, self.closed, self.write = threading.Event(), 0, None
        self.helpers = []
        self.finished = {}

    def application(self, environ, start_response):
        self.write = start_response("200 OK", [("Content-Type", "text/plain")])
        self.input = environ["wsgi.input"]
        self.helpers = [threading.Thread(target=self.help, args=(step,), daemon=True) for step in (WRITE, READ)]
        for helper in self.helpers:
            helper.start()
        self.entered.set()
        self.begun[RETURNS].wait(PATIENCE)
        return self

    def __iter__(self):
        return self

    def __next__(self):
        self.begun[CLOSES].wait(PATIENCE)
        raise StopIteration

    def close(self):
        self.closed += 1

    def help(self, step):
        """A thread of the application that writes or reads."""
        self.begun[step].wait(PATIENCE)
        try:
            if step not in self.order:
                return
            for _ in range(8):
                if step == WRITE:
                    self.write(BLOCK)
                elif not self.input.read(1 << 20):
                    break
            if step == READ:
                self.input.reopen()
                self.input.read()
            self.finished[step] = "done"
        except (OSError, RuntimeError) as error:
            self.finished[step] = type(error).__name__

    def run(self):
        server = maypole.Server(self.application, "127.0.0.1:0", **SETTINGS)
        server.start()
        client = socket.create_connection(("127.0.0.1", server.port))
        client.settimeout(PATIENCE)
        # The client sends only a part of the body, so a reader waits for the rest.
        client.sendall(b"POST / HTTP/1.1\r\nHost: h\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n")
        stops = []
        wrong = []
        assert self.entered.wait(PATIENCE)
        for step in self.order:
            if step == LEAVES:
                client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
                client.close()
            elif step == STOP:
                stops.append(threading.Thread(target=server.stop, kwargs={"timeout": 0.2}, daemon=True))
                stops[0].start()
            else:
                self.begun[step].set()
            time.sleep(0.002)
        for event in self.begun.values():
            event.set()
        if LEAVES not in self.order:
            try:
                while client.recv(1 << 18):
                    pass
            except TimeoutError:
                wrong.append("the response does not end")
            except OSError:
                pass
            client.close()
        end = time.monotonic() + PATIENCE
        for thread in (*self.helpers, *stops):
            thread.join(max(0, end - time.monotonic()))
            if thread.is_alive():
                wrong.append(f"a thread does not end: {thread.name}")
        while server.stats()["pool_taken"] and time.monotonic() < end:
            time.sleep(0.005)
        if server.stats()["pool_taken"]:
            wrong.append("the permit is lost")
        if not server.stop(timeout=PATIENCE):
            wrong.append("the server does not stop")
        while self.closed == 0 and time.monotonic() < end:
            time.sleep(0.005)
        server.close()
        if self.closed != 1:
            wrong.append(f"closed {self.closed} times")
        return {"order": self.order, "wrong": wrong, "finished": self.finished}


def main():
    wanted = [order for order in orders() if len(sys.argv) < 2 or len(order) <= int(sys.argv[1])]
    with ThreadPoolExecutor(8) as pool:
        seen = list(pool.map(lambda order: Case(order).run(), wanted))
    wrong = [each for each in seen if each["wrong"]]
    ways = sorted({f"{step} {how}" for each in seen for step, how in each["finished"].items()})
    print(json.dumps({"orders": len(seen), "wrong": wrong[:20], "wrongs": len(wrong), "ways": ways}))


main()
