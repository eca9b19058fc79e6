"""An application whose import lasts until its standard input ends."""

import sys

print("importing", file=sys.stderr, flush=True)
sys.stdin.read()


def application(environ, start_response):
    start_response("204 No Content", [])
    return []
