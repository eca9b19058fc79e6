"""`make_server` and the server classes, with the signatures of werkzeug's, on Maypole.

*Owns*: nothing; the servers are those of `_wsgiref`. *Runs on*: the caller's thread. *Source*: `werkzeug.serving`.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from .. import _native
from .._addresses import unix_address
from .._tls import settings_of
from ._wsgiref import WSGIServer

if TYPE_CHECKING:
    from typing import ClassVar

    from _typeshed.wsgi import WSGIApplication


class ThreadedWSGIServer(WSGIServer):
    """A server with the signature of `werkzeug.serving.ThreadedWSGIServer`. Programs may derive from it."""

    def __init__(
        self,
        host: str,
        port: int,
        app: WSGIApplication,
        handler: type | None = None,
        passthrough_errors: bool = False,
        ssl_context: object = None,
        fd: int | None = None,
        **settings: Any,
    ) -> None:
        settings = {**settings_of(ssl_context, host), **settings}
        if passthrough_errors:
            raise ValueError("passthrough_errors is not supported: an exception is logged, and the client gets a 500")
        self.address_family = _family_of(host)
        self.passthrough_errors = False
        path = host[len("unix:"):] if self.address_family == socket.AF_UNIX else None
        address: Any = (host, int(port)) if path is None else unix_address(path.removeprefix("//"))
        if app is not None:
            _native.check_application(app)
        super().__init__(address, handler, bind_and_activate=fd is None, **settings)
        self.application = app
        self.ssl_context = ssl_context
        if fd is not None:
            self.socket.close()
            self.socket = socket.socket(fileno=os.dup(fd))
            self._see_address()
            self._engine()
        self.host = host
        self.port = self.server_port

    @property
    def app(self) -> WSGIApplication | None:
        return self.application

    @app.setter
    def app(self, application: WSGIApplication) -> None:
        self.application = application

    def serve_forever(self, poll_interval: float = 0.5) -> None:
        """Serves until `shutdown()` or Ctrl-C, and closes the socket. Ctrl-C raises no exception, as with werkzeug."""
        try:
            super().serve_forever(poll_interval)
        except KeyboardInterrupt:
            pass
        finally:
            self.server_close()


class BaseWSGIServer(ThreadedWSGIServer):
    """A server with one thread for the application, as a replacement of `werkzeug.serving.BaseWSGIServer`."""

    multithread = False
    settings: ClassVar[Mapping[str, Any]] = {"threads": 1}


def make_server(
    host: str,
    port: int,
    app: WSGIApplication,
    threaded: bool = True,
    processes: int = 1,
    request_handler: type | None = None,
    passthrough_errors: bool = False,
    ssl_context: object = None,
    fd: int | None = None,
    *,
    server_class: type | None = None,
    handler_class: type | None = None,
    **settings: Any,
) -> WSGIServer:
    """Makes a server that listens but does not serve yet, with the arguments of werkzeug's and wsgiref's `make_server`.

    `threaded=False` gives the application one thread. `processes` must be 1. `fd` is the descriptor of a listening socket
    that is used instead of binding one. `server_class` must derive from `WSGIServer`. `settings` are those of
    `maypole.Server`.

    Raises OSError if the address cannot be bound, TypeError for an unknown setting and for a class that overrides a
    method which maypole never calls, and ValueError for a wrong value and for an `ssl.SSLContext`.
    """
    if isinstance(threaded, type):
        raise TypeError("make_server() takes a server class by keyword only: server_class=…")
    if processes != 1:
        raise ValueError("processes must be 1: maypole serves from one process with many threads")
    handler = request_handler or handler_class
    if server_class is None:
        kind = ThreadedWSGIServer if threaded else BaseWSGIServer
        return kind(host, port, app, handler, passthrough_errors, ssl_context, fd, **settings)
    if not issubclass(server_class, WSGIServer):
        raise TypeError(f"server_class must derive from maypole.serving.WSGIServer, and {server_class.__name__} does not")
    if not threaded:
        settings = {"threads": 1, **settings}
    if issubclass(server_class, ThreadedWSGIServer):
        return server_class(host, port, app, handler, passthrough_errors, ssl_context, fd, **settings)
    if ssl_context is not None or passthrough_errors or fd is not None:
        raise TypeError("ssl_context, passthrough_errors and fd need a server_class that derives from ThreadedWSGIServer")
    server = server_class((host, port), handler, **settings)
    server.set_app(app)
    return server


def _family_of(host: str) -> socket.AddressFamily:
    """Returns the address family of a host: an address, a name or `unix:PATH`."""
    if host.startswith("unix:"):
        return socket.AF_UNIX
    return socket.AF_INET6 if ":" in host else socket.AF_INET
