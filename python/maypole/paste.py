"""PasteDeploy's view of the server: `[server:main] use = egg:maypole#main`, for pserve and its like.

*Owns*: how the strings of an ini file become settings. *Runs on*: the main thread, which serves until it is told to
stop. *Invariants*: a server section is a main program, so signals are handled as on the command line; a key that is no
setting is an error, never ignored.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import maypole

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIApplication

__all__ = ["server_factory", "server_runner"]

DEFAULT_HOST = "127.0.0.1"
DEFAULT_PORT = "8000"
# Each says where to listen, in its own way.
PLACES = (("listen",), ("bind",), ("unix_socket",), ("host", "port"))


def server_runner(wsgi_app: WSGIApplication, global_conf: Mapping[str, str] | None = None, **local_conf: Any) -> None:
    """Serves `wsgi_app` until SIGTERM or SIGINT; the entry point `paste.server_runner`.

    `local_conf`: `host` and `port`, or `listen` (`host:port`, several with blanks between them), or `unix_socket`;
    `url_scheme`; every setting of the server, with `_` for `-`.

    `ValueError`: a wrong value. `TypeError`: a key that is no setting. `RuntimeError`: it cannot serve, and has said why.
    """
    serve(wsgi_app, settings_of(local_conf))


def server_factory(
    global_conf: Mapping[str, str] | None = None, **local_conf: Any
) -> Callable[[WSGIApplication], None]:
    """Answers the function that serves an application; the entry point `paste.server_factory`."""
    settings = settings_of(local_conf)
    return lambda wsgi_app: serve(wsgi_app, settings)


def serve(wsgi_app: WSGIApplication, settings: Mapping[str, Any]) -> None:
    """Serves until a signal says stop."""
    status = maypole.serve(wsgi_app, **settings)
    if status:
        # pserve takes SystemExit for a good end.
        raise RuntimeError(f"maypole ended with status {status}; its error log says why")


def settings_of(local_conf: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that the keys and strings of a server section mean."""
    settings = dict(local_conf)
    listen = places_of(settings)
    if listen:
        settings["listen"] = listen
    scheme = settings.pop("url_scheme", None)
    if scheme is not None:
        if scheme not in ("http", "https"):
            raise ValueError(f"url_scheme: expected http or https, not {scheme!r}")
        settings["environ"] = {"wsgi.url_scheme": scheme}
    return settings


def places_of(settings: dict[str, Any]) -> list[str]:
    """Takes out what says where to listen. A list of addresses; empty: wherever the server listens by default."""
    given = [keys for keys in PLACES if any(key in settings for key in keys)]
    if len(given) > 1:
        names = " and ".join("/".join(keys) for keys in given)
        raise ValueError(f"{names} each say where to listen: keep one of them")
    if not given:
        return []
    host, port = settings.pop("host", DEFAULT_HOST), settings.pop("port", DEFAULT_PORT)
    if given[0] == ("host", "port"):
        return [join(str(host).strip(), str(port).strip())]
    if given[0] == ("unix_socket",):
        return ["unix:" + settings.pop("unix_socket")]
    text = settings.pop(given[0][0])
    return [every_address(place) for place in text.replace(",", " ").split()]


def join(host: str, port: str) -> str:
    """`host:port`, with the brackets that an IPv6 address needs."""
    if ":" in host and not host.startswith("["):
        host = f"[{host}]"
    return every_address(f"{host or '*'}:{port}")


def every_address(place: str) -> str:
    """waitress's `*:8080`."""
    return "0.0.0.0" + place[1:] if place.startswith("*:") else place
