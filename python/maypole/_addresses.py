"""Addresses of sockets as text, and the files of unix sockets.

Runs on: the calling thread.
"""

from __future__ import annotations

from typing import Any

from . import _native


def host_port(host: str, port: object) -> str:
    """Returns `host:port`, with brackets around an IPv6 address."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def socket_text(address: Any) -> str:
    """Returns the result of `getsockname()` as text: `127.0.0.1:8000`, `[::1]:8000`, `unix:PATH` or `unix:@NAME`."""
    if isinstance(address, tuple):
        host, port = address[:2]
        return host_port(host, port)
    return f"unix:{unix_text(address)}"


def unix_address(path: str) -> str:
    """Returns the address for `unix:PATH`, or for `unix:@NAME`, which has no file (unix(7), "abstract")."""
    return "\0" + path[1:] if path.startswith("@") else path


def has_file(address: str | bytes) -> bool:
    """Returns whether a unix socket with this address has a file. The kernel returns bytes for one without a file."""
    return isinstance(address, str) and not address.startswith("\0")


def unix_text(address: str | bytes) -> str:
    """Returns the text from which `unix_address` makes this address."""
    text = address.decode("utf-8", "replace") if isinstance(address, bytes) else address
    return "@" + text[1:] if text.startswith("\0") else text


def remove_stale(address: str | bytes) -> None:
    """Removes the file of a unix socket that no process uses. Leaves every other file, so that binding fails."""
    if isinstance(address, str) and has_file(address):
        _native.remove_stale_socket(address)
