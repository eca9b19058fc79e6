"""`run_simple`, with the arguments of werkzeug's, and the listening sockets that other programs pass to this process.

*Owns*: nothing. *Runs on*: the main thread; with a reloader, werkzeug's thread in each process that it starts.
*Invariants*: Maypole installs no signal handler here, but werkzeug's reloader installs its own.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from ._werkzeug import make_server

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIApplication

# The first descriptor that socket activation passes: sd_listen_fds(3).
_LISTEN_FDS_START = 3
# When code has changed, running requests get this long to finish, in seconds, unless `graceful_timeout` is set.
RELOAD_SECONDS = 1.0


def run_simple(
    hostname: str,
    port: int,
    application: WSGIApplication,
    use_reloader: bool = False,
    use_debugger: bool = False,
    use_evalex: bool = True,
    extra_files: Iterable[str] | None = None,
    exclude_patterns: Iterable[str] | None = None,
    reloader_interval: int = 1,
    reloader_type: str = "auto",
    threaded: bool = True,
    processes: int = 1,
    request_handler: type | None = None,
    static_files: Mapping[str, str | tuple[str, str]] | None = None,
    passthrough_errors: bool = False,
    ssl_context: object = None,
    **settings: Any,
) -> None:
    """Serves until Ctrl-C, with the arguments of werkzeug's `run_simple`.

    The reloader, the debugger and static files need werkzeug. Uses the socket from socket activation, if there is one.
    `settings` are those of `maypole.Server`.
    """
    if not isinstance(port, int):
        raise TypeError("port must be an integer")
    application = _with_werkzeug(application, hostname, static_files, use_debugger, use_evalex)
    reloader = None
    if use_reloader:
        reloader = _of_werkzeug("_reloader", "use_reloader")
        settings.setdefault("graceful_timeout", RELOAD_SECONDS)
    server = make_server(
        hostname,
        port,
        application,
        threaded,
        processes,
        request_handler,
        passthrough_errors,
        ssl_context,
        inherited_fd(),
        **settings,
    )
    if not is_reloaded():
        server.log_startup()
    if reloader is None:
        server.serve_forever()
        return
    if not is_reloaded():
        # Pass this socket to each process that the reloader starts, which serves on it.
        server.socket.set_inheritable(True)
        os.environ["WERKZEUG_SERVER_FD"] = str(server.fileno())
    try:
        reloader.run_with_reloader(
            server.serve_forever,
            extra_files=extra_files,
            exclude_patterns=exclude_patterns,
            interval=reloader_interval,
            reloader_type=reloader_type,
        )
    finally:
        # Do not close in the process that serves: there, the interpreter's exit waits for running requests.
        if not is_reloaded():
            server.server_close()


def _with_werkzeug(
    application: WSGIApplication,
    hostname: str,
    static_files: Mapping[str, str | tuple[str, str]] | None,
    use_debugger: bool,
    use_evalex: bool,
) -> WSGIApplication:
    """Returns the application with werkzeug's static files and its debugger around it."""
    if static_files:
        application = _of_werkzeug("middleware.shared_data", "static_files").SharedDataMiddleware(application, static_files)
    if use_debugger:
        debugged = _of_werkzeug("debug", "use_debugger").DebuggedApplication(application, evalex=use_evalex)
        # Older versions of werkzeug trust every host.
        if hasattr(debugged, "trusted_hosts"):
            debugged.trusted_hosts.append(hostname)
        application = debugged
    return application


def inherited_fd() -> int | None:
    """Returns the descriptor of the listening socket that another program has passed to this process, or None.

    The other program is werkzeug's reloader (`WERKZEUG_SERVER_FD`), or one that uses `LISTEN_FDS`, if `LISTEN_PID` is
    this process: socket activation, or a program that re-executes itself. Pass the result to `make_server(fd=…)`, which
    does not read these variables.
    """
    if is_reloaded() and "WERKZEUG_SERVER_FD" in os.environ:
        return int(os.environ["WERKZEUG_SERVER_FD"])
    if os.environ.get("LISTEN_PID") == str(os.getpid()) and int(os.environ.get("LISTEN_FDS") or 0) > 0:
        return _LISTEN_FDS_START
    return None


def is_reloaded() -> bool:
    """Returns whether werkzeug's reloader has started this process."""
    return os.environ.get("WERKZEUG_RUN_MAIN") == "true"


def _of_werkzeug(module: str, what: str) -> Any:
    """Returns a module of werkzeug that the argument `what` needs."""
    try:
        return importlib.import_module(f"werkzeug.{module}")
    except ModuleNotFoundError as error:
        if error.name != "werkzeug":
            raise
        raise ModuleNotFoundError(f"{what} needs werkzeug: pip install werkzeug", name="werkzeug") from None
