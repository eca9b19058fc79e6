"""What probe does not have: files, responses that break off, and the socket of the connection."""

import tempfile

import probe

FILE = tempfile.NamedTemporaryFile()
FILE.write(b"".join(probe.pattern(3_000_000)))
FILE.flush()


def application(environ, start_response):
    path = environ["PATH_INFO"]
    if path == "/file":
        start_response("200 OK", [("Content-Length", "3000000")])
        return environ["wsgi.file_wrapper"](open(FILE.name, "rb"), 65536)
    if path == "/cut":
        start_response("200 OK", [])
        return cut()
    if path == "/socket":
        with environ["maypole.socket"]() as connection:
            connection.sendall(b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n")
            while (data := connection.recv(65536)) and data != b"!":
                connection.sendall(data)
            connection.sendall(data + b"the end")
        return []
    return probe.application(environ, start_response)


def cut():
    yield b"the first block"
    raise ValueError("the application fails")
