"""`wsgi.input` with eventlet's names: the request's body, and the `100 Continue` that asks for it.

*Owns*: one request's body, and the client's socket once the application has taken it. *Runs on*: the application's
thread; a read waits for the client with the GIL released. *Invariants*: the server decides the framing before it calls
the application. No `100 Continue` is sent once the response has begun.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from socket import socket

CONTINUE_LINE = b"HTTP/1.1 100 Continue\r\n"


class ChunkReadError(ValueError):
    """The client sent a malformed chunked body."""


def capitalized(name: str) -> str:
    """Returns `content-tYPE` as `Content-Type`. Changes ASCII letters only."""
    return "-".join(part.encode("latin-1").capitalize().decode("latin-1") for part in name.split("-"))


class Input:
    """The body of a request, read while it arrives.

    `position` counts the bytes that have been read. `chunk_length` is -1 until a chunked body has ended, then 0, because
    the server does not pass on the lengths of chunks. `wfile` is not None if the client waits for a `100 Continue`.
    """

    def __init__(
        self,
        rfile: Any,
        content_length: int | str | None,
        sock: socket | Callable[[], socket] | None = None,
        wfile: Any = None,
        wfile_line: bytes | None = None,
        chunked_input: bool = False,
        send_continue: Callable[[Iterable[tuple[str, str]]], object] | None = None,
    ) -> None:
        """`sock` is a socket or a callable that returns one; `send_continue(fields)` sends a `100 Continue`."""
        self.rfile = rfile
        self.content_length = None if content_length is None else int(content_length)
        self.wfile = wfile
        self.wfile_line = wfile_line
        self.position = 0
        self.chunked_input = chunked_input
        self.chunk_length = -1
        self.hundred_continue_headers: Iterable[tuple[str, str]] | None = None
        self.is_hundred_continue_response_sent = False
        #: True, or not empty, once the response has begun.
        self.headers_sent: object = None
        self._sock = sock
        self._send_continue = send_continue

    # --- 100 Continue ---------------------------------------------------------------------------------------------

    @property
    def should_send_hundred_continue(self) -> bool:
        """True if the client still waits for its `100 Continue`."""
        return self.wfile is not None and not self.is_hundred_continue_response_sent

    def set_hundred_continue_response_headers(
        self, headers: Iterable[tuple[str, str]], capitalize_response_headers: bool = True
    ) -> None:
        """Sets the fields of every later `100 Continue`, including that of the first read."""
        if capitalize_response_headers:
            headers = [(capitalized(name), value) for name, value in headers]
        self.hundred_continue_headers = headers

    def send_hundred_continue_response(self) -> None:
        """Sends a `100 Continue` now. After the end of a chunked body, the client may then send another body.

        Does nothing once the response has begun.
        """
        if self.headers_sent or self._send_continue is None:
            return
        if self.chunked_input and self.chunk_length == 0:
            self.rfile.reopen()
        self._send_continue([(str(name), str(value)) for name, value in self.hundred_continue_headers or ()])
        self.is_hundred_continue_response_sent = True
        self.chunk_length = -1

    # --- reading --------------------------------------------------------------------------------------------------

    def read(self, length: int | None = None) -> bytes:
        """Returns `length` bytes, or fewer at the end of the body; without a length, the rest of the body.

        Raises ChunkReadError if the client sent malformed chunks, TimeoutError if the client is too slow, and OSError
        if the client disconnected before the end.
        """
        return self._take(self.rfile.read, length, whole=True)

    def readline(self, size: int | None = None) -> bytes:
        """Returns a line with its newline, at most `size` bytes."""
        return self._take(self.rfile.readline, size, whole=False)

    def readlines(self, hint: int | None = None) -> list[bytes]:
        """Returns lines until they have `hint` bytes in total or the body ends."""
        lines = []
        left = hint if hint is not None and hint > 0 else None
        while line := self.readline():
            lines.append(line)
            if left is not None:
                left -= len(line)
                if left <= 0:
                    break
        return lines

    def __iter__(self) -> Iterator[bytes]:
        """Yields the rest of the body as one item, not as lines, like eventlet."""
        return iter(self.read, b"")

    def discard(self, buffer_size: int = 16 << 10) -> None:
        """Reads and discards the rest of the body."""
        while self.read(buffer_size):
            pass

    def _take(self, reader: Callable[[int], bytes], size: int | None, whole: bool) -> bytes:
        if self.should_send_hundred_continue and not self.headers_sent:
            self.send_hundred_continue_response()
        size = -1 if size is None or size < 0 else size
        if not self.chunked_input and self.content_length is not None:
            left = max(0, self.content_length - self.position)
            size = left if size < 0 else min(size, left)
        if size == 0:
            return b""
        try:
            data = reader(size)
        except TimeoutError:
            raise
        except ConnectionError as error:
            if not self.chunked_input:
                raise
            self.chunk_length = 0
            raise OSError("unexpected end of file while parsing chunked data") from error
        except OSError as error:
            if not self.chunked_input:
                raise
            raise ChunkReadError(str(error)) from error
        self.position += len(data)
        # A line may be shorter than `size`; a read is shorter only at the end of the body.
        if not data or (whole and (size < 0 or len(data) < size)):
            self.chunk_length = 0
        return data

    # --- the socket -----------------------------------------------------------------------------------------------

    def get_socket(self) -> Any:
        """Returns the client's socket, which the application owns from then on.

        The server sends nothing more on it, and closes it when the call of the application ends. Raises RuntimeError if
        the response has begun, if the request's body has not been read to its end, or with HTTP/2.
        """
        if self._sock is None:
            raise RuntimeError("the connection cannot be taken over: a connection of HTTP/2 cannot be taken over")
        if callable(self._sock):
            self._sock = self._sock()
        return self._sock

    @property
    def is_socket_taken(self) -> bool:
        """True if `get_socket` has been called."""
        return self._sock is not None and not callable(self._sock)
