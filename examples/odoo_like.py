"""A program that runs its server on a thread, as Odoo does, and handles signals itself.

    python examples/odoo_like.py 127.0.0.1:8069

SIGINT and SIGTERM finish running requests and end the program. A second signal ends it at once.
"""

import os
import signal
import sys
import threading
import time

from maypole.serving import ThreadedWSGIServer


class Program:
    """One server, and the handler for signals."""

    def __init__(self, host, port):
        self.signals = 0
        self.httpd = ThreadedWSGIServer(host, port, self.application)

    def application(self, environ, start_response):
        # Each request runs on a thread that `threading` lists. The application may rename it.
        threading.current_thread().name = f"request {environ['PATH_INFO']}"
        start_response("200 OK", [("Content-Type", "text/plain")])
        return [f"Hello from a thread, one of {len(threading.enumerate())}\n".encode()]

    def handle(self, number, frame):
        self.signals += 1
        if self.signals > 1:
            os._exit(0)
        raise KeyboardInterrupt

    def run(self):
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self.handle)
        threading.Thread(target=self.httpd.serve_forever, name="httpd", daemon=True).start()
        print(f"serving on port {self.httpd.server_port}", flush=True)
        try:
            # The kernel may give a signal to another thread. That does not wake this one, so sleep in short pieces.
            while True:
                time.sleep(0.5)
        except KeyboardInterrupt:
            pass
        self.httpd.shutdown()
        print("stopped", flush=True)


if __name__ == "__main__":
    host, _, port = (sys.argv[1:] or ["127.0.0.1:8069"])[0].rpartition(":")
    Program(host, int(port)).run()
