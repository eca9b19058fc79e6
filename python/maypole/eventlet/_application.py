"""Calls the application like `eventlet.wsgi`: with its environ, its rules for responses, its posthooks and its 500s.

*Owns*: one request between the server and the application. *Runs on*: an executor thread, the same from the call to
`close()`. *Invariants*: the application's iterable is closed once. The server gets a response's head together with the
first bytes, so that a failure before them becomes a clean 500. There are no reference cycles, because the server reuses
its callables only if no other object refers to them.
"""

from __future__ import annotations

import sys
import threading
import traceback
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

from ._input import CONTINUE_LINE, Input, capitalized
from ._log import printable

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIApplication

#: An application that has answered on the socket itself sets `already_handled` to True.
WSGI_LOCAL = threading.local()

#: Keys that describe the request. The argument `environ` does not change them.
_OF_THE_REQUEST = frozenset((
    "REQUEST_METHOD", "SCRIPT_NAME", "PATH_INFO", "RAW_PATH_INFO", "RAW_URI", "REQUEST_URI", "QUERY_STRING",
    "CONTENT_TYPE", "CONTENT_LENGTH", "SERVER_PROTOCOL", "SERVER_NAME", "SERVER_PORT", "REMOTE_ADDR", "REMOTE_PORT",
    "GATEWAY_INTERFACE", "headers_raw", "wsgi.input", "eventlet.input", "eventlet.posthooks", "eventlet.set_idle",
))


class ResponseCut(Exception):
    """Cuts a response whose head has been sent, so that the client sees that it is not complete."""

    #: The log has the reason already.
    maypole_logged = True


class ClientGone(Exception):
    """The client disconnected while the response was being sent."""


class Application:
    """The WSGI application that the server calls. It calls the program's application."""

    def __init__(
        self,
        site: WSGIApplication,
        log: Any,
        *,
        environ: Mapping[str, Any] | None,
        minimum_chunk_size: Callable[[], int],
        capitalize: bool,
        debug: bool,
        default_content_type: str,
    ) -> None:
        self.site = site
        self.log = log
        self.environ = environ
        self.minimum_chunk_size = minimum_chunk_size
        self.capitalize = capitalize
        self.debug = debug
        self.default_content_type = default_content_type
        #: True while the server stops. Responses that were marked idle then end with their next piece.
        self.is_stopping = False

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        idle = _Idle()
        request_input = self.prepare(environ, idle)
        return _Response(self, environ, start_response, request_input, idle).run()

    def prepare(self, environ: dict[str, Any], idle: _Idle) -> Input:
        """Turns the server's environ into eventlet's. Returns its input, which the application may replace there."""
        environ["wsgi.errors"] = sys.stderr
        # False, as in eventlet. A program that forks workers can change it with the argument `environ`.
        environ["wsgi.multiprocess"] = False
        if self.environ:
            for key, value in self.environ.items():
                if key not in _OF_THE_REQUEST and not (key.startswith("HTTP_") and key in environ):
                    environ[key] = value
        environ["GATEWAY_INTERFACE"] = "CGI/1.1"
        if "CONTENT_TYPE" not in environ:
            environ["CONTENT_TYPE"] = self.default_content_type
        if not environ["REMOTE_ADDR"]:
            # eventlet's names for both ends of a unix socket.
            environ["REMOTE_ADDR"] = environ["SERVER_NAME"] = "unix"
            environ["REMOTE_PORT"] = environ["SERVER_PORT"] = ""
        chunked = environ.get("HTTP_TRANSFER_ENCODING", "").lower() == "chunked"
        # A body of HTTP/2 ends with its last frame, and needs no length.
        without = None if environ["SERVER_PROTOCOL"] == "HTTP/2.0" else 0
        length = None if chunked else environ.get("CONTENT_LENGTH", without)
        send_continue = environ["maypole.send_continue"]
        waits = environ.get("HTTP_EXPECT", "").lower() == "100-continue"
        request_input = Input(
            environ["wsgi.input"],
            length,
            # None with HTTP/2, which has several requests on one connection.
            environ.get("maypole.socket"),
            wfile=send_continue if waits else None,
            wfile_line=CONTINUE_LINE if waits else None,
            chunked_input=chunked,
            send_continue=send_continue,
        )
        environ["wsgi.input"] = environ["eventlet.input"] = request_input
        environ["eventlet.posthooks"] = []
        environ["eventlet.set_idle"] = idle.set
        return request_input


class _Idle:
    """Holds whether a shutdown may close the connection before its request has ended."""

    __slots__ = ("is_set",)

    def __init__(self) -> None:
        self.is_set = False

    def set(self) -> None:
        self.is_set = True


class _Response:
    """One response."""

    def __init__(
        self,
        application: Application,
        environ: dict[str, Any],
        start_response: Callable[..., Any],
        request_input: Input,
        idle: _Idle,
    ) -> None:
        self.application = application
        self.environ = environ
        self.native_start_response = start_response
        self.native_write: Any = None
        self.input = request_input
        self.idle = idle
        self.status: Any = None
        self.headers: list[tuple[str, str]] | None = None
        #: Empty until the head is being sent. The input shares this list.
        self.headers_sent: list[int] = []
        request_input.headers_sent = self.headers_sent
        # Read these before the call, because the application may delete any key, or clear the environ.
        self.method: str = environ["REQUEST_METHOD"]
        self.target: str = environ["RAW_URI"]
        self.version: str = environ["SERVER_PROTOCOL"]
        self.file_wrapper: Any = environ.get("wsgi.file_wrapper")
        self.given_posthooks: list[Any] = environ["eventlet.posthooks"]

    def run(self) -> Iterable[bytes]:
        """Calls the application and sends its response. Returns the rest of the body for the server to send."""
        WSGI_LOCAL.already_handled = False
        result: Any = None
        rest: Iterable[bytes] = ()
        try:
            try:
                result = self.application.site(self.environ, self.start_response)
                rest = self.send(result)
            except ClientGone:
                rest = ()
            except BaseException:
                # BaseException, because eventlet's Timeout is not an Exception.
                rest = self.failed()
        finally:
            if result is not rest:
                self.close(result)
        if self.input.is_socket_taken:
            _close_socket(self.input.get_socket())
        self.run_posthooks()
        return rest

    # --- for the application --------------------------------------------------------------------------------------

    def start_response(
        self, status: str, headers: Iterable[tuple[Any, Any]], exc_info: Any = None
    ) -> Callable[..., None]:
        """Stores the head. As in eventlet, it may be called again until the head is sent, and values may have any type."""
        int(status.split(" ", 1)[0])
        if exc_info:
            try:
                if self.headers_sent:
                    raise exc_info[1].with_traceback(exc_info[2])
            finally:
                exc_info = None
        if self.application.capitalize:
            self.headers = [(capitalized(str(name)), str(value)) for name, value in headers]
        else:
            self.headers = [(str(name), str(value)) for name, value in headers]
        self.status = status
        return self.write

    def write(self, data: bytes) -> None:
        """Sends a block at once."""
        self.begin()
        self.native_write(data)

    # --- sending --------------------------------------------------------------------------------------------------

    def begin(self, exc_info: Any = None) -> None:
        """Passes the head to the server, once."""
        if self.headers is None:
            raise AssertionError("write() before start_response()")
        if self.headers_sent:
            return
        self.native_write = self.native_start_response(self.status, self.headers, exc_info)
        self.headers_sent.append(1)

    def send(self, result: Any) -> Iterable[bytes]:
        """Sends the pieces of the application's iterable. Returns the last ones for the server to send."""
        if type(result) is self.file_wrapper and not self.posthooks():
            # The kernel copies the file, and the server closes it.
            self.begin()
            file: Iterable[bytes] = result
            return file
        if hasattr(result, "__len__"):
            self.add_content_length(sum(map(len, result)))
        # The application may set this key.
        size_min = self.environ.get("eventlet.minimum_write_chunk_size")
        size_min = self.application.minimum_chunk_size() if size_min is None else int(size_min)
        # A list or a tuple is complete, so sending some pieces earlier has no advantage.
        is_whole = type(result) in (list, tuple)
        pieces, size = [], 0
        for piece in result:
            if len(piece) == 0:
                continue
            if isinstance(piece, str):
                piece = piece.encode("ascii")
            pieces.append(piece)
            size += len(piece)
            if size >= size_min and not is_whole:
                self.send_block(b"".join(pieces))
                pieces, size = [], 0
            if self.idle.is_set and self.application.is_stopping:
                self.cut("a response that was marked idle ends, because the server stops")
        if WSGI_LOCAL.already_handled:
            return self.abandon()
        if self.headers is None:
            raise AssertionError("the application did not call start_response()")
        block = b"".join(pieces)
        if self.posthooks():
            # The posthooks run when the response has been sent as far as possible.
            self.add_content_length(len(block))
            self.send_block(block)
            return ()
        self.begin()
        return (block,)

    def send_block(self, block: bytes) -> None:
        self.begin()
        try:
            self.native_write(block)
        except BrokenPipeError:
            raise ClientGone from None

    def add_content_length(self, length: int) -> None:
        """Adds Content-Length if the length is known before anything is sent and the application did not give it."""
        if self.headers is None or self.headers_sent or self.status[:3] in ("204", "304") or self.status[:1] == "1":
            return
        if self.method == "HEAD":
            return
        if not any(name.lower() == "content-length" for name, _ in self.headers):
            self.headers.append(("Content-Length", str(length)))

    def abandon(self) -> Iterable[bytes]:
        """Sends nothing more, because the application has answered on the socket itself or wants no response."""
        if self.input.is_socket_taken:
            return ()
        if self.headers_sent:
            self.cut("WSGI_LOCAL.already_handled was set after the response had begun")
        # The server hands a connection over only after the request has been read.
        self.input.discard()
        _close_socket(self.input.get_socket())
        return ()

    # --- ending ---------------------------------------------------------------------------------------------------

    def cut(self, reason: str) -> None:
        self.application.log.info(f"{self.request_line()}: {reason}")
        raise ResponseCut(reason)

    def failed(self) -> Iterable[bytes]:
        """Logs the exception. Returns the body of a 500, or raises if the response has begun, which cuts it."""
        error = sys.exc_info()
        if isinstance(error[1], ResponseCut):
            raise error[1]
        text = traceback.format_exc()
        self.application.log.info(text)
        if self.input.is_socket_taken:
            return ()
        if self.headers_sent:
            raise ResponseCut("the application failed after its response had begun") from None
        body = text.encode("utf-8", "backslashreplace") if self.application.debug else b""
        self.status = "500 Internal Server Error"
        self.headers = [("Content-Type", "text/plain"), ("Content-Length", str(len(body))), ("Connection", "close")]
        self.begin(error)
        return (body,)

    def close(self, result: object) -> None:
        close = getattr(result, "close", None)
        if close is None:
            return
        try:
            close()
        except BaseException:
            self.application.log.info(traceback.format_exc())

    def posthooks(self) -> list[Any]:
        """Returns the list in the environ, or the original one if the application has removed it."""
        hooks = self.environ.get("eventlet.posthooks")
        return hooks if isinstance(hooks, list) else self.given_posthooks

    def run_posthooks(self) -> None:
        """Calls the posthooks. If one fails, logs it and goes on."""
        for entry in self.posthooks():
            try:
                hook, args, kwargs = entry
                hook(self.environ, *args, **kwargs)
            except BaseException:
                self.application.log.info(traceback.format_exc())

    def request_line(self) -> str:
        return printable(f"{self.method} {self.target} {self.version}")


def _close_socket(sock: Any) -> None:
    """Closes a connection that the application has taken over, even if another object holds the socket."""
    try:
        sock.shutdown(2)
    except OSError:
        # The client or the application has closed it already.
        pass
    sock.close()
