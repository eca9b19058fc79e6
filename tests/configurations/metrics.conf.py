"""Metrics: a variable for a library, statsd, and a hook that cleans up after a worker."""

import os

os.environ["PROMETHEUS_MULTIPROC_DIR"] = "/tmp/shop-metrics"

bind = ":8000"
workers = 2
worker_class = "gevent"
statsd_host = "localhost:8125"
statsd_prefix = "shop"
reload = bool(os.getenv("SHOP_DEVELOPMENT"))
reload_extra_files = ["settings.yaml"]
max_requests_jitter = 50


def child_exit(server, worker):
    from pathlib import Path

    for file in Path(os.environ["PROMETHEUS_MULTIPROC_DIR"]).glob(f"*_{worker.pid}.db"):
        file.unlink()
