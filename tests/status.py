"""Reads what a server shows of itself on `--status-bind`."""

import json
import re

from client import Client

SHOWN = re.compile(r"status and metrics on http://(?:127|0)\.0\.0\.[01]:(\d+)")


class Status:
    """The address at which a running server shows what it does."""

    def __init__(self, running):
        self.address = f"127.0.0.1:{running.err.wait(SHOWN)[1]}"

    def ask(self, path, method="GET", fields=()):
        """Sends a request, and returns the response."""
        lines = "".join(f"{name}: {value}\r\n" for name, value in {"Host": "localhost", **dict(fields)}.items())
        with Client(self.address) as client:
            return client.send(f"{method} {path} HTTP/1.1\r\n{lines}\r\n").response(method)

    def text(self, path):
        """Returns the status and the body of a response."""
        response = self.ask(path)
        return response.status, response.body.decode()

    def json(self, path="/stats.json"):
        return json.loads(self.ask(path).body)

    def metric(self, name):
        """Returns the value of a metric, whose labels belong to its name."""
        line = re.search(rf"^{re.escape(name)} (\S+)$", self.text("/metrics")[1], re.M)
        return line and float(line[1])
