"""Starts peers that have no command line: launch.py bjoern|fastwsgi MODULE:APPLICATION PORT"""

import importlib
import sys

kind, target, port = sys.argv[1], sys.argv[2], int(sys.argv[3])
sys.path.insert(0, ".")
module, _, name = target.partition(":")
application = getattr(importlib.import_module(module), name)

if kind == "bjoern":
    import bjoern

    bjoern.run(application, "127.0.0.1", port, listen_backlog=4096)
elif kind == "fastwsgi":
    import fastwsgi

    fastwsgi.server.backlog = 4096
    fastwsgi.run(application, "127.0.0.1", port)
else:
    sys.exit(f"unknown server {kind}")
