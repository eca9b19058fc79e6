"""The pytest fixture `maypole_server`: real servers for a test's applications.

*Owns*: the servers of one test. *Runs on*: the test's thread. *Invariants*: a server listens when the fixture's
function returns it, and is closed at the end of the test. A test run without the fixture does not import `maypole`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIApplication

    import maypole

#: At the end of a test, running requests get this long to finish, in seconds.
DRAIN_SECONDS = 5.0


@pytest.fixture
def maypole_server() -> Iterator[Callable[..., maypole.Server]]:
    """Starts servers: `server = maypole_server(app)`, then `server.url`, `server.host`, `server.port`.

    A server listens on a free port of 127.0.0.1, unless `listen` gives an address. The keywords are those of
    `maypole.Server`.
    """
    import maypole

    class Server(maypole.Server):
        """A server with the attribute `url`."""

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
    # Close all of them before a request that did not finish fails the test.
    drained = [server.stop(timeout=DRAIN_SECONDS) for server in reversed(servers)]
    for server in servers:
        server.close()
    if not all(drained):
        pytest.fail(f"a request still ran {DRAIN_SECONDS:g} s after the test was over", pytrace=False)
