"""The workers follow the processors and the environment, as images for containers do it."""

import json
import multiprocessing
import os

per_core = float(os.getenv("WORKERS_PER_CORE", "1"))
cores = multiprocessing.cpu_count()
wanted = os.getenv("WORKERS_MAX")
computed = max(int(per_core * cores), 2)
if wanted:
    computed = min(computed, int(wanted))
host = os.getenv("HOST", "0.0.0.0")
port = os.getenv("LISTEN_PORT", "8080")
level = os.getenv("LOG_LEVEL", "info")

bind = f"{host}:{port}"
workers = computed
worker_tmp_dir = "/dev/shm"
graceful_timeout = int(os.getenv("GRACEFUL_TIMEOUT", "120"))
timeout = int(os.getenv("TIMEOUT", "120"))
keepalive = int(os.getenv("KEEP_ALIVE", "5"))
loglevel = level
errorlog = os.getenv("ERROR_LOG", "-") or None
accesslog = os.getenv("ACCESS_LOG", "-") or None

print(json.dumps({"workers": workers, "bind": bind}))
