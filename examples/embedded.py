"""A server inside a program that has something else to do.

    python examples/embedded.py

The program counts; whoever asks the server is told how far it is. It ends by itself.
"""

import sys
import time

import maypole


class Work:
    """Something that takes its time."""

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
    # Started when the block begins; when it ends, what runs is finished and the port is free again.
    with maypole.Server(work.report, "127.0.0.1:0") as server:
        print(f"ask http://{server.host}:{server.port}/", flush=True)
        work.run()
        print(f"done; {server.stats()['served']} asked", flush=True)
