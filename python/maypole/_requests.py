"""Requests and responses of frameworks, without importing one.

*Runs on*: any thread. *Invariants*: a framework's class is used only if its request was given, which means that the
application has imported it.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import Any


def environ_of(request: Any) -> dict[str, Any]:
    """Returns the environ of a request: of Flask, Django, werkzeug, WebOb or Pyramid, or the environ itself.

    Raises TypeError for anything else, and for a request that comes from an ASGI server.
    """
    environ = request if isinstance(request, dict) else getattr(request, "environ", None)
    if not isinstance(environ, dict):
        raise TypeError(f"expected a WSGI environ, or a request that has one, not {type(request).__name__}")
    return environ


def response_of(request: Any, body: Iterable[bytes], headers: list[tuple[str, str]]) -> Any:
    """Returns a response with the status 200, of the framework that the request belongs to.

    Raises TypeError for an environ, which has no framework.
    """
    django = sys.modules.get("django.http")
    if django is not None and isinstance(request, django.HttpRequest):
        return django.StreamingHttpResponse(body, headers=dict(headers))
    flask = sys.modules.get("flask")
    if flask is not None and isinstance(request, flask.Request):
        return flask.current_app.response_class(body, headers=headers)
    werkzeug = sys.modules.get("werkzeug.wrappers")
    if werkzeug is not None and isinstance(request, werkzeug.Request):
        return werkzeug.Response(body, headers=headers)
    # WebOb's requests, and so Pyramid's, name the class of their responses.
    webob = getattr(request, "ResponseClass", None)
    if webob is not None:
        return webob(app_iter=body, headerlist=headers)
    raise TypeError(f"{type(request).__name__} has no response class: call start_response and return the iterable")
