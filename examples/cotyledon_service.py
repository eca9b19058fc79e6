"""A service under cotyledon (pip install maypole cotyledon). Two workers on port 8000:

    python examples/cotyledon_service.py 8000 2

SIGHUP replaces the workers, and SIGTERM stops the service. Neither loses a request.
"""

import logging
import sys

import cotyledon

import maypole
from hello import application


class Web(cotyledon.Service):
    """One worker. cotyledon makes it in the forked child. The server was made in the parent, where it listens."""

    def __init__(self, worker_id, server):
        super().__init__(worker_id)
        self.server = server

    def run(self):
        self.server.start()
        logging.info("serving on %s", ", ".join(self.server.addresses))
        self.server.wait()

    def terminate(self):
        self.server.stop()


def main(port, workers=1):
    logging.basicConfig(level=logging.INFO)
    server = maypole.Server(application, f"127.0.0.1:{port}")
    manager = cotyledon.ServiceManager(graceful_shutdown_timeout=60)
    manager.add(Web, workers, args=(server,))
    manager.run()


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
