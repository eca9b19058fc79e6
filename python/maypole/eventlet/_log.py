"""The log of `eventlet.wsgi`: access lines, tracebacks of 500s, and lines at the start and the end.

*Runs on*: the thread that calls `server` for the start and the end; otherwise executor threads, several at once.
Therefore each message is one call of the logger or one `write`. *Invariants*: text from clients is escaped.
"""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .. import AccessEntry

#: A format may use `%(client_port)s` as well.
DEFAULT_LOG_FORMAT = (
    '%(client_ip)s - - [%(date_time)s] "%(request_line)s" %(status_code)s %(body_length)s %(wall_seconds).6f'
)

_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
_DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")


class NoLog:
    """Writes nothing: `log_output=False`."""

    def info(self, message: object, *args: object) -> None:
        pass

    debug = error = info


class _FileLog:
    """Writes lines to a file."""

    def __init__(self, file: Any, debug: bool) -> None:
        self._file = file
        self._debug = debug

    def write(self, message: Any, *args: object) -> None:
        self._file.write((message % args if args else message) + "\n")

    info = error = write

    def debug(self, message: Any, *args: object) -> None:
        if self._debug:
            self.write(message, *args)


def logger_for(log: Any, debug: bool) -> Any:
    """Returns `log` if it has `info` and `debug`; otherwise an object that writes to it, by default to standard error."""
    if callable(getattr(log, "info", None)) and callable(getattr(log, "debug", None)):
        return log
    return _FileLog(sys.stderr if log is None else log, debug)


def printable(text: str) -> str:
    """Returns text from a client, escaped for a log line."""
    if text.isascii() and text.isprintable():
        return text
    return text.encode("unicode_escape").decode("ascii")


def access_line(log_format: str, entry: AccessEntry, log_x_forwarded_for: bool) -> str:
    """Returns the line for a `maypole.AccessEntry`."""
    # A client of a unix socket has neither address nor port.
    client_ip, client_port = (entry.client_ip, entry.client_port) if entry.client_ip else ("unix", "")
    if log_x_forwarded_for and entry.forwarded_for:
        forwarded = printable(entry.forwarded_for.replace(" ", ""))
        if forwarded:
            client_ip = f"{forwarded},{client_ip}"
    return log_format % {
        "client_ip": client_ip,
        "client_port": client_port,
        "date_time": _date_time(entry.ended),
        "request_line": printable(entry.request_line),
        "status_code": entry.status,
        "body_length": entry.wire_bytes,
        "wall_seconds": entry.duration,
    }


def _date_time(timestamp: float) -> str:
    """Returns a local time as `21/Nov/2026 01:05:14`."""
    year, month, day, hour, minute, second = time.localtime(timestamp)[:6]
    return f"{day:02d}/{_MONTHS[month - 1]}/{year:04d} {hour:02d}:{minute:02d}:{second:02d}"


def format_date_time(timestamp: float) -> str:
    """Returns a time in the format of HTTP: `Sat, 21 Nov 2026 01:05:14 GMT` (RFC 9110 §5.6.7)."""
    year, month, day, hour, minute, second, weekday = time.gmtime(timestamp)[:7]
    return f"{_DAYS[weekday]}, {day:02d} {_MONTHS[month - 1]} {year:04d} {hour:02d}:{minute:02d}:{second:02d} GMT"
