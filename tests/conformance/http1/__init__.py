"""The suite of HTTP/1.1: raw bytes to a server that runs `echo_app.py`, judged by RFC 9110 and RFC 9112.

Levels: MUST and SHOULD as the RFC has it; POLICY is what this project asks beyond it.
"""

import functools

import suite
from http1 import connections, exchange, fields, framing, request_lines, responses  # noqa: F401  (they add their cases)
from http1.words import CASES

APP = "echo_app:app"
#: Cases that may fail, and why.
ARGUED = {}


def run(server, chosen, slow=1.0):
    """Returns the verdicts on the cases whose names `chosen` accepts, and on all their responses."""
    judge = functools.partial(exchange.judge, address=server.address, slow=slow)
    plain = judge(CASES[0])
    if not plain.passed:
        # A server that closes each connection without a response would pass many cases.
        return [plain]
    verdicts = suite.judge_all([case for case in CASES if chosen(case.name)], judge, at_once=8, argued=ARGUED)
    return verdicts + exchange.verdicts_on_invariants(verdicts)
