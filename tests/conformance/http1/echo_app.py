"""The application that the cases call.

A path that is not listed below returns 200 and a JSON object:
  method, path (PATH_INFO), script, query, protocol, scheme, body (latin-1),
  env: each HTTP_*, CONTENT_*, REMOTE_* and SERVER_* string of the environ.
Other paths, by their first segment:
  /s/<code>      that status, with a body "x" and its Content-Length unless the status is 204 or 304
  /stream        200, no Content-Length, three chunks from a generator
  /nolen         200, a one-element list, no Content-Length
  /noread        200 "noread" without touching wsgi.input
  /readn/<n>     200, reads n bytes only; the body is what was read
  /big/<n>       200, Content-Length n, n bytes
  /close         200 with the application's own "Connection: close"
"""

import json


def read_body(environ):
    stream, length = environ["wsgi.input"], environ.get("CONTENT_LENGTH")
    if length:
        body = b""
        while len(body) < int(length) and (piece := stream.read(int(length) - len(body))):
            body += piece
        return body
    if environ.get("wsgi.input_terminated") or environ.get("HTTP_TRANSFER_ENCODING"):
        return stream.read()
    return b""


def plain(start_response, status, data, extra=()):
    start_response(status, [("Content-Type", "text/plain"), ("Content-Length", str(len(data)))] + list(extra))
    return [data]


def special(start_response, environ, name, argument):
    """Returns the body for one of the paths above, or None."""
    if name == "s" and argument in ("204", "304"):
        start_response(f"{argument} Nothing", [("X-Code", argument)])
        return []
    if name == "s":
        return plain(start_response, f"{argument} Whatever", b"x")
    if name == "stream":
        start_response("200 OK", [("Content-Type", "text/plain")])
        return (block for block in (b"one,", b"two,", b"three"))
    if name == "nolen":
        start_response("200 OK", [("Content-Type", "text/plain")])
        return [b"nolen"]
    if name == "noread":
        return plain(start_response, "200 OK", b"noread")
    if name == "readn":
        return plain(start_response, "200 OK", environ["wsgi.input"].read(int(argument)))
    if name == "big":
        return plain(start_response, "200 OK", b"z" * int(argument))
    if name == "close":
        return plain(start_response, "200 OK", b"bye", [("Connection", "close")])
    return None


def app(environ, start_response):
    path = environ.get("PATH_INFO", "")
    _, name, argument, *_ = path.split("/") + ["", "", ""]
    body = special(start_response, environ, name, argument)
    if body is not None:
        return body
    shown = ("HTTP_", "CONTENT_", "REMOTE_", "SERVER_")
    data = {
        "method": environ.get("REQUEST_METHOD"),
        "path": path,
        "script": environ.get("SCRIPT_NAME", ""),
        "query": environ.get("QUERY_STRING"),
        "protocol": environ.get("SERVER_PROTOCOL"),
        "scheme": environ.get("wsgi.url_scheme"),
        "body": read_body(environ).decode("latin-1"),
        "env": {name: value for name, value in environ.items() if isinstance(value, str) and name.startswith(shown)},
    }
    text = json.dumps(data).encode()
    start_response("200 OK", [("Content-Type", "application/json"), ("Content-Length", str(len(text)))])
    return [text]
