"""Functions that are called when processes start and end."""

import threading

bind = ["127.0.0.1:8000", "[::1]:8000"]
workers = 3
wsgi_app = "probe"


def when_ready(server):
    server.log.info("ready, spawning workers")


def post_fork(server, worker):
    threading.Thread(target=lambda: None, daemon=True).start()
    server.log.info("worker %s started", worker.pid)


def worker_int(worker):
    worker.log.info("worker received INT or QUIT")


def child_exit(server, worker):
    server.log.info("worker %s ended", worker.pid)


def on_exit(server):
    server.log.info("bye")
