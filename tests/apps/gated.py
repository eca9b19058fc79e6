"""An application whose calls of /gate... wait until the file in the variable GATE exists."""

import os
import pathlib
import time

GATE = pathlib.Path(os.environ["GATE"])


def application(environ, start_response):
    path = environ["PATH_INFO"]
    print(f"called {path}", file=environ["wsgi.errors"], flush=True)
    if path.startswith("/gate"):
        end = time.monotonic() + 120
        while not GATE.exists() and time.monotonic() < end:
            time.sleep(0.005)
    body = path.encode()
    start_response("200 OK", [("Content-Length", str(len(body)))])
    return [body]
