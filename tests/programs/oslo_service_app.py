"""The application `probe` under a launcher of OpenStack's, for test_oslo.py.

    oslo_service_app.py LAUNCHER WORKERS

LAUNCHER is ServiceLauncher, ProcessLauncher, spawn (ProcessLauncher with start_method="spawn"), no_fork
(ProcessLauncher without a child), eventlet (ProcessLauncher of the eventlet backend) or cotyledon. The log goes to
standard error, and so does a line for each request to /slow that has reached the application. The launchers decide
which thread runs what.
"""

import logging
import pathlib
import sys
import threading
from urllib.parse import parse_qs

import cotyledon
from oslo_config import cfg
from oslo_service import backend

LAUNCHER, WORKERS = sys.argv[1], int(sys.argv[2])
backend.init_backend(backend.BackendType.EVENTLET if LAUNCHER == "eventlet" else backend.BackendType.THREADING)

from oslo_service import service

sys.path.append(str(pathlib.Path(__file__).resolve().parent.parent / "apps"))

import probe
from maypole import oslo

NEVER = threading.Event()

# This stands here because a spawned worker imports this file and does not call `main`.
logging.basicConfig(level=logging.INFO, format="%(name)s %(levelname)s %(message)s")
# The load has too many requests to log.
logging.getLogger("eventlet.wsgi.server").setLevel(logging.WARNING)


def application(environ, start_response):
    """The application `probe`, and /slow, which logs its start before it sleeps."""
    if environ["PATH_INFO"] != "/slow":
        return probe.application(environ, start_response)
    query = {k: v[0] for k, v in parse_qs(environ["QUERY_STRING"]).items()}
    logging.info("inside %s", query["name"])
    NEVER.wait(float(query["s"]))
    return probe.reply(start_response, "slow " + query["name"])


class Web(cotyledon.Service):
    """The worker for cotyledon without oslo.service."""

    def __init__(self, worker_id, server):
        super().__init__(worker_id)
        self.server = server

    def run(self):
        self.server.start()
        self.server.wait()

    def terminate(self):
        self.server.stop()


def main():
    conf = cfg.ConfigOpts()
    conf([], project="probe")
    server = oslo.Server(conf, "probe", application, "127.0.0.1")
    if LAUNCHER == "cotyledon":
        manager = cotyledon.ServiceManager()
        manager.add(Web, WORKERS, args=(server,))
        return manager.run()
    options = {"no_fork": {"no_fork": True}, "spawn": {"start_method": "spawn"}}.get(LAUNCHER, {})
    kind = service.ServiceLauncher if LAUNCHER == "ServiceLauncher" else service.ProcessLauncher
    launcher = kind(conf, **options)
    launcher.launch_service(server, workers=WORKERS)
    return launcher.wait()


if __name__ == "__main__":
    sys.exit(main())
