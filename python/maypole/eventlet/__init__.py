"""The interface of `eventlet.wsgi` on Maypole: `server(sock, site, ...)` with the same arguments.

    from maypole import eventlet as wsgi

    wsgi.server(sock, application, log=logger, custom_pool=pool, socket_timeout=60)

The application runs on ordinary threads, and Python's threads must not be monkey-patched. `docs/from-eventlet.md`
describes every argument and every difference. *Owns*: the names that callers assign. `server` reads them when it is
called, and `is_accepting` ten times a second. *Runs on*: `server` blocks the calling thread; the application runs on
Maypole's threads.
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
from .._access_format import check_format
from .._addresses import host_port
from .._patched import check_threads
from .._tls import settings_of_socket
from . import _protocol
from ._application import WSGI_LOCAL, Application
from ._input import ChunkReadError, Input
from ._log import DEFAULT_LOG_FORMAT, NoLog, access_line, format_date_time, logger_for, printable
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
#: In bytes, line end included. A line of this length is refused; one byte less is accepted.
MAX_REQUEST_LINE = 8192
MAX_HEADER_LINE = 8192
#: Bytes of all field lines together.
MAX_TOTAL_HEADER_SIZE = 65536
#: Bytes of a response to collect before they are sent.
MINIMUM_CHUNK_SIZE = _protocol.MINIMUM_CHUNK_SIZE
#: Assign False to end every `server` of the process.
is_accepting = True

STATE_IDLE = "idle"
STATE_REQUEST = "request"
STATE_CLOSE = "close"

#: `server` checks `is_accepting` and the listening socket at this interval, in seconds.
_LOOK_SECONDS = 0.1
#: If `socket_timeout` is None, a client may pause for this long inside a request or a response, in seconds.
_PAUSE_SECONDS = 900
#: The part of a request's body that may wait in memory for the application, in bytes.
_REQUEST_BUFFER = 256 * 1024
#: The longest body of a request, in bytes. In practice this is no limit.
_BODY_BYTES_MAX = 1 << 62


class Server:
    """One call of `server`, for `server_event`. Its attributes are the arguments of the call, to be read only."""

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
        """The number of bytes of a response to collect before they are sent.

        The argument comes first, then the protocol's attribute, then the module's. A program may assign the last two at
        any time.
        """
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
        """The number of requests in progress."""
        return self._native.stats()["requests"] if self._native is not None else 0

    def _settings(self) -> dict[str, Any]:
        """Returns the arguments as settings of `maypole.Server`."""
        pause = self.socket_timeout if self.socket_timeout is not None else _PAUSE_SECONDS
        if isinstance(self.keepalive, bool):
            # Without a limit, use the longest duration: an idle connection costs almost nothing.
            rest = (self.socket_timeout or _native.DURATION_SECONDS_MAX) if self.keepalive else 0
        else:
            rest = self.keepalive or 0
        # eventlet's limits include the line end and refuse a line of exactly that length.
        head = min(self.url_length_limit + MAX_TOTAL_HEADER_SIZE, _native.HEAD_BYTES_MAX)
        settings = {
            "stream_requests": "always",
            "request_buffer": _REQUEST_BUFFER,
            "max_body_size": _BODY_BYTES_MAX,
            "keep_alive": rest,
            "body_timeout": pause,
            "write_timeout": pause,
            "queue_timeout": pause,
            # In a bidirectional protocol, a client may pause without being slow.
            "min_rate": 0,
            "limit_request_head": head,
            "limit_request_line": min(max(16, self.url_length_limit - 3), head),
            "limit_request_field_size": min(max(16, MAX_HEADER_LINE - 3), head),
            "max_http_version": self.max_http_version.removeprefix("HTTP/"),
            "server_header": "",
            "headers_raw": True,
            # eventlet passes the fields of proxies on, and so do applications that read them by themselves.
            "forwarded_headers": "none",
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
    """Serves `site` on `sock`, a bound and listening socket. At the end it finishes running requests and closes `sock`.

    It ends
    - and returns if `is_accepting` is False, and after KeyboardInterrupt or SystemExit in the calling thread;
    - and raises the same exception after any other exception in the calling thread;
    - and raises OSError if `sock` has been closed or shut down.

    Running requests get `graceful_timeout` seconds to finish. No signal handler is installed. For SIGTERM:
    `signal.signal(signal.SIGTERM, lambda *_: sys.exit())`.

    The arguments are those of `eventlet.wsgi.server`. `url_length_limit` is MAX_REQUEST_LINE by default.
    `default_content_type` becomes CONTENT_TYPE if the client sent none. `settings` are those of `maypole.Server`, and
    override the other arguments.

    Raises TypeError for a `protocol` that overrides a method, for a `custom_pool` that is not a `maypole.Pool`, and for a
    `site` that is not WSGI, such as an ASGI application; ValueError for a socket wrapped for TLS that does not name its files, and for a wrong value;
    RuntimeError if Python's threads are monkey-patched.
    """
    _check_arguments(sock, site, custom_pool, capitalize_response_headers)
    serv = Server(
        sock, sock.getsockname(), site, log, environ, max_http_version, protocol, minimum_chunk_size,
        log_x_forwarded_for, keepalive, log_output, log_format,
        MAX_REQUEST_LINE if url_length_limit is None else url_length_limit, debug, socket_timeout,
        capitalize_response_headers, default_content_type,
    )
    size = DEFAULT_MAX_SIMULTANEOUS_REQUESTS if max_size is None else max_size
    pool = maypole.Pool(size) if custom_pool is None else custom_pool
    # Use as many threads as the pool has places, so that all its requests can run even if each of them waits.
    # The default number of threads serves smaller pools; servers with that number share their threads.
    threads = min(pool.size, _native.THREADS_MAX) if pool.size > _native.THREADS_DEFAULT else None
    of_socket = settings_of_socket(sock) if hasattr(sock, "do_handshake") and "certfile" not in settings else {}
    chosen = {"threads": threads, **of_socket, **serv._settings(), **settings}
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
    _run(serv, native, sock)


def _check_arguments(sock: Any, site: Any, custom_pool: Any, capitalize_response_headers: bool) -> None:
    """Raises the exceptions of `server` for arguments that cannot be used, and warns of one that has no effect."""
    check_threads()
    if site is not None:
        _native.check_application(site)
    if custom_pool is not None and not isinstance(custom_pool, maypole.Pool):
        raise TypeError(
            f"custom_pool must be a maypole.Pool, not {type(custom_pool).__module__}.{type(custom_pool).__qualname__}: "
            "a pool of green threads cannot limit real threads"
        )
    if not capitalize_response_headers:
        warnings.warn(
            "capitalize_response_headers=False: names of response fields are sent as the application wrote them",
            DeprecationWarning,
            stacklevel=3,
        )


def _run(serv: Server, native: maypole.Server, sock: socket.socket) -> None:
    """Serves until the server has to end. Then finishes running requests and closes the socket."""
    try:
        try:
            # Log this before the start: a client may be waiting, and its access line has to follow.
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
    """Waits until the server has to end. Raises OSError if the listening socket was closed or shut down."""
    while is_accepting:
        if native.wait(_LOOK_SECONDS):
            return
        # Another thread or a signal handler may close the socket to end the server.
        if sock.fileno() == -1:
            if is_accepting:
                raise OSError(errno.EBADF, "the listening socket was closed")
            return
        poll = select.poll()
        poll.register(sock, 0)
        if poll.poll(0):
            raise OSError(errno.EINVAL, "the listening socket was shut down")


def _address(sock: socket.socket) -> str:
    """Returns the address as eventlet writes it: `http://127.0.0.1:8000`, `http://[::1]:8000`, `http:/run/shop.sock`."""
    name = sock.getsockname()
    if isinstance(name, tuple):
        return f"http://{host_port(*name[:2])}"
    return f"http:{printable(os.fsdecode(name))}"
