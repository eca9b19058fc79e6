"""An application that tells what it runs as, and prints."""

import json
import os
import pathlib
import sys
import tempfile

IMPORTED_AS = os.getresuid()
print("printed at the import")
# A debugger of the same user may look into the process.
READABLE = os.access("/proc/self/environ", os.R_OK)


def application(environ, start_response):
    if environ["PATH_INFO"] == "/print":
        print("printed to stdout")
        print("printed to stderr", file=sys.stderr)
    body = json.dumps({
        "imported_as": IMPORTED_AS,
        "user": os.getresuid(),
        "group": os.getresgid(),
        "groups": sorted(os.getgroups()),
        "home": os.environ.get("HOME"),
        "environ": {name: value for name, value in os.environ.items() if name.startswith("SHOP_")},
        "pid": os.getpid(),
        "parent": os.getppid(),
        "owner": pathlib.Path("/proc/self").stat().st_uid,
        "temporary": tempfile.gettempdir(),
    }).encode()
    start_response("200 OK", [("Content-Type", "application/json"), ("Content-Length", str(len(body)))])
    return [body]
