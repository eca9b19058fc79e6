"""WebSockets that rest: the types, and where a request has its WebSocket.

*Owns*: nothing. *Runs on*: the thread of the call.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Optional, Protocol, Union

__all__ = ["OnClose", "OnMessage", "WebSocket", "WebSocketRequest", "websocket_of"]

KEY = "maypole.websocket"

Message = Union[str, bytes]


class WebSocket(Protocol):
    """An accepted WebSocket. Its methods may be called from any thread. Other attributes may be set."""

    subprotocol: str | None
    closed: bool
    waiting: int
    close_code: int | None
    close_reason: str | None

    def send(self, message: Message | bytearray | memoryview, *, timeout: float = 0.0) -> None:
        """Queues a message. Raises BlockingIOError if the client is slow, and BrokenPipeError if it has left."""

    def close(self, code: int = 1000, reason: str = "") -> None:
        """Closes the socket, after everything that was sent."""

    def ping(self, data: bytes | None = None) -> None:
        """Sends a ping of at most 125 bytes."""


OnMessage = Callable[[Any, Any], object]
OnClose = Callable[[Any, int, str], object]


class WebSocketRequest(Protocol):
    """A client's request for a WebSocket."""

    subprotocols: list[str]

    def accept(
        self,
        on_message: Optional[OnMessage] = None,
        on_close: Optional[OnClose] = None,
        *,
        subprotocol: str | None = None,
        max_message: int = 1_048_576,
        max_waiting: int = 1_048_576,
        ping_interval: float | None = 30.0,
        idle_timeout: float | None = None,
        max_rate: int | None = None,
    ) -> WebSocket:
        """Accepts the WebSocket. It is open when the call of the application has returned."""


def websocket_of(environ: Mapping[str, Any]) -> WebSocketRequest | None:
    """Returns the WebSocket that a request asks for. `None`: it asks for none, or not in the right way.

    Raises RuntimeError if the server is another one, which cannot keep a WebSocket without a thread.
    """
    request: WebSocketRequest | None = environ.get(KEY)
    # Maypole's environs have this key, whatever the request.
    if request is None and "maypole.suspend" not in environ:
        server = environ.get("SERVER_SOFTWARE") or "this server"
        raise RuntimeError(
            f"{server} does not keep WebSockets that rest; serve the application with Maypole, or use flask-sock"
        )
    return request
