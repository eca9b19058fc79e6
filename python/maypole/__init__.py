"""Maypole: a WSGI server for many clients at once, inside a Python program.

`Server` is a server that the program starts and stops. `serve` does the same as the command line. `Pool` limits the
requests of several servers together. `AccessEntry` describes a finished request. `worker` returns the place of this
process among the workers of a service. `RequestTimeout` interrupts the code of a request that takes too long. `Event` and
`wait` are for long polling. The module `maypole.sse` has server-sent events.

Owns: the public names. The import starts no thread, reads no command line and installs no signal handler.
"""

from ._interrupt import RequestTimeout
from ._native import AccessEntry, Pool, __version__
from ._server import Server, serve
from ._settings import ProcessSettings, Settings
from ._waiting import Event, wait
from ._worker import Worker, worker

__all__ = ["AccessEntry", "Event", "Pool", "ProcessSettings", "RequestTimeout", "Server", "Settings", "Worker", "__version__",
           "serve", "wait", "worker"]
