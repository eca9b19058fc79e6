"""`make_server` and `run_simple` with the names and behaviour of wsgiref's and werkzeug's servers, on Maypole.

*Owns*: the public names. *Runs on*: the caller's threads; the application runs on Maypole's. This package installs no
signal handler; in `run_simple` with a reloader, werkzeug installs its own.
"""

from ._run_simple import RELOAD_SECONDS as RELOAD_SECONDS
from ._run_simple import inherited_fd, run_simple
from ._run_simple import is_reloaded as is_reloaded
from ._werkzeug import BaseWSGIServer, ThreadedWSGIServer, make_server
from ._wsgiref import WSGIRequestHandler, WSGIServer

__all__ = [
    "BaseWSGIServer",
    "ThreadedWSGIServer",
    "WSGIRequestHandler",
    "WSGIServer",
    "inherited_fd",
    "make_server",
    "run_simple",
]
