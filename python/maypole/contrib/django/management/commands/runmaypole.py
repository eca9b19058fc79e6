"""`manage.py runmaypole`: does what runserver does (checks, reloading, static files), with Maypole as the server.

*Owns*: the command's options. *Runs on*: the main thread; under the autoreloader, a thread that the autoreloader starts.
*Invariants*: Django's own command does everything except serving.
"""

# Django comes without types.
# mypy: disable-error-code="import-untyped,misc"

from __future__ import annotations

import logging
import socket
import sys
import time
from typing import Any

from django.apps import apps
from django.core.management.base import CommandError, CommandParser
from django.db import connections

from maypole import AccessEntry, serve
from maypole.contrib import _options, _signals
from maypole.serving import RELOAD_SECONDS, WSGIServer

if apps.is_installed("django.contrib.staticfiles"):
    from django.contrib.staticfiles.management.commands.runserver import Command as Runserver
else:
    from django.core.management.commands.runserver import Command as Runserver

# The logger to which runserver logs requests.
_logger = logging.getLogger("django.server")


class _DevelopmentServer(WSGIServer):
    """The server that the command makes instead of Django's."""

    def __init__(self, server_address: tuple[str, int], handler: object = None, ipv6: bool = False) -> None:
        if ipv6:
            self.address_family = socket.AF_INET6
        # Django's handler class is not used, because Maypole handles HTTP itself.
        super().__init__(server_address)


class _Workers:
    """Stands where the command makes a server, and serves with worker processes."""

    settings: dict[str, Any] = {}

    def __init__(self, server_address: tuple[str, int], handler: object = None, ipv6: bool = False) -> None:
        self.server_address = server_address
        self.server_port = server_address[1]

    def set_app(self, application: Any) -> None:
        self.application = application

    def serve_forever(self) -> None:
        # The checks have used the databases. Workers must not share their connections.
        connections.close_all()
        sys.exit(serve(self.application, self.server_address, **self.settings))


class Command(Runserver):
    help = (
        "Serves the site with Maypole for development, with the reloading and the static files of runserver, or with "
        "worker processes (--workers N --noreload)."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        super().add_arguments(parser)
        for option in _options.options():
            kind: dict[str, Any] = {"metavar": option.metavar} if option.metavar else {"action": "store_true"}
            # argparse takes % for a placeholder.
            text = option.help.replace("%", "%%")
            parser.add_argument(option.flag, dest=option.name, default=None, help=text, **kind)

    def handle(self, *args: Any, **options: Any) -> None:
        try:
            self.server_settings, self.needs_workers = _options.given(options)
        except ValueError as error:
            raise CommandError(str(error)) from None
        if self.needs_workers and options["use_reloader"]:
            raise CommandError("the reloader restarts one process, not workers: add --noreload")
        if "certfile" in self.server_settings:
            # Django prints the address with it.
            self.protocol = "https"
        super().handle(*args, **options)

    def inner_run(self, *args: Any, **options: Any) -> None:
        settings = dict(self.server_settings)
        if not options["use_threading"]:
            settings["threads"] = 1
        if self.needs_workers:
            self.server_cls = type("Workers", (_Workers,), {"settings": _options.of_workers(settings)})
            super().inner_run(*args, **options)
            return
        settings = {"on_access": _log_request, **settings}
        if options["use_reloader"]:
            settings.setdefault("graceful_timeout", RELOAD_SECONDS)
        _signals.end_on_sigterm()
        # Django derives a class from this one and passes no settings to it.
        self.server_cls = type("DevelopmentServer", (_DevelopmentServer,), {"settings": settings})
        super().inner_run(*args, **options)


def _log_request(entry: AccessEntry) -> None:
    """Logs a request to `django.server`, at a level that depends on its status, as runserver does."""
    level = logging.INFO if entry.status < 400 else logging.WARNING if entry.status < 500 else logging.ERROR
    extra = {"server_time": time.strftime("%d/%b/%Y %H:%M:%S", time.localtime(entry.ended)), "status_code": entry.status}
    _logger.log(level, '"%s" %s %s', entry.request_line, entry.status, entry.body_bytes, extra=extra)
