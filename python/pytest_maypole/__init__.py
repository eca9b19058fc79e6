"""The fixture `maypole_server`: real servers for a test's applications.

*Owns*: the servers of one test. *Runs on*: the test's thread. *Invariants*: a server listens when the factory returns
it, and is gone when the test is over; whoever does not use the fixture does not load the server.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIApplication

    import maypole

#: How long requests that still run when a test is over may take to end, in seconds.
DRAIN_SECONDS = 5.0


@pytest.fixture
def maypole_server() -> Iterator[Callable[..., maypole.Server]]:
    """Starts servers: `server = maypole_server(app)`, then `server.url`, `server.host`, `server.port`.

    `settings` are those of `maypole.Server`; without `listen` it is a free port of 127.0.0.1.
    """
    import maypole

    class Server(maypole.Server):
        """A server with a URL."""

        @property
        def url(self) -> str:
            return self.addresses[0]

    servers: list[Server] = []

    def serve(app: WSGIApplication, listen: Any = "127.0.0.1:0", **settings: Any) -> Server:
        server = Server(app, listen, **settings)
        servers.append(server)
        server.start()
        return server

    yield serve
    # All of them are closed, and then a request that did not end is told.
    drained = [server.stop(timeout=DRAIN_SECONDS) for server in reversed(servers)]
    for server in servers:
        server.close()
    if not all(drained):
        pytest.fail(f"a request still ran {DRAIN_SECONDS:g} s after the test was over", pytrace=False)
