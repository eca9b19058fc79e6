"""Unix sockets, for adapters that bind by themselves.

Runs on: the thread that binds.
"""

from __future__ import annotations

from . import _native


def unix_address(path: str) -> str:
    """The address of `unix:PATH`, or of `unix:@NAME`, which has no file (unix(7), "abstract")."""
    return "\0" + path[1:] if path.startswith("@") else path


def has_file(address: str | bytes) -> bool:
    """Whether a unix socket of this address has a file. The kernel's address of one without is bytes."""
    return isinstance(address, str) and not address.startswith("\0")


def unix_text(address: str | bytes) -> str:
    """What `unix_address` made the address from."""
    text = address.decode("utf-8", "replace") if isinstance(address, bytes) else address
    return "@" + text[1:] if text.startswith("\0") else text


def remove_stale(address: str | bytes) -> None:
    """Takes away the file of a unix socket that no process has any more; any other file stays, and cannot be bound."""
    if isinstance(address, str) and has_file(address):
        _native.remove_stale_socket(address)
