"""Maypole as the live server of Django's tests: `server_thread_class = LiveServerThread` in a `LiveServerTestCase`.

*Owns*: the server of one test class. *Runs on*: Django's thread for the server; requests run on Maypole's threads.
*Invariants*: a request uses the database connections that the test shares (sqlite in memory), and closes its own.
"""

# Django comes without types.
# mypy: disable-error-code="import-untyped,misc"

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

from django.db import connections
from django.test import testcases

from maypole.serving import WSGIServer

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIEnvironment

__all__ = ["LiveServerThread"]


class _LiveServer(WSGIServer):
    """The server that Django's thread makes, runs and shuts down."""

    def __init__(
        self,
        server_address: tuple[str, int],
        handler: object = None,
        *,
        allow_reuse_address: bool = False,
        connections_override: dict[str, Any] | None = None,
    ) -> None:
        self.allow_reuse_address = allow_reuse_address
        self.connections_override = connections_override or {}
        # Django's handler class is not used, because Maypole handles HTTP itself.
        super().__init__(server_address)

    def _call(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        for alias, connection in self.connections_override.items():
            connections[alias] = connection
        return _Closing(super()._call(environ, start_response))


class _Closing:
    """A response that closes the thread's database connections at its end, so that the test can drop the database."""

    def __init__(self, response: Iterable[bytes]) -> None:
        self._response = response

    def __iter__(self) -> Iterator[bytes]:
        return iter(self._response)

    def close(self) -> None:
        try:
            if hasattr(self._response, "close"):
                self._response.close()
        finally:
            connections.close_all()


class LiveServerThread(testcases.LiveServerThread):
    """Django's thread for the live server, with Maypole as the server."""

    server_class = _LiveServer
