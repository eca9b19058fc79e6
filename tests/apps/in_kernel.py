"""An application for connections whose TLS is in the kernel. It needs little of the standard library."""

import hashlib
import os
import sys


def files():
    """Yields the files of the modules, compiled ones if they are there."""
    for module in list(sys.modules.values()):
        places = [getattr(module, name, None) for name in ("__cached__", "__file__")]
        yield from [place for place in places if place and os.path.isfile(place)][:1]


def application(environ, start_response):
    path = environ["PATH_INFO"]
    if path == "/websocket":
        environ["maypole.websocket"].accept(lambda ws, message: ws.send(message))
        return []
    if path == "/taken":
        with environ["maypole.socket"]() as connection:
            connection.sendall(b"taken\n")
            while data := connection.recv(65536):
                connection.sendall(data.upper())
        return []
    if path == "/sha":
        digest, count = hashlib.sha256(), 0
        while piece := environ["wsgi.input"].read(65536):
            digest.update(piece)
            count += len(piece)
        body = f"{count} {digest.hexdigest()}".encode()
    elif path == "/modules":
        body = "\n".join(sorted(set(files()))).encode()
    else:
        body = repr([environ["wsgi.url_scheme"], environ.get("SSL_PROTOCOL"), environ["REMOTE_ADDR"]]).encode()
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", str(len(body)))])
    return [body]
