"""Serves MODULE:CALLABLE with wsgiref's server, with a thread for each connection, and prints its port."""

import importlib
import os
import socketserver
import sys
from wsgiref.simple_server import WSGIServer, make_server

sys.path.insert(0, os.getcwd())
module, _, name = sys.argv[1].partition(":")
application = getattr(importlib.import_module(module), name)


class Threads(socketserver.ThreadingMixIn, WSGIServer):
    daemon_threads = True


with make_server("127.0.0.1", 0, application, server_class=Threads) as server:
    print(f"port {server.server_port}", file=sys.stderr, flush=True)
    server.serve_forever()
