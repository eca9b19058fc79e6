"""WebSockets that rest, for tests of operation. A message is a command, and its result is sent back.

`/ENVIRON` in the path of a handshake may be anything. `hold PATH` waits until a file exists.
"""

import json
import os
import threading
import time

KEYS = ("REMOTE_ADDR", "wsgi.url_scheme", "SCRIPT_NAME", "PATH_INFO", "HTTP_HOST")
PINGS = float(os.environ.get("PINGS", 30))


def forked(ws):
    """Uses the socket in a child process. Returns what the child sees."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            ws.send("from the child")
            said = "it was sent"
        except RuntimeError as error:
            said = str(error)
        os.write(writer, said.encode())
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as pipe:
        said = pipe.read()
    os.waitpid(child, 0)
    return said


def on_message(ws, message):
    word, _, rest = message.partition(" ")
    if word == "hold":
        ws.send("holding")
        while not os.path.exists(rest):
            time.sleep(0.01)
        ws.send("held")
    elif word == "environ":
        ws.send(json.dumps(ws.seen))
    elif word == "fork":
        ws.send(forked(ws))
    elif word == "threads":
        ws.send(str(sum(thread.name.startswith("maypole-exec") for thread in threading.enumerate())))
    else:
        ws.send(f"{os.getpid()} {message}")


def on_close(ws, code, reason):
    # Standard error is the log of the test.
    os.write(2, f"on_close {code} {reason}\n".encode())


def application(environ, start_response):
    request = environ.get("maypole.websocket")
    if request is None:
        start_response("200 OK", [("Content-Type", "text/plain")])
        return [str(os.getpid()).encode()]
    ws = request.accept(on_message, on_close, ping_interval=PINGS)
    ws.seen = {key: environ.get(key) for key in KEYS}
    return []
