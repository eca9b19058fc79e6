"""WebSockets that rest, over TLS: records and frames need not have the same limits."""

import json
import signal
import struct

import pytest

from process import eventually
from test_resting_websocket import frame, receive
from test_websocket import CLOSE, TEXT, WebSocket
from tls import TLS, TlsClient

APP = "operated_sockets"


def connect(running, path="/", **more):
    return WebSocket(running.address, path, **more)


def said(websocket, message):
    """Sends a text, and returns the next text."""
    websocket.send(TEXT, message.encode())
    kind, content = receive(websocket)
    assert kind == TEXT
    return content.decode()


@pytest.mark.smoke
def test_websocket_over_tls_rests_and_is_closed(server):
    running = server(APP, *TLS)
    sockets = [connect(running, client=TlsClient(running.address)) for _ in range(20)]
    # On a busy machine, calls may look as if they waited, and get more threads for some time.
    eventually(lambda: int(said(sockets[0], "threads")) < 10, 60, "few threads")
    for websocket in sockets:
        assert said(websocket, "x" * 5000).endswith("x" * 5000)
    assert json.loads(said(sockets[0], "environ"))["wsgi.url_scheme"] == "https"
    # Several frames in one record, and one frame in several.
    sockets[0].client.send(frame(0x81, b"a") + frame(0x81, b"b"))
    for byte in frame(0x81, b"c"):
        sockets[0].client.send(bytes([byte]))
    assert [receive(sockets[0])[1][-1:] for _ in range(3)] == [b"a", b"b", b"c"]
    running.signal(signal.SIGTERM)
    for websocket in sockets:
        kind, content = receive(websocket)
        assert (kind, content[:2]) == (CLOSE, struct.pack("!H", 1001))
        websocket.send(CLOSE, content[:2])
        websocket.client.assert_ended()
    assert running.wait() == 0
