"""WebSockets that rest, for Flask: `@websocket(app, "/chat/<room>")`.

*Owns*: nothing. *Runs on*: the threads of the application; each message has an application context of its own, so that
what an extension keeps there, such as a database session, ends with the message.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, TypeVar

import flask

from maypole.contrib._websockets import UPGRADE_REQUIRED, Within
from maypole.websocket import websocket_of

__all__ = ["websocket"]

View = TypeVar("View", bound=Callable[..., object])


def websocket(app: flask.Flask | flask.Blueprint, rule: str, **options: Any) -> Callable[[View], View]:
    """Registers a view for the WebSockets of a path.

    The view gets the request for a WebSocket and the variables of the rule, and calls `accept` of it. It may refuse the
    socket with `flask.abort`, or with a response of status 400 or more that it returns. `options` are those of
    `app.route`. A request that is no handshake gets 426.
    """

    def register(view: View) -> View:
        @functools.wraps(view)
        def handshake(**variables: Any) -> Any:
            request = websocket_of(flask.request.environ)
            if request is None:
                return "This is a WebSocket.\n", 426, UPGRADE_REQUIRED
            application = flask.current_app._get_current_object()  # type: ignore[attr-defined]
            response = view(Within(request, application.app_context), **variables)
            return "" if response is None else response

        # Werkzeug matches requests for a WebSocket with rules of their own. The second one is for all others.
        for is_websocket in (True, False):
            app.add_url_rule(rule, view_func=handshake, methods=["GET"], websocket=is_websocket, **options)
        return view

    return register
