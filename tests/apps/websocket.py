"""A Flask application with flask-sock, as for any server, and other uses of the raw connection."""

import socket
import sys
import threading

import simple_websocket
from flask import Flask, request
from flask_sock import Sock

app = Flask(__name__)
# A ping makes simple-websocket wait in select() instead of recv().
app.config["SOCK_SERVER_OPTIONS"] = {"ping_interval": 5}
sock = Sock(app)


@app.get("/")
def index():
    return "ordinary\n"


@app.get("/upgrade")
def upgrade():
    """Sends an ordinary response to a request for an upgrade."""
    return ("no such protocol\n", 426) if "werkzeug.socket" in request.environ else ("none\n", 404)


@sock.route("/echo")
def echo(ws):
    """Sends each message back."""
    while True:
        ws.send(ws.receive())


@app.route("/once", websocket=True)
def once():
    """Sends one message and returns. Without pings its thread waits in recv() for the client."""
    ws = simple_websocket.Server(request.environ)
    ws.send("only this")
    ws.close()
    print(f"/once leaves {'a' if ws.thread.is_alive() else 'no'} waiting thread", file=sys.stderr, flush=True)
    return "never seen"


@app.get("/threads")
def threads():
    """Returns how many threads wait for WebSocket clients."""
    return str(sum("simple_websocket" in thread.name for thread in threading.enumerate()))


@app.get("/raw")
def raw():
    """Takes the connection over with `maypole.socket`, and speaks another protocol until the client ends."""
    with request.environ["maypole.socket"]() as connection:
        connection.sendall(b"raw\n")
        while data := connection.recv(65536):
            connection.sendall(data.upper())
    return "never seen"


@app.get("/kept")
def kept():
    """Hands the connection to a new thread and returns."""
    connection = request.environ["maypole.socket"]()

    def speak():
        with connection:
            connection.sendall(b"later\n")
            connection.settimeout(20)
            connection.sendall(connection.recv(100))
            connection.shutdown(socket.SHUT_RDWR)

    threading.Thread(target=speak, daemon=True).start()
    return "never seen"
