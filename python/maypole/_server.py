"""`Server`: a WSGI server inside a program, and `serve` for programs that do nothing else.

Owns: the Python side of a server; `maypole._native` does the work. Runs on: the calling thread. Invariants: no thread
starts before `start`. Every method may be called at any time and in any order. In a forked child a started server is
inert.
"""

from __future__ import annotations

import atexit
import contextlib
import logging
import os
import signal
import socket as stdlib_socket
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, TextIO, TypeVar

from . import _native
from ._keywords import Address, address_text, keywords
from ._patched import check_threads

if TYPE_CHECKING:
    from types import FrameType, TracebackType

    from _typeshed.wsgi import WSGIApplication
    from typing_extensions import Unpack

    from ._settings import ProcessSettings, Settings

T = TypeVar("T")

_LOG = logging.getLogger("maypole.server")

# When the interpreter exits, running requests get this long to finish.
_EXIT_SECONDS = 5.0

# Signals that another process or the terminal sends. The thread that receives one of the others has caused it.
_SENT_SIGNALS = signal.valid_signals() - {
    signal.SIGABRT, signal.SIGBUS, signal.SIGFPE, signal.SIGILL, signal.SIGSEGV, signal.SIGSYS, signal.SIGTRAP
}

_servers: weakref.WeakSet[Server] = weakref.WeakSet()
_prepared: int | None = None


def _prepare_process() -> None:
    """Registers the functions that stop the servers before Python exits and close their sockets in a forked child."""
    global _prepared
    if _prepared == os.getpid():
        return
    if _prepared is None:
        os.register_at_fork(after_in_child=_forked)
    _prepared = os.getpid()
    atexit.register(_exit, _prepared)


def _exit(owner: int) -> None:
    global _prepared
    if os.getpid() == owner:
        _native.shut_down(_EXIT_SECONDS)
        # Register again at the next start: a program may call its exit functions, go on and start another server.
        _prepared = 0


def _forked() -> None:
    for server in list(_servers):
        server._let_go()


def _caller() -> str:
    """Returns the place in the program that called the package: "at app.py:31, thread MainThread"."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and frame.f_globals.get("__name__", "").partition(".")[0] == __package__:
        frame = frame.f_back
    place = f"at {frame.f_code.co_filename}:{frame.f_lineno}, " if frame is not None else ""
    return f"{place}thread {threading.current_thread().name}"


def _listed(value: Any) -> list[Any]:
    return list(value) if isinstance(value, list) else [value]


class Server:
    """A WSGI server inside a program. The constructor binds the address; `start` begins to serve.

    `app` is the WSGI application, an object.

    Where the server listens, at most one of:
    - `listen`: "host:port", "[v6]:port", "unix:PATH", "unix:@NAME", "fd://N", a (host, port) tuple, or a list of these.
      Port 0 takes a free port. The default is 127.0.0.1:8000.
    - `sock`: a listening socket, or a list of them. The server uses duplicates; the originals stay open.
    - `fd`: the descriptor of a listening socket, or a list. The server uses duplicates; the originals stay open.

    `mounts` has further applications with the paths below which they are: `{"/admin": admin}`. `app` gets the rest.
    `pool` is a `Pool` that several servers share; it replaces the setting `pool_size`.
    `environ` has entries for every request's environ.
    `on_access` is called with an `AccessEntry` after each response, on a thread that also runs the application.
    `headers_raw` adds the header fields and the path as the client sent them: "headers_raw" and "RAW_PATH_INFO".
    All other keywords are settings of the command line, with `_` for `-`: `keep_alive="2m"`.

    Raises OSError if an address cannot be bound, ValueError for a wrong value, and TypeError for an unknown setting or
    for an application that is not WSGI, such as an ASGI application.
    """

    def __init__(
        self,
        app: WSGIApplication,
        listen: Address | list[Address] | None = None,
        *,
        sock: stdlib_socket.socket | list[stdlib_socket.socket] | None = None,
        fd: int | list[int] | None = None,
        mounts: Mapping[str, WSGIApplication] | None = None,
        pool: _native.Pool | None = None,
        environ: Mapping[str, Any] | None = None,
        on_access: Callable[[_native.AccessEntry], object] | None = None,
        headers_raw: bool = False,
        **settings: Unpack[Settings],
    ) -> None:
        for application in (app, *(mounts or {}).values()):
            _native.check_application(application)
        given = [name for name, value in (("listen", listen), ("sock", sock), ("fd", fd)) if value is not None]
        # The parser refuses `host` or `port` together with `bind`.
        given += [name for name in ("bind", "host", "port") if settings.get(name) is not None][:1]
        if len(given) > 1:
            raise TypeError(f"give one of listen, sock and fd, not {' and '.join(given)}")
        if listen is not None:
            settings["bind"] = [address_text(address) for address in _listed(listen)]
        descriptors = [one.fileno() for one in _listed(sock)] if sock is not None else []
        descriptors += _listed(fd) if fd is not None else []
        if pool is not None and settings.get("pool_size") is not None:
            raise TypeError("give one of pool and pool_size")
        self.app = app
        self._sockets: list[stdlib_socket.socket] | None = None
        # Kept for pickling: another process makes the same server from these.
        self._given = {**settings, "environ": environ, "on_access": on_access, "headers_raw": headers_raw, "mounts": mounts}
        self._native = _native.Server(
            app,
            descriptors,
            keywords(settings),
            pool,
            dict(environ) if environ is not None else None,
            on_access,
            headers_raw,
            list((mounts or {}).items()),
        )

    # Addresses and sockets.

    @property
    def sockets(self) -> list[stdlib_socket.socket]:
        """The listening sockets. Each object has a duplicate of the server's descriptor."""
        if self._sockets is None:
            self._sockets = [stdlib_socket.socket(fileno=os.dup(number)) for number in self._native.filenos]
        return list(self._sockets)

    @property
    def socket(self) -> stdlib_socket.socket:
        """The first listening socket."""
        return self._first(self.sockets)

    @property
    def host(self) -> str:
        """The host of the first address, or the path or `@NAME` of a unix socket."""
        return self._first(self._native.hosts)[0]

    @property
    def port(self) -> int:
        """The port of the first address; 0 for a unix socket."""
        return self._first(self._native.hosts)[1]

    @property
    def addresses(self) -> list[str]:
        """Every address of the server: "http://127.0.0.1:8000", "unix:/path", "unix:@name"."""
        return self._native.addresses

    def _first(self, found: list[T]) -> T:
        if not found:
            raise RuntimeError(f"the server has no listening socket: it is {self.state}")
        return found[0]

    def fileno(self) -> int:
        """Returns the descriptor of the first listening socket."""
        return self._first(self._native.filenos)

    # Starting and stopping.

    @property
    def state(self) -> str:
        """"created", "running", "stopping", "stopped" or "closed"; "inert" in a fork of the process that started it."""
        return self._native.state

    def start(self) -> None:
        """Starts the server on its own threads, and returns. Does nothing if it runs already. Works again after `stop`.

        Raises RuntimeError if the server is closed, if the process is a fork of one whose server had started, or if
        eventlet or gevent has replaced Python's threads; OSError if descriptors or threads have run out.
        """
        check_threads()
        if self.state == "inert":
            raise RuntimeError("the server belongs to the parent process: fork before the first start()")
        _prepare_process()
        _servers.add(self)
        self._native.start()

    def stop(self, graceful: bool = True, timeout: float | None = None) -> bool:
        """Stops the server and waits until it has stopped. Returns True if every request finished by itself.

        Closes idle connections at once and lets running requests finish within `timeout` seconds, by default the
        setting `graceful_timeout`. Then cuts off the remaining requests; with `graceful=False` cuts off all of them at
        once. Delivers all log lines before it returns. On the main thread, Python's signal handlers run meanwhile. Does
        nothing if the server does not run.

        Called inside a request, it returns False at once and the server stops in the background, because that request
        has to finish first.
        """
        return self._stop("stop()", timeout if graceful else 0.0)

    def _stop(self, how: str, seconds: float | None) -> bool:
        who = f"{how} called {_caller()}"
        if _native.on_executor() and self.state in ("running", "stopping"):
            threading.Thread(target=self._native.stop, args=(seconds, who), name="maypole-stop").start()
            return False
        return self._native.stop(seconds, who)

    def wait(self, timeout: float | None = None) -> bool:
        """Waits until the server has stopped, at most `timeout` seconds. Returns True if it does not run.

        On the main thread, Python's signal handlers run meanwhile, and this call raises their exceptions. Another
        thread blocks all signals while it waits, so that the kernel delivers them to the main thread, which handles
        them.

        Raises OSError if the server can accept no more connections, for example because its socket was shut down.
        """
        if threading.current_thread() is threading.main_thread():
            return self._native.wait(timeout)
        before = signal.pthread_sigmask(signal.SIG_BLOCK, _SENT_SIGNALS)
        try:
            return self._native.wait(timeout)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)

    def reset(self) -> None:
        """Sets the pool's size back to that at the construction of the server."""
        self._native.reset()

    def close(self) -> None:
        """Stops without waiting for running requests, and closes the sockets. The server cannot be started again."""
        self._native.stop(0.0, f"close() called {_caller()}")
        self._native.close()
        self._let_go()

    def _let_go(self) -> None:
        for one in self._sockets or []:
            one.close()
        self._sockets = None

    def serve_forever(self, *, handle_signals: bool = False) -> None:
        """Starts the server, waits until it has stopped, and stops it if an exception ends the wait.

        With `handle_signals`, the first SIGTERM or SIGINT stops the server gracefully, as `stop()` does, and a second
        one cuts off the requests that still run. The program's own handlers are restored on return. Without
        `handle_signals`, the program's own handlers stay in place; by default SIGTERM ends the process at once.

        Raises RuntimeError if `handle_signals` is used on another thread than the main thread.
        """
        if not handle_signals:
            self._serve()
            return
        if threading.current_thread() is not threading.main_thread():
            raise RuntimeError("handle_signals=True works on the main thread only, because Python handles signals there")
        stopper = _Stopper(self)
        with stopper:
            self._serve(stopper)

    def _serve(self, stopper: _Stopper | None = None) -> None:
        self.start()
        try:
            # A signal before the start could not stop the server, so stop it now.
            if stopper is None or not stopper.signals:
                self.wait()
        except BaseException as error:
            self._native.stop(None, f"{type(error).__name__} in serve_forever()")
            raise
        self.stop()

    def __enter__(self) -> Server:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self.stop()
        finally:
            self.close()

    # Looking inside.

    @property
    def settings(self) -> dict[str, str]:
        """Every setting with its value, in the form that the command line's `--print-config` prints."""
        return dict(self._native.settings)

    def stats(self) -> dict[str, Any]:
        """Returns the running server's counters by name; docs/reference/stats.md describes each.

        The keys: state, connections, idle, requests, hijacked, coroutines, threads, threads_running, queued, pool_size,
        pool_taken, served, abandoned, late, hijacked_total, suspended, websockets, websockets_slow,
        websocket_waiting_bytes, websockets_total, websocket_messages_received, websocket_messages_sent,
        http2_connections, http2_streams.
        """
        return self._native.stats()

    def dump(self, file: TextIO | None = None) -> None:
        """Writes a report on the requests and threads of this process to `file`, by default standard error.

        The report has each running request of all servers of this process, the oldest first, with its client, its age
        and the stack of its thread. The stacks of all other Python threads follow.
        """
        file = sys.stderr if file is None else file
        file.write(self._native.report() + "\n")
        with contextlib.suppress(AttributeError):
            file.flush()

    def __repr__(self) -> str:
        where = ", ".join(self.addresses) or "nowhere"
        return f"<maypole.Server on {where}, {self.state}>"

    # Pickling, for multiprocessing: a spawned process gets the same server, not started.

    def __reduce__(self) -> tuple[Callable[..., Server], tuple[Any, ...]]:
        from multiprocessing import context, reduction

        if context.get_spawning_popen() is None:
            raise TypeError("a server can be pickled only as an argument of a process that multiprocessing spawns")
        descriptors = [reduction.DupFd(number) for number in self._native.filenos]
        given = {name: value for name, value in self._given.items() if name not in ("bind", "host", "port")}
        return _rebuilt, (type(self), self.app, descriptors, given)


# A second SIGTERM within this many seconds after the first one is ignored, as by the command line.
_ECHO_MAX = 1.0


class _Stopper:
    """Handles SIGTERM and SIGINT in `serve_forever`: the first stops the server, the second cuts off its requests."""

    def __init__(self, server: Server) -> None:
        self.signals = 0
        self._server = server
        self._terminated: float | None = None
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> None:
        for number in (signal.SIGTERM, signal.SIGINT):
            self._before[number] = signal.signal(number, self._handle)

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            # None stands for a handler that C code has installed; Python cannot restore it.
            if handler is not None:
                signal.signal(number, handler)

    def _handle(self, number: int, frame: object) -> None:
        if number == signal.SIGTERM:
            now = time.monotonic()
            if self._terminated is not None and now - self._terminated < _ECHO_MAX:
                return
            self._terminated = self._terminated or now
        self.signals += 1
        name, native = signal.Signals(number).name, self._server._native
        if self.signals == 1:
            native.stop(None, name)
            return
        _LOG.warning("%s again: cutting off the requests that still run", name)
        # Use another thread, because this one may be inside the first call of stop().
        threading.Thread(target=native.stop, args=(0.0, f"the second {name}"), name="maypole-stop").start()


def _rebuilt(kind: type[Server], app: WSGIApplication, descriptors: Iterable[Any], given: dict[str, Any]) -> Server:
    numbers = [descriptor.detach() for descriptor in descriptors]
    try:
        return kind(app, fd=numbers, **given)
    finally:
        for number in numbers:
            os.close(number)


def serve(
    app: WSGIApplication | str,
    listen: Address | list[Address] | None = None,
    *,
    mounts: Mapping[str, WSGIApplication | str] | None = None,
    environ: Mapping[str, Any] | None = None,
    **settings: Unpack[ProcessSettings],
) -> int:
    """Serves `app`, an application or "module:callable", until a signal stops it. Returns the exit code.

    For programs that only serve: it writes the same logs as the command line, and handles SIGTERM, SIGINT and SIGQUIT
    in the same way. All settings of the command line are keywords. `listen` and `environ` are as for `Server`. `mounts`
    is as for `Server`, and an application in it may be a name, too.
    The exit codes are those of the command line, see docs/reference/exit-codes.md.

    With `workers=N`, this process forks workers, watches them and replaces them. They serve `app` as it is now; if `app`
    is a name, each worker imports it. The program's other threads go on in this process, and do not exist in the
    workers. Call it before any other server of this process has started.

    Raises RuntimeError on another thread than the main thread, if eventlet or gevent has replaced Python's threads, and
    for workers if a server has started in this process; ValueError for a wrong value, TypeError for an unknown setting
    and for an application that is not WSGI.
    """
    check_threads()
    if threading.current_thread() is not threading.main_thread():
        raise RuntimeError("serve() works on the main thread only, because it handles signals: use maypole.Server here")
    if listen is not None:
        settings["bind"] = [address_text(address) for address in _listed(listen)]
    _prepare_process()
    application, name = (None, app) if isinstance(app, str) else (app, None)
    given, objects = keywords(settings), []
    for path, mounted in (mounts or {}).items():
        given.append(("mount", [f"{path}={mounted if isinstance(mounted, str) else _native.OBJECT}"]))
        if not isinstance(mounted, str):
            objects.append((path, mounted))
    return _native.serve(application, name, given, dict(environ) if environ is not None else None, objects)
