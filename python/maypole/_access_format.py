"""The format of eventlet's access lines, which the adapters for eventlet and for oslo.service use.

Runs on: the calling thread.
"""

from __future__ import annotations

#: One value for each name that a format may use, of the type that the server gives it.
_SAMPLE = {
    "client_ip": "127.0.0.1", "client_port": "1", "date_time": "01/Jan/2026 00:00:00",
    "request_line": "GET / HTTP/1.1", "status_code": 200, "body_length": 0, "wall_seconds": 0.0,
}


def check_format(log_format: str) -> None:
    """Raises KeyError, TypeError or ValueError if the format cannot be filled in."""
    log_format % _SAMPLE
