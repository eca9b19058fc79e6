"""Server-sent events and long polling, bare, under wsgiref.validate.

/events/TOPIC   a stream             /send/TOPIC         POST: an event with the body as its data
/wait/TOPIC     long polling         /subscribers/TOPIC  how many streams there are
/close          POST: ends all streams
/socket         what is said to a request for a WebSocket that rests
"""

import os
from wsgiref.validate import validator

import maypole
from maypole import sse
from maypole.websocket import websocket_of

broadcast = sse.Broadcast(heartbeat=os.environ.get("HEARTBEAT", "100ms"), retry="100ms")
news = maypole.Event()
received = []


def waits(environ, start_response):
    """Responds with the data that the next event brings, or with nothing after the time of the query."""
    start_response("200 OK", [("Content-Type", "text/plain; charset=utf-8")])
    seen = len(received)
    with maypole.wait(environ, news, environ["QUERY_STRING"] or "60s") as waiter:
        came = yield from waiter
    yield received[seen].encode() if came else b"nothing"


def unchecked(environ, start_response):
    _, action, *rest = environ["PATH_INFO"].split("/")
    topic = "/".join(rest)
    if action == "events":
        return broadcast.subscribe(environ, topic)(environ, start_response)
    if action == "wait":
        return waits(environ, start_response)
    if action == "send":
        data = environ["wsgi.input"].read(int(environ["CONTENT_LENGTH"])).decode()
        received.append(data)
        body = broadcast.send(topic, data)
        news.set()
        news.clear()
    elif action == "close":
        broadcast.close()
        body = "closed"
    elif action == "socket":
        try:
            body = "a handshake" if websocket_of(environ) else "no handshake"
        except RuntimeError as error:
            body = str(error)
    else:
        body = str(broadcast.subscribers(topic))
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", str(len(body)))])
    return [body.encode()]


application = validator(unchecked)
