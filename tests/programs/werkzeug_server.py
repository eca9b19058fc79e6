"""Serves MODULE:CALLABLE with werkzeug's server, with a thread for each connection, and prints its port."""

import importlib
import os
import sys

from werkzeug.serving import make_server

sys.path.insert(0, os.getcwd())
module, _, name = sys.argv[1].partition(":")
server = make_server("127.0.0.1", 0, getattr(importlib.import_module(module), name), threaded=True)
print(f"port {server.server_port}", file=sys.stderr, flush=True)
server.serve_forever()
