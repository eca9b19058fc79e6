"""What the adapters of frameworks share for WebSockets that rest.

*Owns*: the functions of one socket, each inside what the framework needs around it. *Runs on*: the threads of the
application.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

from maypole.websocket import OnClose, OnMessage, WebSocket, WebSocketRequest

__all__ = ["UPGRADE_REQUIRED", "Within"]

# The response to a request that is no handshake (RFC 9110 §15.5.22, RFC 6455 §4.4).
UPGRADE_REQUIRED: dict[str, str] = {"Upgrade": "websocket", "Sec-WebSocket-Version": "13"}


class Within:
    """A request for a WebSocket whose functions each run within a new context of the framework."""

    def __init__(self, request: WebSocketRequest, context: Callable[[], AbstractContextManager[Any]]) -> None:
        self._request, self._context = request, context

    @property
    def subprotocols(self) -> list[str]:
        """The subprotocols that the client speaks, the one that it prefers first."""
        return self._request.subprotocols

    def accept(
        self, on_message: OnMessage | None = None, on_close: OnClose | None = None, **settings: Any
    ) -> WebSocket:
        """Accepts the WebSocket, as `maypole.websocket.WebSocketRequest.accept` does."""
        return self._request.accept(self._wrapped(on_message), self._wrapped(on_close), **settings)

    def _wrapped(self, function: Callable[..., object] | None) -> Callable[..., object] | None:
        if function is None or not callable(function):
            # `accept` says what is wrong with it.
            return function
        context = self._context

        def within(*arguments: Any) -> object:
            with context():
                return function(*arguments)

        return within
