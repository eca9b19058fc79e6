"""The settings that a program passes as keywords, as the command line's parser takes them.

Runs on: the calling thread.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any, Union

from ._addresses import host_port

#: Where to listen: "host:port", "[v6]:port", "unix:PATH", "unix:@NAME", "fd://N", or (host, port).
Address = Union[str, "tuple[str, int]"]

# Settings that the command line reads in octal. A program gives the number itself: 0o660, which is 432.
_OCTAL = ("umask", "unix_socket_mode")


def _text(name: str, value: object) -> str:
    """Returns a setting's value as the text for the command line's parser."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int) and name in _OCTAL:
        return f"{value:03o}"
    ssl = sys.modules.get("ssl")
    if ssl and isinstance(value, (ssl.SSLContext, ssl.SSLSocket)):
        from ._tls import FILES

        raise ValueError(f"{name}: {FILES}")
    return str(value)


def keywords(settings: Mapping[str, Any]) -> list[tuple[str, list[str]]]:
    """Returns the settings for the command line's parser. None means the default; a list repeats the option.

    Raises ValueError for an object of the module ssl.
    """
    found = []
    for name, value in settings.items():
        if value is None:
            continue
        values = value if isinstance(value, (list, tuple)) else [value]
        found.append((name, [_text(name, value) for value in values]))
    return found


def address_text(address: Address) -> str:
    """Returns an address as the setting `bind` takes it."""
    if isinstance(address, str):
        return address
    host, port = address
    return host_port(host, port)
