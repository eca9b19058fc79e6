"""WebSockets that rest: `environ["maypole.websocket"]`. The query names keywords of `accept`, as JSON.

`/wait?NAME` waits until something has happened that many times, `/happened?NAME` returns what has.
"""

import contextvars
import json
import threading
import urllib.parse

CHANGE = threading.Condition()
HAPPENED = []
OPEN = {}
VARIABLE = contextvars.ContextVar("VARIABLE", default="unset")


def note(what):
    with CHANGE:
        HAPPENED.append(what)
        CHANGE.notify_all()


def keywords(environ):
    return json.loads(urllib.parse.unquote(environ["QUERY_STRING"]) or "{}")


def closed(ws, code, reason):
    OPEN.pop(getattr(ws, "name", None), None)
    note(f"{getattr(ws, 'name', '')} closed {code} {reason}".strip())
    assert (ws.closed, ws.close_code, ws.close_reason) == (True, code, reason)


def echo(environ, _start_response):
    """Sends each message back."""
    environ["maypole.websocket"].accept(lambda ws, message: ws.send(message), closed, **keywords(environ))
    return []


def named(environ, start_response):
    """Greets, and takes commands."""
    given = keywords(environ)
    name = given.pop("name")
    VARIABLE.set(name)

    def on_message(ws, message):
        word, _, rest = message.partition(" ")
        if word == "variable":
            ws.send(VARIABLE.get())
        elif word == "thread":
            ws.send(threading.current_thread().name)
        elif word == "close":
            code, _, reason = rest.partition(" ")
            ws.close(int(code), reason)
            ws.close(4000, "too late")
        elif word == "raise":
            raise RuntimeError("the application fails")
        elif word == "many":
            for number in range(int(rest)):
                ws.send(str(number))
        elif word == "hold":
            ws.send("holding")
            with CHANGE:
                CHANGE.wait_for(lambda: rest in HAPPENED, 20)
        elif word == "fill":
            sent = 0
            try:
                while True:
                    ws.send(b"x" * 65536)
                    sent += 65536
            except BlockingIOError as error:
                note(f"{name} full {sent} {error}")
        elif word == "ping":
            ws.ping(rest.encode())
        else:
            ws.send(message[::-1])

    ws = environ["maypole.websocket"].accept(on_message, closed, **given)
    ws.name = name
    ws.send(f"hello {name}")
    OPEN[name] = ws
    # What follows is not sent.
    start_response("200 OK", [("Content-Type", "text/plain")])(b"nor this")
    return [b"this is not sent"]


def subprotocol(environ, _start_response):
    request = environ["maypole.websocket"]
    ws = request.accept(subprotocol=request.subprotocols[-1])
    ws.send(" ".join([ws.subprotocol, *request.subprotocols]))
    return []


def refused(environ, start_response):
    """Accepts and then refuses, as a framework does that turns an exception into a response."""
    ws = environ["maypole.websocket"].accept(on_close=closed)
    ws.send("lost")
    start_response("403 Forbidden", [("Content-Type", "text/plain")])
    assert ws.closed
    return [b"not you"]


def forgets(environ, start_response):
    """Accepts and then refuses. The function is gone with the socket, and its finalizer asks for the client."""
    class OnMessage:
        def __call__(self, ws, message):
            """Is never called."""

        def __del__(self):
            note(f"finalized {environ['maypole.client_disconnected']()}")

    environ["maypole.websocket"].accept(OnMessage())
    start_response("403 Forbidden", [("Content-Type", "text/plain")])
    return [b"not you"]


def fails(environ, _start_response):
    environ["maypole.websocket"].accept(on_close=closed)
    raise RuntimeError("after the accept")


def wrong(environ, start_response):
    """Calls that are refused, with their sentences."""
    request = environ["maypole.websocket"]
    said = []

    def expect(error, function, *arguments, **more):
        try:
            function(*arguments, **more)
        except error as raised:
            said.append(str(raised))
        else:
            said.append("nothing was raised")

    expect(TypeError, request.accept, 5)
    expect(ValueError, request.accept, subprotocol="unknown")
    expect(ValueError, request.accept, ping_interval=-1)
    expect(ValueError, request.accept, max_rate=0)
    ws = request.accept()
    expect(RuntimeError, request.accept)
    expect(RuntimeError, environ["maypole.socket"])
    expect(TypeError, ws.send, 5)
    expect(ValueError, ws.close, 1005)
    expect(ValueError, ws.close, 1000, "x" * 124)
    expect(ValueError, ws.ping, b"x" * 126)
    expect(UnicodeEncodeError, ws.send, "\ud800")
    ws.send(json.dumps(said))
    start_response("204 No Content", [])
    return []


def late(environ, start_response):
    """Accepts after the response has begun."""
    write = start_response("200 OK", [("Content-Type", "text/plain")])
    write(b"begun: ")
    try:
        environ["maypole.websocket"].accept()
    except RuntimeError as error:
        return [str(error).encode()]
    return [b"nothing was raised"]


def broadcast(environ, start_response):
    """Sends to all named sockets, from another thread."""
    text = urllib.parse.unquote(environ["QUERY_STRING"])
    sockets = list(OPEN.values())
    thread = threading.Thread(target=lambda: [ws.send(text) for ws in sockets])
    thread.start()
    thread.join()
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [str(len(sockets)).encode()]


def shut(environ, start_response):
    """Closes a named socket, from the thread of another request."""
    OPEN[environ["QUERY_STRING"]].close(1008, "by another")
    start_response("204 No Content", [])
    return []


def wait(environ, start_response):
    """Waits until something has happened."""
    what = urllib.parse.unquote(environ["QUERY_STRING"])
    with CHANGE:
        CHANGE.wait_for(lambda: any(line.startswith(what) for line in HAPPENED), 20)
        found = [line for line in HAPPENED if line.startswith(what)]
    start_response("200 OK", [("Content-Type", "text/plain")])
    return ["\n".join(found).encode()]


def happen(environ, start_response):
    note(environ["QUERY_STRING"])
    start_response("204 No Content", [])
    return []


def key(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [str("maypole.websocket" in environ).encode()]


PAGES = {page.__name__: page for page in (
    echo, named, subprotocol, refused, forgets, fails, wrong, late, broadcast, shut, wait, happen, key)}


def app(environ, start_response):
    return PAGES[environ["PATH_INFO"][1:]](environ, start_response)
