"""An application whose responses name files, as the query says: ?path=, ?url=, ?status=, ?field=NAME:VALUE, ?body=."""

import json
from urllib.parse import parse_qsl

CLOSED = []


class Body:
    """An iterable of many blocks that notes how far it was read, and that it was closed."""

    def __init__(self, name):
        self.name, self.blocks = name, 0

    def __iter__(self):
        return self

    def __next__(self):
        self.blocks += 1
        return b"the application's own body"

    def close(self):
        CLOSED.append([self.name, self.blocks])


def application(environ, start_response):
    query = parse_qsl(environ["QUERY_STRING"], encoding="latin-1")
    given = dict(query)
    if environ["PATH_INFO"] == "/closed":
        start_response("200 OK", [("Content-Type", "application/json")])
        return [json.dumps(CLOSED).encode()]
    fields = [("Content-Type", "text/x-own"), ("Set-Cookie", "a=b"), ("Cache-Control", "private"), ("Content-Length", "26")]
    fields += [tuple(value.split(":", 1)) for name, value in query if name == "field"]
    fields += [(name, given[key]) for key, name in [("path", "X-Sendfile"), ("url", "X-Accel-Redirect")] if key in given]
    write = start_response(given.get("status", "200 OK"), [field for field in fields if field[1]])
    match given.get("body", "list"):
        case "list":
            return [b"the application's own body"]
        case "iterable":
            return Body(environ["QUERY_STRING"])
        case "write":
            write(b"the application's own body")
            return []
        case "error":
            raise RuntimeError("after the file was named")
        case "empty":
            return []
