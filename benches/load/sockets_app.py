"""The application of sockets.py: Flask, with WebSockets that send each message back.

/rest has Maypole's WebSockets that rest, /block those of flask-sock, which every server here knows.
"""

from flask import Flask
from flask_sock import Sock

flask = Flask(__name__)
flask.config["SOCK_SERVER_OPTIONS"] = {"ping_interval": None}
sock = Sock(flask)


@flask.get("/hello")
def hello():
    return "Hello, World!", {"Content-Type": "text/plain"}


@sock.route("/block")
def block(ws):
    while True:
        ws.send(ws.receive())


def app(environ, start_response):
    if environ["PATH_INFO"] == "/rest":
        environ["maypole.websocket"].accept(lambda ws, message: ws.send(message))
        return []
    return flask(environ, start_response)


if __name__ == "__main__":
    import logging
    import sys

    from werkzeug.serving import run_simple

    logging.getLogger("werkzeug").setLevel(logging.CRITICAL)
    run_simple("127.0.0.1", int(sys.argv[1]), app, threaded=True)
