"""Starts peers that have no command line: launch.py bjoern|fastwsgi|eventlet MODULE:APPLICATION PORT"""

import importlib
import sys

kind, target, port = sys.argv[1], sys.argv[2], int(sys.argv[3])
sys.path.insert(0, ".")
if kind == "eventlet":
    import eventlet

    # Before the application is imported, so that its waits do not block other requests.
    eventlet.monkey_patch()
module, _, name = target.partition(":")
application = getattr(importlib.import_module(module), name)

if kind == "bjoern":
    import bjoern

    bjoern.run(application, "127.0.0.1", port, listen_backlog=4096)
elif kind == "fastwsgi":
    import fastwsgi

    fastwsgi.server.backlog = 4096
    fastwsgi.run(application, "127.0.0.1", port)
elif kind == "eventlet":
    from eventlet import wsgi

    # Each client needs a green thread, idle ones too. With the default of 1,000, further clients get no response.
    clients_max = 20_000
    listener = eventlet.listen(("127.0.0.1", port), backlog=4096)
    wsgi.server(listener, application, log_output=False, debug=False, max_size=clients_max, custom_pool=eventlet.GreenPool(clients_max))
else:
    sys.exit(f"unknown server {kind}")
