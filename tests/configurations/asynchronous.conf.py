"""An application for an asynchronous worker: what another server has to do is named."""

import os

bind = "0.0.0.0:" + os.environ.get("SHOP_PORT", "8000")
workers = 4
worker_class = "uvicorn.workers.UvicornWorker"
worker_connections = 2000
forwarded_allow_ips = "*"
secure_scheme_headers = {"X-FORWARDED-PROTO": "https"}
