"""The server for PasteDeploy: `[server:main] use = egg:maypole#main`, for pserve and similar commands.

*Owns*: the translation of an ini file's strings into settings. *Runs on*: the main thread, which serves until a signal
stops it. *Invariants*: signals are handled as on the command line, because the server is the main program. An unknown
key is an error and never ignored.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import maypole

from . import _native
from ._addresses import host_port

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIApplication

__all__ = ["server_factory", "server_runner"]

# The keys that give an address. A section may have only one entry of this list.
_PLACES = (("listen",), ("bind",), ("unix_socket",), ("host", "port"))


def server_runner(wsgi_app: WSGIApplication, global_conf: Mapping[str, str] | None = None, **local_conf: Any) -> None:
    """Serves `wsgi_app` until SIGTERM or SIGINT; the entry point `paste.server_runner`.

    Keys of `local_conf`: `host` and `port`, or `listen` (`host:port`, several separated by blanks), or `unix_socket`;
    `url_scheme`, which is the setting `scheme`; every setting of the command line, with `_` for `-`.

    Raises ValueError for a wrong value, TypeError for an unknown key, and RuntimeError if the server cannot start or
    fails; the error log then has the reason.
    """
    _serve(wsgi_app, _settings_of(local_conf))


def server_factory(
    global_conf: Mapping[str, str] | None = None, **local_conf: Any
) -> Callable[[WSGIApplication], None]:
    """Returns a function that serves an application; the entry point `paste.server_factory`."""
    settings = _settings_of(local_conf)
    return lambda wsgi_app: _serve(wsgi_app, settings)


def _serve(wsgi_app: WSGIApplication, settings: Mapping[str, Any]) -> None:
    """Serves until a signal stops it."""
    status = maypole.serve(wsgi_app, **settings)
    if status:
        # pserve would take SystemExit for success.
        raise RuntimeError(f"maypole ended with exit code {status}: the error log has the reason")


def _settings_of(local_conf: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the settings for the keys and strings of a server section."""
    settings = dict(local_conf)
    listen = _places_of(settings)
    if listen:
        settings["listen"] = listen
    scheme = settings.pop("url_scheme", None)
    if scheme is not None:
        if "scheme" in settings:
            raise ValueError("url_scheme and scheme are the same: keep one of them")
        settings["scheme"] = scheme
    return settings


def _places_of(settings: dict[str, Any]) -> list[str]:
    """Removes the keys that give an address, and returns the addresses; an empty list means the default address."""
    given = [keys for keys in _PLACES if any(key in settings for key in keys)]
    if len(given) > 1:
        names = " and ".join("/".join(keys) for keys in given)
        raise ValueError(f"{names} each give an address: keep one of them")
    if not given:
        return []
    host, port = settings.pop("host", _native.HOST_DEFAULT), settings.pop("port", _native.PORT_DEFAULT)
    if given[0] == ("host", "port"):
        return [_joined(str(host).strip(), str(port).strip())]
    if given[0] == ("unix_socket",):
        return ["unix:" + settings.pop("unix_socket")]
    text = settings.pop(given[0][0])
    return [_every_address(place) for place in text.replace(",", " ").split()]


def _joined(host: str, port: str) -> str:
    """Returns the address for the keys `host` and `port`. The host may be an IPv6 address with or without brackets."""
    if ":" in host and host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    return _every_address(host_port(host or "*", port))


def _every_address(place: str) -> str:
    """Translates the form `*:8080` of waitress."""
    return "0.0.0.0" + place[1:] if place.startswith("*:") else place
