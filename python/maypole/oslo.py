"""Maypole as an OpenStack service: objects that the launchers of oslo.service and cotyledon start, stop and fork.

*Owns*: the listening sockets. They are opened when the object is made, in the launcher's parent process, and stay open
there. A worker that stops closes only its own descriptors, so the kernel keeps accepting connections while workers are
replaced.

*Runs on*: the caller's thread. The launchers make the object on one thread and fork on another. In the child they call
`start` and `wait` on a second thread, and `stop` on a third or from a signal handler during `wait`. So no lock is held
here. The access log is written on executor threads.

*Invariants*: no thread starts before `start`. The methods may be called in any order. `stop` returns when the last
response has been written, because the launchers then end the process at once.

*Sources*: oslo.service 4.8.0 `wsgi.py`, `_options.py`, `backend/_threading/service.py`; cotyledon 2.2.0.
"""

from __future__ import annotations

import copy
import logging
import os
import socket
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from multiprocessing import context, reduction
from typing import TYPE_CHECKING, Any

from oslo_config import cfg
from oslo_service import backend  # type: ignore[import-untyped]
from oslo_service.backend.base import ServiceBase  # type: ignore[import-untyped]

import maypole

from . import _native
from ._access_format import check_format
from ._addresses import has_file, remove_stale, socket_text, unix_address, unix_text

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIApplication

__all__ = ["InvalidInput", "Server", "WSGIService", "list_opts", "register_opts"]

_LOG = logging.getLogger("maypole.oslo")

# The launcher kills a worker after graceful_shutdown_timeout (SIGALRM). `stop` gives up this many seconds earlier, or a
# tenth of a short timeout, so that it can log the requests that still run.
_MARGIN_SECONDS = 2

# Under the eventlet backend, `wait` checks at this interval, in seconds, whether the server has stopped.
_HUB_SECONDS = 0.05


class InvalidInput(Exception):
    """An argument is out of range. If oslo.service's class of this name has been imported, that one is raised."""


class _SharedOpt:
    """An option that oslo.service or the service may register as well, before or after this module.

    oslo.config accepts a name twice only if the two options are equal, help texts included. Options of this class are
    equal if their names and types are.
    """

    name: str
    type: Any

    def __eq__(self, other: object) -> bool:
        return isinstance(other, cfg.Opt) and self.name == other.name and type(self.type) is type(other.type)

    def __ne__(self, other: object) -> bool:
        return not self == other

    __hash__ = object.__hash__


class _StrOpt(_SharedOpt, cfg.StrOpt):
    pass


class _IntOpt(_SharedOpt, cfg.IntOpt):
    pass


class _BoolOpt(_SharedOpt, cfg.BoolOpt):
    pass


wsgi_opts: list[cfg.Opt] = [
    _StrOpt("api_paste_config", default="api-paste.ini",
            help="Name of the PasteDeploy file that describes the API's pipeline."),
    _StrOpt("wsgi_log_format",
            default='%(client_ip)s "%(request_line)s" status: %(status_code)s  len: %(body_length)s time:'
                    ' %(wall_seconds).7f',
            help="The format of a line of the access log. It may use client_ip, client_port, date_time, request_line, "
                 "status_code, body_length (in bytes, heads included) and wall_seconds."),
    _IntOpt("tcp_keepidle", default=600,
            help="After this many seconds without traffic, the kernel probes whether a client is still there."),
    _IntOpt("wsgi_default_pool_size", default=100,
            help="How many requests one worker serves at once."),
    _IntOpt("max_header_line", default=16384,
            help="The longest header field of a request, in bytes. Large tokens may need a higher limit."),
    _BoolOpt("wsgi_keep_alive", default=True,
             help="Keep a connection open for further requests. false closes it after each response."),
    _IntOpt("client_socket_timeout", default=900,
            help="Close a connection after this many seconds without progress: between two requests, within a "
                 "body, and while a response is sent. 0 means no limit."),
    _BoolOpt("wsgi_server_debug", default=False,
             help="Has no effect: tracebacks go to the log and never to clients."),
]


def register_opts(conf: cfg.ConfigOpts) -> None:
    """Registers the options of oslo.service's WSGI server, with the same names and defaults."""
    conf.register_opts(wsgi_opts)


def list_opts() -> list[tuple[None, list[cfg.Opt]]]:
    """Returns the options for oslo-config-generator (entry point group `oslo.config.opts`)."""
    return [(None, copy.deepcopy(wsgi_opts))]


class _Listener:
    """A listening socket in a pickled service.

    For a process that multiprocessing spawns, the pickle contains the descriptor. Otherwise it contains the address,
    which is bound again. oslo.service pickles a service to check whether that works.
    """

    def __init__(self, sock: socket.socket, backlog: int) -> None:
        self.sock, self.backlog = sock, backlog

    def __reduce__(self) -> tuple[Callable[..., socket.socket], tuple[Any, ...]]:
        if context.get_spawning_popen() is not None:
            return _adopt, (reduction.DupFd(self.sock.fileno()),)
        return _listen, (self.sock.family, self.sock.getsockname(), self.backlog)


def _adopt(duplicate: Any) -> socket.socket:
    return socket.socket(fileno=duplicate.detach())


def _listen(family: int, address: Any, backlog: int, unix_mode: int | None = None) -> socket.socket:
    """Returns a listening socket. If it cannot be bound, logs the address and raises OSError."""
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        if family == socket.AF_UNIX:
            remove_stale(address)
        else:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(address)
        if unix_mode is not None and has_file(address):
            os.chmod(address, unix_mode)
        sock.listen(backlog)
    except OSError as error:
        sock.close()
        _LOG.error("cannot listen on %s: %s", socket_text(address), error)
        raise
    return sock


def _ssl_settings(conf: cfg.ConfigOpts) -> dict[str, Any]:
    """Returns the settings for the section `[ssl]`, whose options are those of oslo.service.

    Raises RuntimeError if the section lacks a file.
    """
    from oslo_service import _options

    conf.register_opts(_options.ssl_opts, "ssl")
    section = conf.ssl
    if not section.cert_file or not section.key_file:
        raise RuntimeError("use_ssl needs both cert_file and key_file in the section [ssl]")
    settings: dict[str, Any] = {"certfile": section.cert_file, "keyfile": section.key_file}
    if section.ca_file:
        settings |= {"ca_certs": section.ca_file, "cert_reqs": "required"}
    if section.version:
        settings["ssl_version"] = section.version
    if section.ciphers:
        settings["ciphers"] = section.ciphers
    return settings


def _resolve(host: str, port: int, family: int = socket.AF_UNSPEC) -> tuple[int, Any]:
    """Returns the family and the first address of a name; an empty name means all addresses of IPv4."""
    found = socket.getaddrinfo(host or "0.0.0.0", port, family, socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
    return found[0], found[4]


def _check_backlog(backlog: int) -> None:
    if backlog < 1:
        theirs = sys.modules.get("oslo_service.wsgi")
        raise (theirs.InvalidInput if theirs else InvalidInput)("The backlog must be more than 0")


class _Service(ServiceBase):  # type: ignore[misc]
    """The common part of `Server` and `WSGIService`, which differ in how addresses are given."""

    def __init__(
        self,
        conf: cfg.ConfigOpts,
        name: str,
        app: WSGIApplication,
        listeners: Iterable[tuple[int, Any, int | None]],
        *,
        backlog: int,
        pool_size: int | None,
        max_url_len: int | None,
        logger_name: str,
        settings: dict[str, Any],
    ) -> None:
        self.conf = conf
        register_opts(conf)
        self.name = name
        self.app = app
        self.default_pool_size = conf.wsgi_default_pool_size
        self.pool_size: int = pool_size or self.default_pool_size
        self.client_socket_timeout = conf.client_socket_timeout or None
        self.dup_socket: socket.socket | None = None
        self._pool = maypole.Pool(self.pool_size)
        self._server: maypole.Server | None = None
        self._backlog = backlog
        self._max_url_len = max_url_len
        self._logger = logging.getLogger(logger_name)
        self._settings = settings
        self._sockets: list[socket.socket] = []
        try:
            for family, address, unix_mode in listeners:
                self._sockets.append(_listen(family, address, backlog, unix_mode))
            for sock in self._sockets:
                self._set_socket_options(sock)
            # A wrong value raises here, and not in each worker.
            self._make_server().close()
        except BaseException:
            for sock in self._sockets:
                sock.close()
            raise
        self._take_names()
        _LOG.info("%s listening on %s", name, ", ".join(socket_text(sock.getsockname()) for sock in self._sockets))

    def _take_names(self) -> None:
        self.socket = self._sockets[0]
        address = self.socket.getsockname()
        self.host, self.port = address[:2] if isinstance(address, tuple) else (unix_text(address), None)

    def _set_socket_options(self, sock: socket.socket) -> None:
        """Sets the options that accepted connections inherit."""
        if sock.family == socket.AF_UNIX:
            return
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, self.conf.tcp_keepidle)

    def _make_server(self) -> maypole.Server:
        """Returns a server for the current configuration, which launchers read again before they fork on SIGHUP."""
        conf = self.conf
        log_format = conf.wsgi_log_format
        try:
            check_format(log_format)
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"wsgi_log_format cannot be filled in ({error!r}): {log_format}") from error
        silence = self.client_socket_timeout or _native.DURATION_SECONDS_MAX
        settings: dict[str, Any] = {
            "keep_alive": silence if conf.wsgi_keep_alive else 0,
            "body_timeout": silence,
            "write_timeout": silence,
            "limit_request_field_size": conf.max_header_line,
            "graceful_timeout": self._patience(),
            # Services read the fields of proxies by themselves (oslo.middleware, HTTPProxyToWSGI).
            "forwarded_headers": "none",
        }
        if self._max_url_len:
            settings["limit_request_line"] = self._max_url_len
        settings.update(self._settings)
        on_access = self._access_log(log_format)
        return maypole.Server(self.app, sock=self._sockets, pool=self._pool, on_access=on_access, **settings)

    def _access_log(self, log_format: str) -> Callable[[maypole.AccessEntry], None]:
        logger = self._logger

        def on_access(entry: maypole.AccessEntry) -> None:
            if not logger.isEnabledFor(logging.INFO):
                return
            ended = time.localtime(entry.ended)
            client_ip = entry.client_ip or "unix"
            if entry.forwarded_for:
                client_ip = entry.forwarded_for.replace(" ", "") + "," + client_ip
            logger.info("%s", log_format % {
                "client_ip": client_ip,
                "client_port": entry.client_port,
                "date_time": time.strftime("%d/%b/%Y %H:%M:%S", ended),
                "request_line": entry.request_line,
                "status_code": entry.status,
                "body_length": entry.wire_bytes,
                "wall_seconds": entry.duration,
            })

        return on_access

    def _patience(self) -> float:
        """Returns how long a stop may take, in seconds: a little less than the launcher's timeout."""
        # oslo.service registers this option; with another launcher it may be missing.
        timeout: float = getattr(self.conf, "graceful_shutdown_timeout", 60)
        if timeout <= 0:
            # "No limit" is the longest duration that a setting takes.
            return _native.DURATION_SECONDS_MAX
        return timeout - min(_MARGIN_SECONDS, timeout / 10)

    def start(self) -> None:
        """Starts the service and returns. Does nothing if it runs already."""
        if self._server is not None and self._server.state == "running":
            return
        if self.conf.wsgi_server_debug:
            _LOG.warning("wsgi_server_debug has no effect: tracebacks go to the log, never to clients")
        if self._server is not None:
            self._server.wait()
        self.reset()
        self._server = server = self._make_server()
        server.start()
        self.dup_socket = server.socket
        where = ", ".join(server.addresses)
        _LOG.info("%s serving on %s, pid %d, pool size %d", self.name, where, os.getpid(), self.pool_size)

    def stop(self) -> None:
        """Stops accepting. Returns when every accepted request has ended, or shortly before the launcher's timeout."""
        server = self._server
        if server is None or server.state not in ("running", "stopping"):
            return
        _LOG.info("%s stopping, pid %d", self.name, os.getpid())
        if server.stop():
            _LOG.info("%s stopped, pid %d", self.name, os.getpid())
        else:
            _LOG.warning("%s stopped before all requests had ended, pid %d", self.name, os.getpid())
        # Closes the server's duplicates of the sockets; `self._sockets` stay open for the next start.
        server.close()

    def wait(self) -> None:
        """Waits until the service has stopped. Returns at once if it was never started."""
        if self._server is None:
            return
        if backend.get_backend_type() is not backend.BackendType.EVENTLET:
            self._server.wait()
            return
        # eventlet's signal handlers only notify the hub, so the hub has to run.
        import eventlet  # type: ignore[import-untyped]

        while not self._server.wait(0):
            eventlet.sleep(_HUB_SECONDS)

    def reset(self) -> None:
        """Sets the pool's size back to the configured one."""
        self._pool.resize(self.pool_size)

    def close(self) -> None:
        """Stops the service and closes the sockets. Forked workers keep their own descriptors and go on."""
        self.stop()
        for sock in self._sockets:
            sock.close()

    def __getstate__(self) -> dict[str, Any]:
        state = self.__dict__.copy()
        for runtime in ("_pool", "_server", "dup_socket", "socket"):
            state.pop(runtime, None)
        state["_sockets"] = [_Listener(sock, self._backlog) for sock in self._sockets]
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self.dup_socket = self._server = None
        self._pool = maypole.Pool(self.pool_size)
        for sock in self._sockets:
            self._set_socket_options(sock)
        self._take_names()


class Server(_Service):
    """Replaces `oslo_service.wsgi.Server`: the same arguments, exceptions and attributes, on real threads.

    The constructor makes the socket listen and starts no thread. Keywords in `settings` are those of `maypole.Server`
    and override the configuration.

    Raises InvalidInput for a backlog below 1, ValueError for a wrong value and for a socket family other than IP and
    unix, OSError if the address cannot be bound, TypeError for a `protocol`, and RuntimeError if `use_ssl`
    needs files that the section `[ssl]` does not name.
    """

    def __init__(
        self,
        conf: cfg.ConfigOpts,
        name: str,
        app: WSGIApplication,
        host: str = "0.0.0.0",
        port: int = 0,
        pool_size: int | None = None,
        protocol: None = None,
        backlog: int = 128,
        use_ssl: bool = False,
        max_url_len: int | None = None,
        logger_name: str = "eventlet.wsgi.server",
        socket_family: int | None = None,
        socket_file: str | None = None,
        socket_mode: int | None = None,
        **settings: Any,
    ) -> None:
        if use_ssl:
            settings = {**_ssl_settings(conf), **settings}
        if protocol is not None:
            raise TypeError("protocol must be None: Maypole does not use eventlet's protocol classes")
        _check_backlog(backlog)
        listener: tuple[int, Any, int | None]
        if not socket_family or socket_family in (socket.AF_INET, socket.AF_INET6):
            listener = (*_resolve(host, port, socket_family or socket.AF_UNSPEC), None)
        elif socket_family == socket.AF_UNIX:
            listener = (socket.AF_UNIX, socket_file, socket_mode)
        else:
            raise ValueError(f"Unsupported socket family: {socket_family}")
        super().__init__(
            conf,
            name,
            app,
            [listener],
            backlog=backlog,
            pool_size=pool_size,
            max_url_len=max_url_len,
            logger_name=logger_name,
            settings=settings,
        )


class WSGIService(_Service):
    """Serves one application on several addresses, with one pool.

    `app` is a WSGI application, or a loader with a method `load_app(name)` such as `oslo_service.wsgi.Loader`. An entry of
    `listens` is `host:port`, `[v6]:port`, `unix:PATH` or `unix:@NAME`; port 0 takes a free port. `host`, `port` and
    `socket` are those of the first address; `addresses` has all.

    Raises the exceptions of `Server` and of the loader.
    """

    def __init__(
        self,
        conf: cfg.ConfigOpts,
        name: str,
        app: Any,
        listens: Sequence[str] = ("0.0.0.0:0",),
        *,
        pool_size: int | None = None,
        backlog: int = 128,
        max_url_len: int | None = None,
        logger_name: str = "eventlet.wsgi.server",
        **settings: Any,
    ) -> None:
        _check_backlog(backlog)
        if isinstance(listens, str) or not listens:
            raise ValueError(f"listens must be a list of addresses, not {listens!r}")
        self._loader = app if hasattr(app, "load_app") else None
        super().__init__(
            conf,
            name,
            self._load(name, app),
            [_parse_listen(listen) for listen in listens],
            backlog=backlog,
            pool_size=pool_size,
            max_url_len=max_url_len,
            logger_name=logger_name,
            settings=settings,
        )

    @property
    def addresses(self) -> list[str]:
        """Every address of the service, as text."""
        return [socket_text(sock.getsockname()) for sock in self._sockets]

    def _load(self, name: str, app: Any = None) -> Any:
        return self._loader.load_app(name) if self._loader else app

    def __getstate__(self) -> dict[str, Any]:
        state = super().__getstate__()
        if self._loader:
            # An application from a pipeline usually cannot be pickled, but its loader can.
            del state["app"]
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        if self._loader:
            self.app = self._load(self.name)


def _parse_listen(listen: str) -> tuple[int, Any, int | None]:
    """Returns the family and the address, and None for the mode."""
    if listen.startswith("unix:"):
        return socket.AF_UNIX, unix_address(listen[len("unix:"):]), None
    host, colon, port = listen.rpartition(":")
    if not colon or not port.isdecimal():
        raise ValueError(f"expected host:port, [v6]:port or unix:PATH, not {listen!r}")
    return (*_resolve(host.removeprefix("[").removesuffix("]"), int(port)), None)
