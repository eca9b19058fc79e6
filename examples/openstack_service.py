"""A service under oslo.service (pip install maypole "oslo.service[threading]"). Two workers on port 8000:

    python examples/openstack_service.py --port 8000 --workers 2

SIGHUP replaces the workers, and SIGTERM stops the service. Neither loses a request.
"""

import logging
import sys

from oslo_config import cfg
from oslo_service import backend

# Before oslo_service.service is imported, which otherwise chooses eventlet.
backend.init_backend(backend.BackendType.THREADING)

from oslo_service import service

from hello import application
from maypole import oslo


def main():
    logging.basicConfig(level=logging.INFO)
    conf = cfg.ConfigOpts()
    conf.register_cli_opts([cfg.StrOpt("host", default="127.0.0.1"), cfg.PortOpt("port", default=8000),
                            cfg.IntOpt("workers", default=1, min=1)])
    conf(sys.argv[1:], project="hello")
    server = oslo.Server(conf, "hello", application, conf.host, conf.port)
    return service.launch(conf, server, workers=conf.workers, restart_method="mutate").wait()


if __name__ == "__main__":
    sys.exit(main())
