"""`WSGIServer`, with the methods and behaviour of wsgiref's server, on Maypole.

*Owns*: the listening socket. *Runs on*: the caller's threads; the application runs on Maypole's. *Invariants*: no request
is served before `serve_forever` or `handle_request`. A class that overrides a method which is never called is refused.
*Source*: `wsgiref.simple_server` and `socketserver` of the Python library.
"""

from __future__ import annotations

import socket
import sys
import threading
import time
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import maypole

from .. import _native
from .._addresses import remove_stale, unix_text

if TYPE_CHECKING:
    from typing import ClassVar

    from typing_extensions import Self

    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

# Methods of a handler class that only make log lines.
_HANDLER_WORDS = frozenset(
    ["address_string", "log", "log_date_time_string", "log_error", "log_message", "log_request", "version_string"]
)
# Modules with the handler classes from which programs derive their own.
_HANDLER_MODULES = frozenset(
    ["builtins", "http.server", __name__, "socketserver", "werkzeug.serving", "wsgiref.simple_server"]
)
# Methods that a socketserver calls for each connection. Maypole never calls them.
_NEVER_ASKED = ("get_request", "verify_request", "process_request", "finish_request")
# A request of `handle_request` waits at most this long, in seconds, until the server has stopped accepting.
_CLOSING_MAX = 1.0


class WSGIRequestHandler:
    """A base class for programs that derive a handler class. Maypole handles HTTP itself and never calls it."""


class WSGIServer:
    """A server that behaves like `wsgiref.simple_server.WSGIServer`: make it, then call `serve_forever()`.

    A subclass may override `server_bind` and `server_activate`, which work on `self.socket`; `server_bind` may replace it.
    `settings` of the class and of the call are those of `maypole.Server`. Raises OSError if the address cannot be bound.
    """

    address_family = socket.AF_INET
    socket_type = socket.SOCK_STREAM
    allow_reuse_address = True
    allow_reuse_port = False
    #: The number of connections that may wait in the kernel until the server accepts them.
    request_queue_size = 2048
    #: `handle_request` waits at most this long, in seconds; None: without limit.
    timeout: float | None = None
    multithread = True
    multiprocess = False
    ssl_context: object = None
    #: Settings of `maypole.Server` for all servers of this class.
    settings: ClassVar[Mapping[str, Any]] = {}

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        for name in _NEVER_ASKED:
            method = getattr(cls, name, None)
            if method is not None and method.__module__ != "socketserver":
                raise TypeError(
                    f"{cls.__name__}.{name} would never be called, because maypole accepts connections itself: use a "
                    "setting instead (threads=, pool_size=, max_connections=, …) or a wrapper around the application"
                )

    def __init__(
        self,
        server_address: Any,
        RequestHandlerClass: type | None = None,
        bind_and_activate: bool = True,
        **settings: Any,
    ) -> None:
        _check_handler(RequestHandlerClass)
        self.server_address: Any = server_address
        self.server_name: str = ""
        self.server_port: int = 0
        self.RequestHandlerClass = RequestHandlerClass
        self.application: WSGIApplication | None = None
        self._settings = {**self.settings, **settings}
        self._server: maypole.Server | None = None
        self._server_socket: socket.socket | None = None
        # Re-entrant, because a signal handler may call shutdown().
        self._lock = threading.RLock()
        self._stop_asked = False
        self._serving_thread: int | None = None
        self._ended = threading.Event()
        self._ended.set()
        self.socket = first = socket.socket(self.address_family, self.socket_type)
        if not bind_and_activate:
            return
        try:
            self.server_bind()
            self.server_activate()
            self._see_address()
            # Make the server now, so that a wrong setting raises here and not in the thread that serves later.
            self._engine()
        except BaseException:
            self.server_close()
            raise
        finally:
            if self.socket is not first:
                first.close()

    # Methods that a subclass may override.

    def server_bind(self) -> None:
        """Binds `self.socket` to `self.server_address`."""
        if self.address_family == socket.AF_UNIX:
            remove_stale(self.server_address)
        else:
            if self.allow_reuse_address:
                self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if self.allow_reuse_port:
                self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        self.socket.bind(self.server_address)
        self._see_address()

    def server_activate(self) -> None:
        """Makes `self.socket` listen."""
        self.socket.listen(int(self._settings.get("backlog") or self.request_queue_size))

    def service_actions(self) -> None:
        """Does nothing. If a subclass overrides it, `serve_forever` calls it every `poll_interval` seconds."""

    def handle_timeout(self) -> None:
        """Does nothing. `handle_request` calls it when `timeout` has passed without a request."""

    # Methods that a program calls.

    def get_app(self) -> WSGIApplication | None:
        """Returns the application."""
        return self.application

    def set_app(self, application: WSGIApplication) -> None:
        """Sets the application for the requests that follow."""
        if application is not None:
            _native.check_application(application)
        self.application = application

    def fileno(self) -> int:
        """Returns the descriptor of the listening socket."""
        return self.socket.fileno()

    def serve_forever(self, poll_interval: float = 0.5) -> None:
        """Serves until `shutdown()`, or until a signal handler raises. Finishes running requests before it returns."""
        self._ended.clear()
        self._serving_thread = threading.get_ident()
        try:
            server = self._engine()
            with self._lock:
                if not self._stop_asked:
                    server.start()
            try:
                idle = type(self).service_actions is WSGIServer.service_actions
                while not self._stop_asked and not server.wait(None if idle else poll_interval):
                    self.service_actions()
            finally:
                server.stop()
        finally:
            self._serving_thread = None
            self._stop_asked = False
            self._ended.set()

    def shutdown(self) -> None:
        """Ends `serve_forever`: it finishes running requests and returns, and then this call returns too.

        In a signal handler and inside a request it does not wait, because these have to end first. As with
        `socketserver`, a `serve_forever` that begins afterwards returns at once.
        """
        with self._lock:
            self._stop_asked = True
        if self._server is not None:
            self._server.stop()
        if self._serving_thread != threading.get_ident() and not _native.on_executor():
            self._ended.wait()

    def handle_request(self) -> None:
        """Serves one request and returns at the end of its response. Other clients wait in the kernel's queue meanwhile.

        If no request comes within `timeout` seconds, calls `handle_timeout()` instead.
        """
        waits = [wait for wait in (self.socket.gettimeout(), self.timeout) if wait is not None]
        single = _Single(self)
        if not single.serve(min(waits, default=None)):
            self.handle_timeout()

    def server_close(self) -> None:
        """Closes the listening socket, and cuts off requests that still run."""
        if self._server is not None:
            self._server.close()
            self._server = None
        self.socket.close()

    def log_startup(self) -> None:
        """Writes the addresses to standard error."""
        for address in self._engine().addresses:
            print(f" * Running on {address}", file=sys.stderr, flush=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.server_close()

    # Helpers.

    def _see_address(self) -> None:
        """Takes the address from the socket, which a subclass or another program may have bound."""
        self.server_address = self.socket.getsockname()
        self.address_family = self.socket.family
        if self.address_family == socket.AF_UNIX:
            self.server_name, self.server_port = unix_text(self.server_address), 0
        else:
            # Use the address, not its DNS name: a query can take long, and no program needs the name.
            self.server_name, self.server_port = self.server_address[:2]

    def _engine(self) -> maypole.Server:
        """Returns the server for the current `self.socket`."""
        if self._server is None or self._server_socket is not self.socket:
            if self._server is not None:
                self._server.close()
            self._server = maypole.Server(self._call, sock=self.socket, **self._settings)
            self._server_socket = self.socket
        return self._server

    def _call(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        application = self.get_app()
        if application is None:
            raise RuntimeError("the server has no application: call set_app()")
        return application(environ, start_response)


class _Single:
    """Serves one request on a server's socket. Holds one connection at a time, and accepts none after the request."""

    def __init__(self, owner: WSGIServer) -> None:
        self._owner = owner
        self._came = threading.Event()
        settings = {**owner._settings, "max_connections": 1, "threads": 1, "keep_alive": 0}
        self._server = maypole.Server(self._call, sock=owner.socket, **settings)

    def serve(self, timeout: float | None) -> bool:
        """Serves the request. Returns whether it arrived within `timeout`."""
        try:
            self._server.start()
            self._came.wait(timeout)
            # Lets the request finish.
            self._server.stop()
        finally:
            self._server.close()
        return self._came.is_set()

    def _call(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        self._came.set()
        # `max_connections` is 1: while this request's connection is open, the server accepts no other.
        end = time.monotonic() + _CLOSING_MAX
        while self._server.state == "running" and time.monotonic() < end:
            time.sleep(0.001)
        return self._owner._call(environ, start_response)


def _check_handler(handler: type | None) -> None:
    """Refuses a handler class with methods that Maypole never calls. Methods that only make log lines are accepted."""
    for cls in getattr(handler, "__mro__", ()):
        if cls.__module__ in _HANDLER_MODULES:
            continue
        for name, value in vars(cls).items():
            if callable(value) and not name.startswith("__") and name not in _HANDLER_WORDS:
                raise TypeError(
                    f"{cls.__name__}.{name} would never be called, because maypole reads and writes HTTP itself: do it in "
                    "the application, or in a wrapper around it"
                )
