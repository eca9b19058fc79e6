"""Sends each key of its environ with the type of the value, as the reference names it, and the value if it is plain."""

import json
import socket


def kind(value):
    for name in ("str", "bool", "int", "tuple"):
        if type(value).__name__ == name:
            return name
    if isinstance(value, type):
        return "class"
    if isinstance(value, socket.socket):
        return "socket"
    if callable(value):
        return "callable"
    return "binary file" if hasattr(value, "readinto") else "text file" if hasattr(value, "writelines") else "unknown"


def application(environ, start_response):
    seen = {key: [kind(value), str(value)] for key, value in environ.items()}
    body = json.dumps(seen).encode()
    start_response("200 OK", [("Content-Type", "application/json"), ("Content-Length", str(len(body)))])
    return [body]
