"""Responses that are generated while they are sent, and a file.

    maypole --chdir examples streaming

/           ten server-sent events, one a second
/numbers    a million lines from a generator; each block is sent as soon as it is yielded
/source     this file, by wsgi.file_wrapper: the kernel copies it to the client
"""

import time


def events():
    for number in range(10):
        yield f"data: {number}\n\n".encode()
        time.sleep(1)


def numbers():
    for start in range(0, 1_000_000, 1000):
        yield "".join(f"{number}\n" for number in range(start, start + 1000)).encode()


def application(environ, start_response):
    match environ["PATH_INFO"]:
        case "/":
            start_response("200 OK", [("Content-Type", "text/event-stream"), ("Cache-Control", "no-store")])
            return events()
        case "/numbers":
            start_response("200 OK", [("Content-Type", "text/plain")])
            return numbers()
        case "/source":
            start_response("200 OK", [("Content-Type", "text/x-python")])
            return environ["wsgi.file_wrapper"](open(__file__, "rb"), 65536)
    body = b"There is /, /numbers and /source.\n"
    start_response("404 Not Found", [("Content-Type", "text/plain"), ("Content-Length", str(len(body)))])
    return [body]
