"""Two functions take two locks in opposite orders. Two requests at the same time are enough."""

import threading
import time

STOCK = threading.Lock()
ORDERS = threading.Lock()


def buy():
    with STOCK:
        time.sleep(0.5)
        with ORDERS:
            pass


def cancel():
    with ORDERS:
        time.sleep(0.5)
        with STOCK:
            pass


def app(environ, start_response):
    if environ["PATH_INFO"] == "/buy":
        buy()
    elif environ["PATH_INFO"] == "/cancel":
        cancel()
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [b"done\n"]
