"""The application of the storm: it writes down the begin and the end of each request, and can be of any version.

Each request has its name as the last part of its path. The body of the response begins with a line: the name, the
process, the version. The file of the journal is in STORM_JOURNAL, the directory with the version in STORM_CODE.
"""

import hashlib
import os
import pathlib
import time
import urllib.parse

JOURNAL = os.open(os.environ["STORM_JOURNAL"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
VERSION = (pathlib.Path(os.environ["STORM_CODE"]) / "version").read_text()
if VERSION == "broken":
    raise RuntimeError("this version is broken")

KEPT = []


def application(environ, start_response):
    kind, _, name = environ["PATH_INFO"].strip("/").partition("/")
    query = dict(urllib.parse.parse_qsl(environ["QUERY_STRING"]))
    write("begin", name)
    if query.get("ms"):
        time.sleep(int(query["ms"]) / 1000)
    if kind == "keep":
        KEPT.append(b"x" * (int(query["kib"]) << 10))
    body = f"{name} {os.getpid()} {VERSION}\n".encode()
    if kind == "digest":
        body += hashlib.sha256(environ["wsgi.input"].read()).hexdigest().encode()
    elif kind == "much":
        body += name.encode() * (int(query["kib"]) << 10)
    write("end", name)
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", str(len(body)))])
    return [body]


def write(what, name):
    # One write of a line is whole, whichever process writes.
    os.write(JOURNAL, f"{what} {name} {os.getpid()}\n".encode())
