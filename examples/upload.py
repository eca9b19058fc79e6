"""Receives a file of any size, and answers with its length and its SHA-256.

    maypole --chdir examples upload

Send a file, with a Content-Length or without one:

    curl --data-binary @FILE http://127.0.0.1:8000/
    curl --upload-file - http://127.0.0.1:8000/ < FILE

The application does not care whether the upload is chunked: wsgi.input ends where the body ends.
"""

import hashlib


def application(environ, start_response):
    if environ["REQUEST_METHOD"] not in ("POST", "PUT"):
        body, status = b"Send a file with POST or PUT.\n", "405 Method Not Allowed"
    else:
        digest, count = hashlib.sha256(), 0
        while piece := environ["wsgi.input"].read(65536):
            digest.update(piece)
            count += len(piece)
        body, status = f"{count} bytes, sha256 {digest.hexdigest()}\n".encode(), "200 OK"
    start_response(
        status, [("Content-Type", "text/plain"), ("Content-Length", str(len(body))), ("Allow", "POST, PUT")]
    )
    return [body]
