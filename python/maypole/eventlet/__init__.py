"""What `eventlet.wsgi` offers, on Maypole: `server(sock, site, ...)` with the same arguments and meaning.

    from maypole import eventlet as wsgi

    wsgi.server(sock, application, log=logger, custom_pool=pool, socket_timeout=60)

Nothing is monkey-patched and nothing may be: the application runs on ordinary threads. `docs/from-eventlet.md` says
what every argument becomes and what is different. *Owns*: the names that callers assign, read when `server` is
called; `is_accepting` is read all the time. *Runs on*: `server` blocks the thread that calls it; all else is the
server's.
"""

from __future__ import annotations

import errno
import os
import select
import socket
import warnings
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import maypole

from .. import _native
from .._patched import check_threads
from . import _protocol
from ._application import WSGI_LOCAL, Application
from ._input import ChunkReadError, Input
from ._log import DEFAULT_LOG_FORMAT, NoLog, access_line, check_format, format_date_time, logger_for, printable
from ._protocol import HttpProtocol

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIApplication

__all__ = [
    "DEFAULT_LOG_FORMAT", "MAX_HEADER_LINE", "MAX_REQUEST_LINE", "MAX_TOTAL_HEADER_SIZE", "MINIMUM_CHUNK_SIZE",
    "STATE_CLOSE", "STATE_IDLE", "STATE_REQUEST", "WSGI_LOCAL", "ChunkReadError", "HttpProtocol", "Input", "Server",
    "format_date_time", "is_accepting", "server",
]

DEFAULT_MAX_SIMULTANEOUS_REQUESTS = 1024
DEFAULT_MAX_HTTP_VERSION = "HTTP/1.1"
#: Bytes, with the line end; each is one more than the longest that is accepted.
MAX_REQUEST_LINE = 8192
MAX_HEADER_LINE = 8192
#: Bytes of all field lines together.
MAX_TOTAL_HEADER_SIZE = 65536
#: Bytes of a response to collect before they are sent.
MINIMUM_CHUNK_SIZE = _protocol.MINIMUM_CHUNK_SIZE
#: Set to False by whoever wants every `server` of the process to end.
is_accepting = True

STATE_IDLE = "idle"
STATE_REQUEST = "request"
STATE_CLOSE = "close"

#: Seconds between two looks at `is_accepting` and the listening socket.
LOOK_SECONDS = 0.1
#: The longest duration that a setting takes, in seconds: a connection at rest costs next to nothing.
REST_SECONDS = 24 * 24 * 3600
#: Seconds for which a client may pause inside a request or a response where `socket_timeout` is None.
PAUSE_SECONDS = 900
#: Settings take heads up to this, in bytes.
HEAD_BYTES_MAX = 1 << 20
#: And as many threads; without a word so many, which servers share.
THREADS_MAX = 10_000
THREADS_DEFAULT = 256
#: How much of a request's body waits for the application, in bytes.
REQUEST_BUFFER = 256 * 1024
#: The longest body of a request, in bytes: as good as none.
BODY_BYTES_MAX = 1 << 62


class Server:
    """One call of `server`: what `server_event` is sent. Its attributes are the arguments, to be read."""

    def __init__(
        self,
        sock: socket.socket,
        address: Any,
        app: WSGIApplication,
        log: Any = None,
        environ: Mapping[str, Any] | None = None,
        max_http_version: str | None = None,
        protocol: type | None = None,
        minimum_chunk_size: int | None = None,
        log_x_forwarded_for: bool = True,
        keepalive: bool | float = True,
        log_output: bool = True,
        log_format: str = DEFAULT_LOG_FORMAT,
        url_length_limit: int = MAX_REQUEST_LINE,
        debug: bool = True,
        socket_timeout: float | None = None,
        capitalize_response_headers: bool = True,
        default_content_type: str = "text/plain",
    ) -> None:
        self.socket = sock
        self.address = address
        self.app = app
        self.log = logger_for(log, debug) if log_output else NoLog()
        self.environ = environ
        self.protocol = _protocol.checked(protocol)
        self.max_http_version = max_http_version or self.protocol.protocol_version
        self.pid = os.getpid()
        self._minimum_chunk_size = minimum_chunk_size
        self.log_x_forwarded_for = log_x_forwarded_for
        self.keepalive = keepalive
        self.log_output = log_output
        self.log_format = log_format
        self.url_length_limit = url_length_limit
        self.debug = debug
        self.socket_timeout = socket_timeout
        self.capitalize_response_headers = capitalize_response_headers
        self._application = Application(
            app,
            self.log,
            environ=environ,
            minimum_chunk_size=self._chunk_size_min,
            capitalize=capitalize_response_headers,
            debug=debug,
            default_content_type=default_content_type,
        )
        self._native: maypole.Server | None = None
        check_format(log_format)

    @property
    def minimum_chunk_size(self) -> int:
        """Bytes of a response to collect: the argument, else the protocol's, else the module's. Programs assign the last two
        at any time."""
        return self._chunk_size_min()

    def _chunk_size_min(self) -> int:
        if self._minimum_chunk_size is not None:
            return self._minimum_chunk_size
        of_protocol = self.protocol.minimum_chunk_size
        if of_protocol is None or of_protocol == _protocol.MINIMUM_CHUNK_SIZE:
            return MINIMUM_CHUNK_SIZE
        return of_protocol

    @property
    def outstanding_requests(self) -> int:
        """How many requests are in progress."""
        return self._native.stats()["requests"] if self._native is not None else 0

    def _settings(self) -> dict[str, Any]:
        """The arguments as the server's own settings."""
        pause = self.socket_timeout if self.socket_timeout is not None else PAUSE_SECONDS
        if isinstance(self.keepalive, bool):
            rest = (self.socket_timeout or REST_SECONDS) if self.keepalive else 0
        else:
            rest = self.keepalive or 0
        # Eventlet's limits count the line end and are one more than what is accepted.
        head = min(self.url_length_limit + MAX_TOTAL_HEADER_SIZE, HEAD_BYTES_MAX)
        settings = {
            "stream_requests": "always",
            "request_buffer": REQUEST_BUFFER,
            "max_body_size": BODY_BYTES_MAX,
            "keep_alive": rest,
            "body_timeout": pause,
            "write_timeout": pause,
            "queue_timeout": pause,
            # Two-way protocols pause, and that is no slowness.
            "min_rate": 0,
            "limit_request_head": head,
            "limit_request_line": min(max(16, self.url_length_limit - 3), head),
            "limit_request_field_size": min(max(16, MAX_HEADER_LINE - 3), head),
            "max_http_version": self.max_http_version.removeprefix("HTTP/"),
            "server_header": "",
            "headers_raw": True,
        }
        if self.socket_timeout is not None:
            settings["header_timeout"] = self.socket_timeout
        return settings

    def _on_access(self, entry: maypole.AccessEntry) -> None:
        self.log.info(access_line(self.log_format, entry, self.log_x_forwarded_for))


def server(
    sock: socket.socket,
    site: WSGIApplication,
    log: Any = None,
    environ: Mapping[str, Any] | None = None,
    max_size: int | None = None,
    max_http_version: str | None = DEFAULT_MAX_HTTP_VERSION,
    protocol: type | None = None,
    server_event: Any = None,
    minimum_chunk_size: int | None = None,
    log_x_forwarded_for: bool = True,
    custom_pool: maypole.Pool | None = None,
    keepalive: bool | float = True,
    log_output: bool = True,
    log_format: str = DEFAULT_LOG_FORMAT,
    url_length_limit: int | None = None,
    debug: bool = True,
    socket_timeout: float | None = None,
    capitalize_response_headers: bool = True,
    *,
    default_content_type: str = "text/plain",
    **settings: Any,
) -> None:
    """Serves `site` on `sock`, a bound and listening socket, until told to stop; then drains and closes `sock`.

    The end is told by `is_accepting = False`, by KeyboardInterrupt or SystemExit, which end here, or by any other
    exception that comes up in the calling thread, which goes on; also by closing `sock` or shutting it down, which
    raises OSError. Requests in progress then have `graceful_timeout` seconds.

    The arguments are `eventlet.wsgi.server`'s. `url_length_limit` is MAX_REQUEST_LINE where it is not given.
    `default_content_type` is CONTENT_TYPE where the client sent none. `settings` are `maypole.Server`'s, and win.

    Raises TypeError for a `protocol` that overrides anything, a `custom_pool` that is no `maypole.Pool` and a `site` that
    cannot be called as WSGI does, such as an ASGI application, ValueError
    for a socket wrapped for TLS and for a wrong value, RuntimeError where threads are monkey-patched.
    """
    check_threads()
    if site is not None:
        _native.check_application(site)
    if hasattr(sock, "do_handshake"):
        raise ValueError("Maypole has no TLS yet: give it the plain listening socket and let a proxy in front do TLS")
    if custom_pool is not None and not isinstance(custom_pool, maypole.Pool):
        raise TypeError(
            f"custom_pool must be a maypole.Pool, not {type(custom_pool).__module__}.{type(custom_pool).__qualname__}: "
            "a pool of green threads cannot hold real ones"
        )
    if not capitalize_response_headers:
        warnings.warn(
            "capitalize_response_headers is disabled: response field names go out as the application wrote them",
            DeprecationWarning,
            stacklevel=2,
        )
    serv = Server(
        sock, sock.getsockname(), site, log, environ, max_http_version, protocol, minimum_chunk_size,
        log_x_forwarded_for, keepalive, log_output, log_format,
        MAX_REQUEST_LINE if url_length_limit is None else url_length_limit, debug, socket_timeout,
        capitalize_response_headers, default_content_type,
    )
    size = DEFAULT_MAX_SIMULTANEOUS_REQUESTS if max_size is None else max_size
    pool = maypole.Pool(size) if custom_pool is None else custom_pool
    # As many requests run at once as the pool admits, also where they all wait for something.
    threads = min(pool.size, THREADS_MAX) if pool.size > THREADS_DEFAULT else None
    chosen = {"threads": threads, **serv._settings(), **settings}
    native = serv._native = maypole.Server(
        serv._application,
        sock=sock,
        pool=pool,
        on_access=serv._on_access if log_output else None,
        **chosen,
    )
    if server_event is not None:
        warnings.warn("server_event is deprecated", DeprecationWarning, stacklevel=2)
        server_event.send(serv)
    try:
        try:
            # A client may wait already: its access line comes after this one.
            serv.log.info(f"({serv.pid}) wsgi starting up on {_address(sock)}")
            native.start()
            _wait(native, sock)
        except (KeyboardInterrupt, SystemExit):
            serv.log.info("wsgi exiting")
    finally:
        serv._application.is_stopping = True
        try:
            native.stop()
        finally:
            native.close()
            serv.log.info(f"({serv.pid}) wsgi exited, is_accepting={is_accepting}")
            sock.close()


def _wait(native: maypole.Server, sock: socket.socket) -> None:
    """Until the server is to end."""
    while is_accepting:
        if native.wait(LOOK_SECONDS):
            return
        # Another thread, or a signal handler, may end a server by way of its socket.
        if sock.fileno() == -1:
            if is_accepting:
                raise OSError(errno.EBADF, "the listening socket was closed")
            return
        poll = select.poll()
        poll.register(sock, 0)
        if poll.poll(0):
            raise OSError(errno.EINVAL, "the listening socket was shut down")


def _address(sock: socket.socket) -> str:
    """`http://127.0.0.1:8000`, `http://[::1]:8000`, `http:/run/shop.sock`: as eventlet writes it."""
    name = sock.getsockname()
    if sock.family == socket.AF_INET6:
        return f"http://[{name[0]}]:{name[1]}"
    if sock.family == socket.AF_INET:
        return f"http://{name[0]}:{name[1]}"
    return f"http:{printable(os.fsdecode(name))}"
