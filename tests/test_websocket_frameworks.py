"""WebSockets that rest, in Flask and in Django, and what other servers say."""

import struct

import pytest

from client import Client
from process import eventually
from test_resting_websocket import FIELDS
from test_websocket import CLOSE, TEXT, WebSocket

websocket = pytest.importorskip("maypole.websocket")


@pytest.fixture(scope="module")
def flask_rooms(module_server):
    pytest.importorskip("flask")
    return module_server("flask_sockets")


@pytest.fixture(scope="module")
def django_rooms(module_server):
    pytest.importorskip("django")
    return module_server("django_sockets")


def test_flask_message_has_contexts_of_its_own(flask_rooms):
    with WebSocket(flask_rooms.address, "/room/hall") as socket:
        assert socket.receive() == (TEXT, b"welcome to hall")
        assert socket.send(TEXT, b"once").receive() == (TEXT, b"flask_sockets /room/hall once")
        eventually(lambda: flask_rooms.get("/ended/once").body == b"1", what="the message's context ends")


def test_flask_refusals_are_responses(flask_rooms):
    for path, fields, status in (("closed", FIELDS, 403), ("error", FIELDS, 500), ("hall", (), 426)):
        with Client(flask_rooms.address) as client:
            client.request(f"GET /room/{path} HTTP/1.1", *fields)
            assert client.response().status == status


def test_django_consumer_gets_each_event(django_rooms):
    with WebSocket(django_rooms.address, "/room/hall") as socket:
        assert socket.receive() == (TEXT, b"welcome to hall")
        assert socket.send(TEXT, b"hello").receive() == (TEXT, b"/room/hall hello")
        assert socket.send(TEXT, b"leave").receive() == (CLOSE, struct.pack("!H", 1000) + b"left")
        socket.send(CLOSE, struct.pack("!H", 1000))
    django_rooms.out.wait("disconnected 1000 left")


def test_django_refusals_are_responses(django_rooms):
    for path, fields, status in (("closed", FIELDS, 403), ("hall", (), 426)):
        with Client(django_rooms.address) as client:
            client.request(f"GET /room/{path} HTTP/1.1", *fields)
            assert client.response().status == status


def test_other_server_is_named():
    with pytest.raises(RuntimeError, match=r"^gunicorn/23 does not keep WebSockets"):
        websocket.websocket_of({"SERVER_SOFTWARE": "gunicorn/23"})
    assert websocket.websocket_of({"maypole.suspend": None}) is None
