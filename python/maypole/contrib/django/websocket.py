"""WebSockets that rest, for Django: a class with a method for each event, whose `as_view()` goes into the URLs.

*Owns*: one object for each socket. *Runs on*: the threads of the application, one event at a time. *Invariants*:
database connections that are broken or too old are closed before and after each event, as they are for each request.
"""

# Django comes without types.
# mypy: disable-error-code="import-untyped,misc"

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any, ClassVar

from django.db import close_old_connections
from django.http import HttpResponse

from maypole.contrib._websockets import UPGRADE_REQUIRED, Within
from maypole.websocket import WebSocket, websocket_of

__all__ = ["WebSocketConsumer"]


@contextlib.contextmanager
def _connections() -> Iterator[None]:
    close_old_connections()
    try:
        yield
    finally:
        close_old_connections()


class WebSocketConsumer:
    """A WebSocket. Override `connect`, `receive` and `disconnect`."""

    settings: ClassVar[dict[str, Any]] = {}
    """Keywords of `accept`: `{"max_message": 65536}`."""

    def __init__(self, request: Any, **variables: Any) -> None:
        self.request, self.variables = request, variables
        self.ws: WebSocket

    @classmethod
    def as_view(cls) -> Callable[..., Any]:
        """Returns the view. A request that is no handshake gets 426."""

        def view(request: Any, **variables: Any) -> Any:
            offer = websocket_of(request.META)
            if offer is None:
                return HttpResponse("This is a WebSocket.\n", status=426, headers=UPGRADE_REQUIRED)
            consumer = cls(request, **variables)
            refusal = consumer.connect()
            if refusal is not None:
                return refusal
            consumer.ws = Within(offer, _connections).accept(
                lambda _ws, message: consumer.receive(message),
                lambda _ws, code, reason: consumer.disconnect(code, reason),
                subprotocol=consumer.subprotocol(offer.subprotocols),
                **cls.settings,
            )
            consumer.connected()
            return HttpResponse()

        return view

    def connect(self) -> Any:
        """Decides about the socket: a response refuses it, or an exception such as PermissionDenied."""

    def subprotocol(self, offered: list[str]) -> str | None:
        """Returns the subprotocol, one of `offered`."""
        return None

    def connected(self) -> None:
        """Is called once the socket is accepted: `send` is possible from now on."""

    def receive(self, message: str | bytes) -> None:
        """Takes a message of the client."""

    def disconnect(self, code: int, reason: str) -> None:
        """Is called once, at the end."""

    def send(self, message: str | bytes, *, timeout: float = 0.0) -> None:
        """Queues a message for the client. May be called from any thread."""
        self.ws.send(message, timeout=timeout)

    def close(self, code: int = 1000, reason: str = "") -> None:
        """Closes the socket, after everything that was sent."""
        self.ws.close(code, reason)
