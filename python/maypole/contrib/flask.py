"""`flask maypole`: does what `flask run` does (finds the application, reloads, debugs), with Maypole as the server.

*Owns*: the command's options. *Runs on*: the main thread; under werkzeug's reloader, a thread that the reloader starts.
*Invariants*: the server's parser reads its settings; no setting has a default here.
"""

from __future__ import annotations

import sys
import time
import traceback
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

import click
from flask.cli import ScriptInfo, SeparatedPathType, pass_script_info, show_server_banner
from flask.helpers import get_debug_flag

from maypole import AccessEntry, serve, serving
from maypole._tls import settings_of
from maypole.contrib import _options, _signals

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment


def _with_settings(command: Callable[..., None]) -> Callable[..., None]:
    """Adds the server's options to a command."""
    for option in reversed(_options.options()):
        kind: dict[str, Any] = {"metavar": option.metavar} if option.metavar else {"is_flag": True}
        command = click.option(option.flag, option.name, default=None, help=option.help, **kind)(command)
    return command


@click.command("maypole", short_help="Run Maypole, with a reloader for development.")
@click.option("--host", "-h", default="127.0.0.1", show_default=True, help="Listen on this address.")
@click.option("--port", "-p", default=5000, show_default=True, help="Listen on this port; 0 takes a free one.")
@click.option("--reload/--no-reload", default=None, help="Restart when code changes; default: in debug mode.")
@click.option("--debugger/--no-debugger", default=None, help="Show errors in werkzeug's debugger; default: in debug mode.")
@click.option("--extra-files", type=SeparatedPathType(), help="Restart when one of these files changes, too.")
@click.option("--exclude-patterns", type=SeparatedPathType(), help="Do not restart when one of these files changes.")
@click.option("--cert", help="Speak TLS with this certificate: a file, or `adhoc`.")
@click.option("--key", help="Take the key of the certificate from this file.")
@_with_settings
@pass_script_info
def command(
    info: ScriptInfo,
    /,
    host: str,
    port: int,
    reload: bool | None,
    debugger: bool | None,
    extra_files: list[str] | None,
    exclude_patterns: list[str] | None,
    cert: str | None,
    key: str | None,
    **settings: Any,
) -> None:
    """Serve the application with Maypole.

    In debug mode it restarts when code changes and shows errors in the browser, as `flask run` does. Otherwise nothing
    stands between Maypole and the application. With `--workers`, worker processes serve, and requests are logged to the
    standard output.
    """
    debug = get_debug_flag()
    reload = debug if reload is None else reload
    debugger = debug if debugger is None else debugger
    try:
        if key and not cert:
            raise ValueError("--key needs --cert")
        of_files = settings_of("adhoc" if cert == "adhoc" else (cert, key), host) if cert else {}
        chosen, needs_workers = _options.given({**settings, **of_files})
        if needs_workers:
            if reload or debugger:
                raise ValueError("workers have neither the reloader nor the debugger: add --no-reload --no-debugger")
            show_server_banner(debug, info.app_import_path)
            sys.exit(serve(info.load_app(), (host, port), **_options.of_workers(chosen)))
        application = _load(info)
        show_server_banner(debug, info.app_import_path)
        _signals.end_on_sigterm()
        serving.run_simple(
            host,
            port,
            application,
            use_reloader=reload,
            use_debugger=debugger,
            extra_files=extra_files,
            exclude_patterns=exclude_patterns,
            on_access=_log_request,
            **chosen,
        )
    except (OSError, ValueError) as error:
        raise click.ClickException(str(error)) from error


def _load(info: ScriptInfo) -> WSGIApplication:
    """Returns the application. Under the reloader, if the import fails, returns one that raises the same exception."""
    try:
        return info.load_app()
    except Exception as error:
        if not serving.is_reloaded():
            raise
        traceback.print_exc()
        failure = error

    def failed(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        raise failure from None

    return failed


def _log_request(entry: AccessEntry) -> None:
    """Writes a line for a request to standard error."""
    when = time.strftime("%d/%b/%Y %H:%M:%S", time.localtime(entry.ended))
    line = f'{entry.client_ip} - [{when}] "{entry.request_line}" {entry.status} {entry.body_bytes}'
    print(line, file=sys.stderr, flush=True)
