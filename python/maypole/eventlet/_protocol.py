"""`HttpProtocol`: the class attributes of eventlet's class, and the alternatives to overriding its methods.

An overridden method would have no effect, because no Python object reads requests, so it is refused. Class attributes
that correspond to a setting are used. *Runs on*: the thread that calls `server`.
"""

from __future__ import annotations

import warnings

#: The alternative to overriding a name.
_INSTEAD = {
    "get_environ": "wrap the application: it gets every key, also headers_raw and RAW_PATH_INFO, and may change them",
    "MessageClass": "default_content_type='' leaves CONTENT_TYPE empty where the client sent none",
    "handle": "proxy_protocol='v1' (v2, auto) with proxy_allow_from= reads the PROXY protocol",
    "handle_one_request": "wrap the application",
    "handle_one_response": "wrap the application",
    "handle_error": "proxy_protocol= answers a malformed PROXY header with 400",
    "parse_request": "limits are settings: url_length_limit=, MAX_HEADER_LINE, MAX_TOTAL_HEADER_SIZE, "
                     "limit_request_fields=; there is no lenient parsing",
    "_read_request_line": "url_length_limit= and keepalive= are its limits",
    "conn_state": "environ['eventlet.set_idle']() marks a connection that may be closed at shutdown",
    "formalize_key_naming": "names with an underscore are always dropped; environ['headers_raw'] has them",
    "get_client_address": "log_x_forwarded_for=, and proxy_protocol= behind a proxy that speaks it",
    "log_request": "log_output=False, or log_format=",
    "log_message": "log=",
    "log_error": "log=",
    "send_error": "errors before the application are the server's; wrap the application for its own",
    "send_header": "capitalize_response_headers=False leaves names as the application wrote them",
    "setup": "socket options belong on the listening socket, accepted ones inherit them",
    "finish": "environ['eventlet.posthooks'] run when a response has ended",
    "__init__": "nothing constructs it",
}
#: Attributes that a subclass may set, with or without an effect.
_ACCEPTED = {
    "protocol_version", "minimum_chunk_size", "reject_bad_requests", "default_request_version",
    "capitalize_response_headers", "rbufsize", "wbufsize", "timeout", "disable_nagle_algorithm",
}
#: By default, this many bytes of a response are collected before they are sent.
MINIMUM_CHUNK_SIZE = 4096
#: Names that every class has.
_OF_CLASSES = {
    "__module__", "__doc__", "__qualname__", "__dict__", "__weakref__", "__annotations__", "__orig_bases__",
    "__firstlineno__", "__static_attributes__", "__annotate__", "__annotate_func__", "__annotations_cache__",
}


class HttpProtocol:
    """Class attributes that users of eventlet set. The server makes no instance of it.

    `default_request_version`, `capitalize_response_headers`, `rbufsize`, `wbufsize`, `timeout` and
    `disable_nagle_algorithm` may be assigned and have no effect.
    """

    #: The version of responses if `max_http_version` is None.
    protocol_version = "HTTP/1.1"
    #: Bytes to collect before they are sent, read for each response. With the default, the module's MINIMUM_CHUNK_SIZE
    #: applies.
    minimum_chunk_size: int | None = MINIMUM_CHUNK_SIZE
    #: False only causes a warning: ambiguous framing is always refused.
    reject_bad_requests = True
    default_request_version = "HTTP/0.9"
    capitalize_response_headers = True


def checked(protocol: type | None) -> type[HttpProtocol]:
    """Returns the class whose attributes are used. Raises TypeError if it overrides a method that is never called."""
    if protocol is None:
        protocol = HttpProtocol
    if not (isinstance(protocol, type) and issubclass(protocol, HttpProtocol)):
        raise TypeError(f"protocol must be None or maypole.eventlet.HttpProtocol, not {protocol!r}")
    overrides = sorted({
        name
        for owner in protocol.__mro__[:-1]
        for name in vars(owner)
        if name not in _ACCEPTED and name not in _OF_CLASSES
    })
    if overrides:
        sentences = [f"{name}: {_INSTEAD.get(name, 'it is never called')}" for name in overrides]
        raise TypeError(
            f"{protocol.__qualname__} overrides methods that Maypole never calls. Instead of\n  "
            + "\n  ".join(sentences)
        )
    if not protocol.reject_bad_requests:
        warnings.warn(
            f"{protocol.__qualname__}.reject_bad_requests = False has no effect: ambiguous framing is always refused",
            RuntimeWarning,
            stacklevel=3,
        )
    return protocol
