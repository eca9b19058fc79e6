"""A small application to deploy: a page, a slow page, and what health checks and probes ask. Run it with

    maypole --chdir examples/deploy shop
"""

import time

from flask import Flask, Response

app = Flask(__name__)


@app.get("/")
def index():
    return Response("Hello from the shop\n", mimetype="text/plain")


@app.get("/slow")
def slow():
    """A report that takes three seconds. Stop the server meanwhile: the whole report arrives."""

    def report():
        yield "first line\n"
        time.sleep(3)
        yield "last line\n"

    return Response(report(), mimetype="text/plain")


@app.get("/livez")
def livez():
    """The process can run Python code. It asks for nothing else: a restart mends no database."""
    return Response("alive\n", mimetype="text/plain")


@app.get("/readyz")
def readyz():
    """This instance can serve requests. Ask here for what each request needs, and answer 503 without it."""
    return Response("ready\n", mimetype="text/plain")
