"""A client that speaks TLS, in raw bytes.

*Invariants*: every read has a deadline. One thread at a time uses a client: a session of OpenSSL is for one thread, and
Python 3.11 does not guard it. A test that sends and receives at once calls `exchange`.
"""

import contextlib
import select
import ssl
import time

from client import PATIENCE, Client, Closed
from process import ROOT

CERTIFICATES = ROOT / "tests" / "certificates"
AUTHORITY = CERTIFICATES / "authority.pem"
#: The options that make a server speak TLS.
TLS = ("--certfile", CERTIFICATES / "ecdsa.pem", "--keyfile", CERTIFICATES / "ecdsa.key")


def context(version=None, alpn=("http/1.1",), trusts=True):
    """Returns the settings of a client."""
    made = ssl.create_default_context(cafile=AUTHORITY if trusts else None)
    if version:
        made.minimum_version = made.maximum_version = version
    if alpn:
        made.set_alpn_protocols(alpn)
    return made


class TlsClient(Client):
    """A client that speaks TLS. It tells a regular end of the connection from one that is cut."""

    def __init__(self, address, settings=None, first=b"", session=None, **more):
        super().__init__(address, **more)
        if first:
            self.socket.sendall(first)
        settings = settings or context()
        self.socket = settings.wrap_socket(
            self.socket, server_hostname="localhost", suppress_ragged_eofs=False, session=session)
        self.was_cut = False

    def _more(self):
        try:
            super()._more()
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
            raise
        except ssl.SSLError:
            self.was_cut = self.eof = True
            raise Closed(self.buffer) from None

    def exchange(self, data, count):
        """Sends data, and returns this many bytes, which the server may send meanwhile."""
        unsent, end = memoryview(data), time.monotonic() + 3 * PATIENCE
        waits = (ssl.SSLWantReadError, ssl.SSLWantWriteError)
        self.socket.setblocking(False)
        try:
            while unsent or len(self.buffer) < count:
                went = False
                with contextlib.suppress(*waits):
                    if unsent:
                        unsent = unsent[self.socket.send(unsent[:1 << 16]):]
                        went = True
                with contextlib.suppress(*waits):
                    if len(self.buffer) < count:
                        self._more()
                        went = True
                if not went:
                    reads = [self.socket] if len(self.buffer) < count else []
                    writes = [self.socket] if unsent else []
                    assert any(select.select(reads, writes, [], max(0, end - time.monotonic()))), "nothing moves"
        finally:
            self.socket.settimeout(PATIENCE)
        return self.read_exactly(count)

    def assert_ended(self):
        """Checks that the server ends the connection in order, and sends no further byte."""
        assert self.rest() == b"" and not self.was_cut


class ByHand:
    """A client whose sealed bytes the test passes on."""

    def __init__(self, address, settings=None):
        self.socket = Client(address).socket
        self.incoming, self.outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.tls = (settings or context()).wrap_bio(self.incoming, self.outgoing, server_hostname="localhost")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.socket.close()

    def sealed(self, data=b""):
        """Returns what the client sends: data, or the next part of its handshake."""
        with contextlib.suppress(ssl.SSLWantReadError):
            self.tls.write(data) if data else self.tls.do_handshake()
        return self.outgoing.read()

    def receive(self):
        """Takes what the server has sent."""
        piece = self.socket.recv(1 << 16)
        self.incoming.write(piece) if piece else self.incoming.write_eof()
        return piece

    def send_each(self, data, piece_bytes=1):
        for at in range(0, len(data), piece_bytes):
            self.socket.sendall(data[at:at + piece_bytes])

    def shake_hands(self, piece_bytes=1 << 20):
        """Does the handshake. Returns the last part, which is not sent yet."""
        self.send_each(self.sealed(), piece_bytes)
        while not self.outgoing.pending:
            self.receive()
            last = self.sealed()
            if last:
                return last

    def finish(self):
        """Receives the server's part of a handshake whose last part has been sent."""
        while True:
            try:
                return self.tls.do_handshake()
            except ssl.SSLWantReadError:
                assert self.receive(), "the server has closed the connection"

    def read(self, count):
        """Returns this many bytes of content."""
        data = b""
        while len(data) < count:
            try:
                data += self.tls.read(count - len(data))
            except ssl.SSLWantReadError:
                assert self.receive(), data
        return data


