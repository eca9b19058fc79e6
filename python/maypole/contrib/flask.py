"""`flask maypole`: what `flask run` does (application discovery, reloader, debugger), served by Maypole.

*Owns*: the command's options. *Runs on*: the main thread, or under werkzeug's reloader the thread that it starts.
*Invariants*: the server's own settings go through its parser; none has a default here.
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

from maypole import AccessEntry, serving
from maypole.contrib import _options

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment


def with_settings(command: Callable[..., None]) -> Callable[..., None]:
    """Gives a command the server's own options."""
    for option in reversed(_options.options()):
        kind: dict[str, Any] = {"metavar": option.metavar} if option.metavar else {"is_flag": True}
        command = click.option(option.flag, option.name, default=None, help=option.help, **kind)(command)
    return command


@click.command("maypole", short_help="Run Maypole, with a reloader for development.")
@click.option("--host", "-h", default="127.0.0.1", show_default=True, help="The interface to bind to.")
@click.option("--port", "-p", default=5000, show_default=True, help="The port to bind to; 0: any free one.")
@click.option("--reload/--no-reload", default=None, help="Restart when code changes; by default where debug is on.")
@click.option("--debugger/--no-debugger", default=None, help="werkzeug's debugger; by default where debug is on.")
@click.option("--extra-files", type=SeparatedPathType(), help="Further files whose change restarts it.")
@click.option("--exclude-patterns", type=SeparatedPathType(), help="Files whose change does not restart it.")
@with_settings
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
    **settings: Any,
) -> None:
    """Serve the application with Maypole.

    With the debug mode it restarts when code changes and shows errors in the browser, as `flask run` does; without it
    there is nothing between Maypole and the application.
    """
    debug = get_debug_flag()
    application = load(info)
    show_server_banner(debug, info.app_import_path)
    try:
        serving.run_simple(
            host,
            port,
            application,
            use_reloader=debug if reload is None else reload,
            use_debugger=debug if debugger is None else debugger,
            extra_files=extra_files,
            exclude_patterns=exclude_patterns,
            on_access=log_request,
            **_options.given(settings),
        )
    except (OSError, ValueError) as error:
        raise click.ClickException(str(error)) from error


def load(info: ScriptInfo) -> WSGIApplication:
    """The application; under the reloader one that raises what importing it has raised, until the code is mended."""
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


def log_request(entry: AccessEntry) -> None:
    """One line for each request, on standard error."""
    when = time.strftime("%d/%b/%Y %H:%M:%S", time.localtime(entry.ended))
    line = f'{entry.client_ip} - [{when}] "{entry.request_line}" {entry.status} {entry.body_bytes}'
    print(line, file=sys.stderr, flush=True)
