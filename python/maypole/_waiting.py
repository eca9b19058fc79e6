"""Long polling: a response that waits for an event of the program.

*Runs on*: any thread; a wait on the thread that iterates the response.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Generator, Iterator
from typing import Any, Union

from ._durations import Duration, seconds
from ._parking import Parked
from ._requests import environ_of, response_of


class Event(threading.Event):
    """A `threading.Event` that responses can wait for, too: see `maypole.wait`."""

    def __init__(self) -> None:
        super().__init__()
        # Each operation on it is one step of the interpreter, so that it needs no lock.
        self._responses: dict[Waiter, None] = {}

    def set(self) -> None:
        """Ends the wait of all threads and of all responses. `set()` and `clear()` at once do it for those of now."""
        super().set()
        for waiter in list(self._responses):
            waiter._come()


class Waiter(Parked):
    """The wait of a response for an `Event`, which `maypole.wait` returns.

    A generator waits with `yield from waiter`. Within `with waiter:` it also notices an event that comes before that:
    ask within it whether there is something to wait for.
    """

    __slots__ = ("_end", "_event", "_has_come", "_request")

    def __init__(self, request: Any, event: Event, timeout: Duration | None) -> None:
        environ = environ_of(request)
        super().__init__(environ)
        if not isinstance(event, Event):
            raise TypeError(f"expected a maypole.Event, not {type(event).__name__}")
        self._request, self._event = request, event
        self._end = None if timeout is None else time.monotonic() + seconds("timeout", timeout)
        if environ.get("REQUEST_METHOD") == "HEAD":
            # Its response has no body to wait for.
            self._end = time.monotonic()
        self._has_come = False

    def __enter__(self) -> Waiter:
        self._event._responses[self] = None
        if self._event.is_set():
            self._has_come = True
        return self

    def __exit__(self, *_: object) -> None:
        self._event._responses.pop(self, None)

    def __iter__(self) -> Generator[bytes, None, bool]:
        """Yields empty blocks until the event is set or the time is over. Returns whether the event was set."""
        if self in self._event._responses:
            return (yield from self._wait())
        with self:
            return (yield from self._wait())

    def response(
        self,
        body: Callable[[], Union[str, bytes, None]],
        content_type: str = "application/json",
        nothing: Union[str, bytes] = "null",
    ) -> Any:
        """Returns a response of the framework that the request belongs to: Flask, Django, werkzeug, WebOb, Pyramid.

        `body` returns the body of the response, or None if there is nothing to say yet. It is called at once, and again
        each time when the event was set. The body is `nothing` if the time is over. Raises TypeError for an environ: write
        a generator instead.
        """
        request, self._request = self._request, None
        headers = [("Content-Type", content_type), ("Cache-Control", "no-store")]
        return response_of(request, self._body(body, nothing), headers)

    def _body(self, body: Callable[[], Union[str, bytes, None]], nothing: Union[str, bytes]) -> Iterator[bytes]:
        with self:
            while (found := body()) is None:
                if not (yield from self._wait()):
                    found = nothing
                    break
            yield found.encode() if isinstance(found, str) else found

    def _wait(self) -> Generator[bytes, None, bool]:
        while True:
            with self._lock:
                if self._has_come:
                    # The next wait of this response is for the next `set()`.
                    self._has_come = False
                    return True
                rest = None if self._end is None else self._end - time.monotonic()
                if rest is not None and rest <= 0:
                    return False
                try:
                    is_parked = self._rest(rest)
                except BrokenPipeError:
                    # The client has left, and the server says so to the thread that a middleware makes it hold.
                    return False
            if is_parked:
                yield b""

    def _come(self) -> None:
        with self._lock:
            self._has_come = True
            resume = self._wake()
        if resume is not None:
            resume()


def wait(request: Any, event: Event, timeout: Duration | None = "30s") -> Waiter:
    """Returns a wait for an event, for a request or an environ. The time counts from here.

    With Maypole, the response waits without a thread. With another server, the thread that iterates waits.
    """
    return Waiter(request, event, timeout)
