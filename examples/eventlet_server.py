"""A program that called eventlet.wsgi.server, now on Maypole.

    python examples/eventlet_server.py 8000

Only the imports have changed: `maypole.eventlet` replaces `eventlet.wsgi`, `maypole.Pool` replaces `eventlet.GreenPool`,
and `socket.create_server` replaces `eventlet.listen`. `eventlet.monkey_patch()` is gone, because the application runs on
ordinary threads. SIGTERM raises SystemExit, after which `wsgi.server` finishes running requests.
"""

import logging
import signal
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
    signal.signal(signal.SIGTERM, lambda *_: sys.exit())
    wsgi.server(
        socket.create_server(("127.0.0.1", port), backlog=128),
        application,
        log=logging.getLogger("eventlet.wsgi.server"),
        custom_pool=maypole.Pool(100),
        socket_timeout=900,
    )


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 8000)
