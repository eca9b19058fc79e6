"""One client's stream of events: the iterable of its response.

*Owns*: the events that wait for the client. *Runs on*: iteration on the server's threads, everything else on any thread.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, Literal

from .._durations import Duration, seconds
from .._parking import EARLY, Parked, Resume
from .._requests import environ_of, response_of
from . import _format

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIEnvironment

Overflow = Literal["close", "drop-oldest"]
OVERFLOWS = ("close", "drop-oldest")
HEARTBEAT = b":\n\n"


class EventStream(Parked):
    """A stream of events to one client. It is the body of a response, and waits without a thread if the server can.

    `request` is an environ, or a request of Flask, Django, werkzeug, WebOb or Pyramid.

    `heartbeat` is the longest time without an event or a comment, so that proxies keep the connection and the server
    notices that the client has left. Each stream takes a time between 3/4 of it and all of it, so that thousands of them
    do not send at once. 0 sends no comments. `retry` is how long the browser waits before it connects again.
    `last_event_id` is taken if the request has no `Last-Event-ID`.

    `max_waiting` is the most events that wait for the client. The next one ends the stream (`overflow="close"`): the
    browser connects again, and says which event it has seen last. With `overflow="drop-oldest"` it takes the place of the
    oldest one. `on_close` is called once, when the stream has closed.

    Raises TypeError for a request of another kind, and ValueError for a wrong value.
    """

    __slots__ = ("__weakref__", "_due", "_heartbeat", "_is_closed", "_max_waiting", "_on_close", "_overflow", "_request",
                 "_waiting", "dropped", "last_event_id")  # fmt: skip

    #: The status of the response.
    status = "200 OK"

    def __init__(
        self,
        request: Any,
        *,
        heartbeat: Duration | None = "15s",
        retry: Duration | None = None,
        last_event_id: str | None = None,
        max_waiting: int = 1000,
        overflow: Overflow = "close",
        on_close: Callable[[], object] | None = None,
    ) -> None:
        environ = environ_of(request)
        super().__init__(environ)
        check_limits(max_waiting, overflow)
        # Middleware that compresses would hold events back: Django's, and all that decide after the call.
        environ.pop("HTTP_ACCEPT_ENCODING", None)
        self._request = request if request is not environ else None
        self._heartbeat = seconds("heartbeat", heartbeat or 0) * (0.75 + random.random() / 4)
        self._max_waiting, self._overflow, self._on_close = max_waiting, overflow, on_close
        #: The id of the last event that the client has seen. None at its first connection.
        self.last_event_id = _last_event_id(environ, last_event_id)
        #: How many events the client has not got because more than `max_waiting` waited.
        self.dropped = 0
        # The first block is there at once: with it the browser knows that the stream is open.
        self._waiting = [HEARTBEAT if retry is None else _format.retry(seconds("retry", retry))]
        self._due = time.monotonic() + self._heartbeat
        # The response to HEAD has no body.
        self._is_closed = environ.get("REQUEST_METHOD") == "HEAD"

    @property
    def headers(self) -> list[tuple[str, str]]:
        """The fields of the response. They keep caches and compressing proxies from holding events back."""
        return [
            ("Content-Type", "text/event-stream; charset=utf-8"),
            ("Cache-Control", "no-store, no-transform"),
            ("X-Accel-Buffering", "no"),
        ]

    @property
    def closed(self) -> bool:
        """Whether the stream takes no more events."""
        return self._is_closed

    def send(self, data: str, event: str | None = None, id: str | None = None) -> bool:
        """Sends an event, from any thread. Returns whether the stream is open.

        Raises ValueError if `event` or `id` has a line end, or `id` a NUL.
        """
        return self._send(_format.encode(data, event, id))

    def comment(self, text: str) -> bool:
        """Sends a comment, which browsers ignore. Returns whether the stream is open."""
        return self._send(_format.comment(text))

    def close(self) -> None:
        """Ends the stream after the events that wait. The server calls it when the client has left."""
        with self._lock:
            resume = self._shut()
            done, self._on_close = self._on_close, None
        if resume is not None:
            resume()
        if done is not None:
            done()

    def response(self) -> Any:
        """Returns the response of the framework that the request belongs to: Flask, Django, werkzeug, WebOb, Pyramid.

        Raises TypeError for an environ: call the stream, as an application.
        """
        if self._request is None:
            raise TypeError("an environ belongs to no framework: return stream(environ, start_response)")
        return response_of(self._request, self, self.headers)

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        """Begins the response, as a WSGI application."""
        start_response(self.status, self.headers)
        return self

    def __iter__(self) -> EventStream:
        # A waiting client needs no request.
        self._request = None
        return self

    def __next__(self) -> bytes:
        with self._lock:
            while True:
                now = time.monotonic()
                if self._waiting:
                    blocks, self._waiting = self._waiting, []
                    self._due = now + self._heartbeat
                    return blocks[0] if len(blocks) == 1 else b"".join(blocks)
                if self._is_closed:
                    raise StopIteration
                if not self._heartbeat:
                    rest = None
                elif (rest := self._due - now) <= min(EARLY, self._heartbeat / 2):
                    self._due = now + self._heartbeat
                    return HEARTBEAT
                try:
                    if self._rest(rest):
                        return b""
                except BrokenPipeError:
                    # The client has left, and the server says so to the thread that a middleware makes it hold.
                    self._is_closed = True

    def _send(self, block: bytes) -> bool:
        with self._lock:
            is_open = self._put(block)
            resume = self._wake()
        if resume is not None:
            resume()
        if not is_open:
            self.close()
        return is_open

    def _put(self, block: bytes) -> bool:
        """Adds a block, with the lock. Returns whether the stream is open. The caller wakes it."""
        if self._is_closed:
            return False
        if len(self._waiting) >= self._max_waiting:
            self.dropped += 1
            if self._overflow == "close":
                self._is_closed = True
                return False
            del self._waiting[0]
        self._waiting.append(block)
        return True

    def _shut(self) -> Resume:
        """Closes the stream, with the lock. Returns what the caller has to call without it."""
        self._is_closed = True
        return self._wake()


def check_limits(max_waiting: int, overflow: str) -> None:
    """Raises ValueError if one of these is wrong."""
    if max_waiting < 1:
        raise ValueError(f"invalid value {max_waiting!r} for max_waiting: expected at least 1")
    if overflow not in OVERFLOWS:
        raise ValueError(f"invalid value {overflow!r} for overflow: expected one of {', '.join(OVERFLOWS)}")


def _last_event_id(environ: WSGIEnvironment | Any, otherwise: str | None) -> str | None:
    """Returns the client's `Last-Event-ID`. Browsers send it in UTF-8, and an environ has bytes as Latin-1 (PEP 3333)."""
    sent = environ.get("HTTP_LAST_EVENT_ID")
    return otherwise if not sent else sent.encode("latin-1", "replace").decode("utf-8", "replace")
