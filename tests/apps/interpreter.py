"""Says which Python runs."""

import sys


def application(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/plain")])
    return ["{}\n{}.{}.{}\n".format(sys.prefix, *sys.version_info[:3]).encode()]
