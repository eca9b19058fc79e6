"""The words in which the cases are written. `exchange.py` says what an outcome means."""

import time

from http1.exchange import Case, Expected, Outcome
from wire import Connection

CRLF = b"\r\n"
KEEP, CLOSE, HANG = frozenset(["keep"]), frozenset(["close"]), frozenset(["hang"])
ANY = KEEP | CLOSE
ALIVE = frozenset(["alive"])
#: Bytes that must never be answered as a request.
SMUGGLED = b"GET /smuggled HTTP/1.1\r\nHost: h\r\n\r\n"
#: The statuses of a refusal. 500 and 503 are none.
REFUSALS = frozenset(range(400, 500)) | {501, 505}

CASES = []


def case(name, source, level, steps, outcomes, **more):
    """Adds a case. Its steps may be bytes alone."""
    assert all(other.name != name for other in CASES), f"two cases are called {name}"
    CASES.append(Case(name, source, level, [steps] if isinstance(steps, bytes) else list(steps), outcomes, **more))


# Bytes to send.


def encoded(text):
    return text.encode("latin-1") if isinstance(text, str) else text


def request(line="GET /x HTTP/1.1", *fields, body=b"", host="h"):
    """Returns a request with `Host`, unless that is None, and without `Content-Length`."""
    lines = [line] + ([f"Host: {host}"] if host is not None else []) + list(fields)
    return CRLF.join(map(encoded, lines)) + CRLF + CRLF + encoded(body)


def post(*fields, body=b"", line="POST /x HTTP/1.1", tail=b""):
    return request(line, *fields, body=body) + tail


def chunked(body, *fields, tail=b"", line="POST /x HTTP/1.1"):
    return request(line, "Transfer-Encoding: chunked", *fields, body=body) + tail


# Steps that are more than bytes.

half_close = Connection.half_close


def drip(data, pause):
    """Sends single bytes."""

    def step(connection):
        for at in range(len(data)):
            connection.send(data[at : at + 1])
            if connection.send_failed or connection.ended:
                return
            time.sleep(pause)

    return step


def split(data, cuts, pause):
    """Sends the data in the parts between the cuts."""

    def step(connection):
        for start, end in zip([0, *cuts], [*cuts, len(data)]):
            connection.send(data[start:end])
            time.sleep(pause)

    return step


def until_continue(connection):
    """Waits until `100 Continue` has come, or a final response in its place."""
    connection.until(lambda: connection.interim or connection.final, 2.5)
    connection.continued = bool(connection.interim)


def leave(reset):
    """Closes the connection from the client's side, by a FIN or by a reset."""

    def step(connection):
        connection.close(reset)
        connection.aborted = True

    return step


# Outcomes.


def outcome(*responses, end=KEEP, interim=None):
    return Outcome(list(responses), end, interim)


def response(status, echo=None, **more):
    return Expected(status, echo, **more)


def echoed(end=KEEP, **echo):
    """200, and the application saw this request."""
    return outcome(response(200, echo or {"method": "GET"}), end=end)


def with_environ(variables, end=KEEP, **echo):
    """200, and the environ has these values. None: the variable is absent."""
    return outcome(response(200, dict(echo, env=variables)), end=end)


#: 400 and close: the framing is in doubt.
BAD_REQUEST = outcome(response(400), end=CLOSE)
#: 400. The connection may live on.
BAD_REQUEST_OR_KEPT = outcome(response(400), end=ANY)
#: Any refusal, and close.
REFUSED = outcome(response(REFUSALS), end=CLOSE)
REFUSED_OR_KEPT = outcome(response(REFUSALS), end=ANY)
CLIENT_ERROR = outcome(response(range(400, 500)), end=ANY)
#: Closed without a response.
DROPPED = outcome(end=CLOSE)
#: The server waits for more: no refusal, but no wrong reading either.
WAITS = outcome(end=HANG)
#: A body that breaks the rules: the application may have been called already.
BAD_BODY = [REFUSED, DROPPED, outcome(response(500), end=CLOSE)]

#: What the echo application says of two common requests.
GET_X = {"method": "GET", "path": "/x", "body": ""}
HELLO = {"method": "POST", "path": "/x", "body": "hello"}
HELLO_CHUNKED = "5\r\nhello\r\n0\r\n\r\n"
EXPECT = "Expect: 100-continue"
#: PEP 3333: QUERY_STRING may be empty or absent.
NO_QUERY = ("", None)
