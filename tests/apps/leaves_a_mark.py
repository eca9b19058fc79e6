"""Writes a file when the interpreter ends."""

import atexit
import os


@atexit.register
def mark():
    with open(os.environ["MARK"], "w") as file:
        file.write("atexit")


def application(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [b"ok"]
