"""A server inside a program that does something else.

    python examples/embedded.py

The program counts to 3000. A request gets the current count. The program prints the address, and ends by itself after 30 s.
"""

import sys
import time

import maypole


class Work:
    """The program's own work, and an application that reports on it."""

    def __init__(self, steps):
        self.steps = steps
        self.done = 0

    def run(self):
        while self.done < self.steps:
            time.sleep(0.01)
            self.done += 1

    def report(self, environ, start_response):
        start_response("200 OK", [("Content-Type", "text/plain")])
        return [f"{self.done} of {self.steps}\n".encode()]


if __name__ == "__main__":
    work = Work(steps=int(sys.argv[1]) if sys.argv[1:] else 3000)
    # The server starts when the block begins. When the block ends, it finishes running requests and frees the port.
    with maypole.Server(work.report, "127.0.0.1:0") as server:
        print(f"ask http://{server.host}:{server.port}/", flush=True)
        work.run()
        print(f"done; {server.stats()['served']} asked", flush=True)
