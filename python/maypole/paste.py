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

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIApplication

__all__ = ["server_factory", "server_runner"]

# The keys that give an address. A section may have only one entry of this list.
PLACES = (("listen",), ("bind",), ("unix_socket",), ("host", "port"))


def server_runner(wsgi_app: WSGIApplication, global_conf: Mapping[str, str] | None = None, **local_conf: Any) -> None:
    """Serves `wsgi_app` until SIGTERM or SIGINT; the entry point `paste.server_runner`.

    Keys of `local_conf`: `host` and `port`, or `listen` (`host:port`, several separated by blanks), or `unix_socket`;
    `url_scheme`; every setting of the command line, with `_` for `-`.

    Raises ValueError for a wrong value, TypeError for an unknown key, and RuntimeError if the server cannot start or
    fails; the error log then has the reason.
    """
    serve(wsgi_app, settings_of(local_conf))


def server_factory(
    global_conf: Mapping[str, str] | None = None, **local_conf: Any
) -> Callable[[WSGIApplication], None]:
    """Returns a function that serves an application; the entry point `paste.server_factory`."""
    settings = settings_of(local_conf)
    return lambda wsgi_app: serve(wsgi_app, settings)


def serve(wsgi_app: WSGIApplication, settings: Mapping[str, Any]) -> None:
    """Serves until a signal stops it."""
    status = maypole.serve(wsgi_app, **settings)
    if status:
        # pserve would take SystemExit for success.
        raise RuntimeError(f"maypole ended with exit code {status}: the error log has the reason")


def settings_of(local_conf: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the settings for the keys and strings of a server section."""
    settings = dict(local_conf)
    listen = places_of(settings)
    if listen:
        settings["listen"] = listen
    scheme = settings.pop("url_scheme", None)
    if scheme is not None:
        if scheme not in ("http", "https"):
            raise ValueError(f"invalid value {scheme!r} for url_scheme: expected http or https")
        settings["environ"] = {"wsgi.url_scheme": scheme}
    return settings


def places_of(settings: dict[str, Any]) -> list[str]:
    """Removes the keys that give an address, and returns the addresses; an empty list means the default address."""
    given = [keys for keys in PLACES if any(key in settings for key in keys)]
    if len(given) > 1:
        names = " and ".join("/".join(keys) for keys in given)
        raise ValueError(f"{names} each give an address: keep one of them")
    if not given:
        return []
    host, port = settings.pop("host", _native.HOST_DEFAULT), settings.pop("port", _native.PORT_DEFAULT)
    if given[0] == ("host", "port"):
        return [join(str(host).strip(), str(port).strip())]
    if given[0] == ("unix_socket",):
        return ["unix:" + settings.pop("unix_socket")]
    text = settings.pop(given[0][0])
    return [every_address(place) for place in text.replace(",", " ").split()]


def join(host: str, port: str) -> str:
    """Returns `host:port`, with brackets around an IPv6 address."""
    if ":" in host and not host.startswith("["):
        host = f"[{host}]"
    return every_address(f"{host or '*'}:{port}")


def every_address(place: str) -> str:
    """Translates the form `*:8080` of waitress."""
    return "0.0.0.0" + place[1:] if place.startswith("*:") else place
