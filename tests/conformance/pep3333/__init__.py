"""The suite of PEP 3333: requests to a server that runs `wsgi_app.py`, judged from the client and the application.

Levels: MUST and SHOULD as the PEP, `wsgiref.validate` or the RFC has it; POLICY is what this project asks beyond it.
"""

import suite
from pep3333 import bodies, environ, responses  # noqa: F401  (they add their checks)
from pep3333.client import CASES, Client

APP = "wsgi_app:app"
#: Checks that may fail, and why.
ARGUED = {
    "in_client_gone": "the application is called when the whole body has come: it never sees a body that breaks off",
}


def run(server, chosen, slow=1.0):
    """Returns the verdicts on the checks whose names `chosen` accepts."""
    client = Client(server, slow)
    return suite.judge_all([check for check in CASES if chosen(check.name)], client.judge, at_once=4, argued=ARGUED)
