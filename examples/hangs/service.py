"""Each request asks another service that has stopped answering, without a timeout."""

import socket

RATES, OTHER_END = socket.socketpair()


def rate(currency):
    RATES.sendall(currency)
    return RATES.recv(100)


def price():
    return 7 * int(rate(b"EUR"))


def app(environ, start_response):
    if environ["PATH_INFO"] == "/price":
        price()
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [b"done\n"]
