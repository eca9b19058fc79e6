"""Puts text from the query into places where a line end would begin a new field."""

from urllib.parse import parse_qsl


def application(environ, start_response):
    value = dict(parse_qsl(environ["QUERY_STRING"], keep_blank_values=True))["v"]
    status, fields = "200 OK", [("Content-Type", "text/plain")]
    match environ["PATH_INFO"]:
        case "/field":
            fields.append(("X-Field", value))
        case "/name":
            fields.append((value, "x"))
        case "/status":
            status = value
        case "/hints":
            environ["wsgi.early_hints"]([("Link", value)])
    start_response(status, fields)
    return [b"done"]
