"""A program that called eventlet.wsgi.server, now on Maypole. Run it with

    python examples/eventlet_server.py 8000

Only the imports have changed: `from eventlet import wsgi`, `eventlet.GreenPool` and `eventlet.listen` became what is
below, and `eventlet.monkey_patch()` is gone. The application runs on ordinary threads.
"""

import logging
import socket
import sys
import threading

import maypole
from maypole import eventlet as wsgi


def application(environ, start_response):
    body = f"Hello from {threading.current_thread().name}\n".encode()
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", str(len(body)))])
    return [body]


def main(port):
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(message)s")
    wsgi.server(
        socket.create_server(("127.0.0.1", port), backlog=128),
        application,
        log=logging.getLogger("eventlet.wsgi.server"),
        custom_pool=maypole.Pool(100),
        socket_timeout=900,
    )


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 8000)
