"""`Server`: a WSGI server inside a program, and `serve` for programs that do nothing else.

Owns: Python's view of a server; the work is done by `maypole._native`. Runs on: whichever thread calls. Invariants: nothing
is started before `start`; every method may be called at any time and in any order; a child of fork(2) finds a started
server inert.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import signal
import socket as stdlib_socket
import sys
import threading
import traceback
import weakref
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, TextIO, TypeVar, Union

from . import _native
from ._patched import check_threads

if TYPE_CHECKING:
    from types import TracebackType

    from _typeshed.wsgi import WSGIApplication

T = TypeVar("T")

#: Where to listen: "host:port", "[v6]:port", "unix:PATH", "unix:@NAME", "fd://N", or (host, port).
Address = Union[str, "tuple[str, int]"]

# At the interpreter's exit nobody has asked for a graceful stop, but what runs may end if it does so soon.
_EXIT_SECONDS = 5.0

# Signals that somebody sends; the others come from what a thread itself does.
_SENT_SIGNALS = signal.valid_signals() - {
    signal.SIGABRT, signal.SIGBUS, signal.SIGFPE, signal.SIGILL, signal.SIGSEGV, signal.SIGSYS, signal.SIGTRAP
}

_servers: weakref.WeakSet[Server] = weakref.WeakSet()
_prepared: int | None = None


def _prepare_process() -> None:
    """Has the process end its servers before Python goes down, and a forked child let go of them."""
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
        # A program that runs its exit functions by hand may go on and start a server.
        _prepared = 0


def _forked() -> None:
    for server in list(_servers):
        server._let_go()


def _text(value: object) -> str:
    """A setting's value as it would be written on the command line."""
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value)


def _keywords(settings: Mapping[str, Any]) -> list[tuple[str, list[str]]]:
    """Settings as the parser takes them: None is the default, a list is the option given several times."""
    keywords = []
    for name, value in settings.items():
        if value is None:
            continue
        values = value if isinstance(value, (list, tuple)) else [value]
        keywords.append((name, [_text(value) for value in values]))
    return keywords


def _address(address: Address) -> str:
    if isinstance(address, str):
        return address
    host, port = address
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _listed(value: Any) -> list[Any]:
    return list(value) if isinstance(value, list) else [value]


class Server:
    """A WSGI server: bound when it is made, and nothing more before `start`.

    `listen` says where: "host:port", "[v6]:port", "unix:PATH", "unix:@NAME", "fd://N", a (host, port) tuple, or a list of
    these. `sock` takes a listening socket, or a list, `fd` descriptors of such; they are duplicated and stay the caller's.
    `pool` is a `Pool` to share among servers, instead of `pool_size`. What is in `environ` is in every request's environ.
    `on_access` is called with an `AccessEntry` after each response, on a thread of the executor. With `headers_raw` each
    environ has the fields and the path as they came: "headers_raw" and "RAW_PATH_INFO". All other keywords are the
    settings of the command line, with `_` for `-`.

    Raises OSError where it cannot bind, TypeError for a setting that does not exist and for an application that cannot be
    called as WSGI does, such as an ASGI application, and ValueError for a wrong value.
    """

    def __init__(
        self,
        app: WSGIApplication,
        listen: Address | list[Address] | None = None,
        *,
        sock: stdlib_socket.socket | list[stdlib_socket.socket] | None = None,
        fd: int | list[int] | None = None,
        pool: _native.Pool | None = None,
        environ: Mapping[str, Any] | None = None,
        on_access: Callable[[_native.AccessEntry], object] | None = None,
        headers_raw: bool = False,
        **settings: Any,
    ) -> None:
        _native.check_application(app)
        given = [name for name, value in (("listen", listen), ("sock", sock), ("fd", fd)) if value is not None]
        if settings.get("bind") is not None:
            given.append("bind")
        if len(given) > 1:
            raise TypeError(f"give one of listen, sock and fd, not {' and '.join(given)}")
        if listen is not None:
            settings["bind"] = [_address(address) for address in _listed(listen)]
        descriptors = [one.fileno() for one in _listed(sock)] if sock is not None else []
        descriptors += _listed(fd) if fd is not None else []
        if pool is not None and settings.get("pool_size") is not None:
            raise TypeError("give one of pool and pool_size")
        self.app = app
        self._sockets: list[stdlib_socket.socket] | None = None
        # What another process needs to make the same server.
        self._given = {**settings, "environ": environ, "on_access": on_access, "headers_raw": headers_raw}
        self._native = _native.Server(
            app,
            descriptors,
            _keywords(settings),
            pool,
            dict(environ) if environ is not None else None,
            on_access,
            headers_raw,
        )

    # Where it listens.

    @property
    def sockets(self) -> list[stdlib_socket.socket]:
        """The listening sockets, as objects with descriptors of their own."""
        if self._sockets is None:
            self._sockets = [stdlib_socket.socket(fileno=os.dup(number)) for number in self._native.filenos]
        return list(self._sockets)

    @property
    def socket(self) -> stdlib_socket.socket:
        """The first listening socket."""
        return self._first(self.sockets)

    @property
    def host(self) -> str:
        """The first listener's host, or the path of a unix socket, or its `@NAME`."""
        return self._first(self._native.hosts)[0]

    @property
    def port(self) -> int:
        """The first listener's port; 0 for a unix socket."""
        return self._first(self._native.hosts)[1]

    @property
    def addresses(self) -> list[str]:
        """Where it listens: "http://127.0.0.1:8000", "unix:/path", "unix:@name"."""
        return self._native.addresses

    def _first(self, found: list[T]) -> T:
        if not found:
            raise RuntimeError(f"the server has no listener any more: it is {self.state}")
        return found[0]

    def fileno(self) -> int:
        """The first listener's descriptor."""
        return self._first(self._native.filenos)

    # Its life.

    @property
    def state(self) -> str:
        """"created", "running", "stopping", "stopped", "closed", or "inert" in a child of the process that started it."""
        return self._native.state

    def start(self) -> None:
        """Serves from now on, on threads of its own. May follow `stop`; does nothing while it runs."""
        check_threads()
        if self.state == "inert":
            raise RuntimeError("the server belongs to the parent process: make another one, before that one starts any")
        _prepare_process()
        _servers.add(self)
        self._native.start()

    def stop(self, graceful: bool = True, timeout: float | None = None) -> bool:
        """Stops, and waits until it has: idle connections are closed, and what runs may end.

        `timeout` is in seconds, by default the setting `graceful_timeout`; what has not ended by then is cut, and so is
        everything at once without `graceful`. Log lines have been delivered when it returns. Answers whether everything
        has ended by itself. Does nothing where it does not run. On the main thread signal handlers run meanwhile.

        Inside a request it does not wait, since that request is one of those that may end, and answers False.
        """
        seconds = timeout if graceful else 0.0
        if _native.on_executor() and self.state in ("running", "stopping"):
            threading.Thread(target=self._native.stop, args=(seconds,), name="maypole-stop").start()
            return False
        return self._native.stop(seconds)

    def wait(self, timeout: float | None = None) -> bool:
        """Waits until it has stopped, or so many seconds; answers whether it does not run.

        On the main thread signal handlers run meanwhile, and what they raise comes out. Another thread takes no signal
        while it waits, so that the main thread, where they are handled, is the one that is woken.
        """
        if threading.current_thread() is threading.main_thread():
            return self._native.wait(timeout)
        before = signal.pthread_sigmask(signal.SIG_BLOCK, _SENT_SIGNALS)
        try:
            return self._native.wait(timeout)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)

    def reset(self) -> None:
        """Gives the pool its configured size again; one that was given to the server: the size that it had then."""
        self._native.reset()

    def close(self) -> None:
        """Stops without waiting for what runs, and closes the listeners. The server cannot be started again."""
        self._native.stop(0.0)
        self._native.close()
        self._let_go()

    def _let_go(self) -> None:
        for one in self._sockets or []:
            one.close()
        self._sockets = None

    def serve_forever(self) -> None:
        """Starts, waits until somebody stops it or an exception comes, and stops in any case."""
        self.start()
        try:
            self.wait()
        finally:
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

    # What it does.

    @property
    def settings(self) -> dict[str, str]:
        """Every setting with its value, as the command line's `--print-config` prints it."""
        skipped = ("application", "paste", "factory", "chdir", "pythonpath", "umask", "init", "error_logfile")
        return {name: value for name, value in self._native.settings if name not in skipped}

    def stats(self) -> dict[str, Any]:
        """Numbers: connections, idle, requests, hijacked, served, pool_size, pool_taken, coroutines, threads, threads_running, queued,
        abandoned, late, …"""
        return self._native.stats()

    def dump(self, file: TextIO | None = None) -> None:
        """Writes what every Python thread is doing, and the requests being served; to standard error without a file."""
        file = sys.stderr if file is None else file
        names = {thread.ident: thread.name for thread in threading.enumerate()}
        lines: list[str] = []
        for ident, frame in sys._current_frames().items():
            lines.append(f"Thread {ident} ({names.get(ident, 'not of threading')}):\n")
            lines.extend(traceback.format_stack(frame))
        lines.append(self._native.serving() + "\n")
        file.write("".join(lines))
        with contextlib.suppress(AttributeError):
            file.flush()

    def __repr__(self) -> str:
        where = ", ".join(self.addresses) or "nowhere"
        return f"<maypole.Server on {where}, {self.state}>"

    # A process that is started by multiprocessing's "spawn" gets the same server, not started.

    def __reduce__(self) -> tuple[Callable[..., Server], tuple[Any, ...]]:
        from multiprocessing import context, reduction

        if context.get_spawning_popen() is None:
            raise TypeError("a server can be pickled only for a process that multiprocessing starts")
        descriptors = [reduction.DupFd(number) for number in self._native.filenos]
        given = {name: value for name, value in self._given.items() if name != "bind"}
        return _rebuilt, (type(self), self.app, descriptors, given)


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
    environ: Mapping[str, Any] | None = None,
    **settings: Any,
) -> int:
    """Serves `app`, an application or "module:callable", until a signal says stop; answers the exit status.

    For programs that do nothing else: it logs, and handles SIGTERM, SIGINT and SIGQUIT, as the command line does, and all
    its settings are keywords here; `environ` is as for `Server`. Call it on the main thread.
    """
    check_threads()
    if threading.current_thread() is not threading.main_thread():
        raise RuntimeError("serve() handles signals, which is for the main thread: use maypole.Server on others")
    if listen is not None:
        settings["bind"] = [_address(address) for address in _listed(listen)]
    _prepare_process()
    application, name = (None, app) if isinstance(app, str) else (app, None)
    return _native.serve(application, name, _keywords(settings), dict(environ) if environ is not None else None)
