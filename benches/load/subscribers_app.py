"""The application of subscribers.py: server-sent events with Flask. Each line of the FIFO BENCH_ORDERS is sent as an event."""

import os
import threading

from flask import Flask, request

from maypole import sse

app = Flask(__name__)
broadcast = sse.Broadcast()


def follow_orders():
    # Also open for writing: otherwise the FIFO ends with each writer, and an order between two readers is lost.
    with os.fdopen(os.open(os.environ["BENCH_ORDERS"], os.O_RDWR)) as orders:
        for line in orders:
            broadcast.send("news", line.strip())


threading.Thread(target=follow_orders, daemon=True).start()


@app.get("/hello")
def hello():
    return "Hello, World!", {"Content-Type": "text/plain"}


@app.get("/events")
def events():
    return broadcast.subscribe(request, "news").response()
