"""WebSockets that rest, with clients that are in use: the libraries websockets and websocket-client."""

import asyncio

import pytest

from client import PATIENCE


@pytest.fixture(scope="module")
def address(module_server):
    host, port = module_server("resting_sockets").address.rpartition("//")[2].split(":")
    return f"ws://{host}:{port}/echo"


MESSAGES = ["", "hello \u00e9 \U0001f600", b"\0\xff", "x" * 200_000, b"y" * 70_000]


def test_websockets_with_its_default_extensions(address):
    websockets = pytest.importorskip("websockets")

    async def speak():
        async with websockets.connect(address) as socket:
            for message in MESSAGES:
                await socket.send(message)
                assert await socket.recv() == message
            await socket.send(["one ", "message ", "in fragments"])
            assert await socket.recv() == "one message in fragments"
            await asyncio.wait_for(await socket.ping(), PATIENCE)
        return socket.close_code

    assert asyncio.run(asyncio.wait_for(speak(), 3 * PATIENCE)) == 1000


def test_websocket_client(address):
    library = pytest.importorskip("websocket")
    socket = library.create_connection(address, timeout=PATIENCE)
    for message in MESSAGES:
        socket.send(message) if isinstance(message, str) else socket.send_binary(message)
        assert socket.recv() == message
    socket.close()
