"""A flood of TLS handshakes, and the server's other clients: who computes, and who waits.

Times on a busy machine show little, so these tests compare the processor time of threads and the order of responses.
`make bench-handshakes` measures the times. The certificate has an RSA key of 4096 bits, whose signature takes some
milliseconds: a key exchange beside it takes a tenth of one.
"""

import contextlib
import ctypes
import pathlib
import platform
import resource
import select
import ssl
import subprocess
import sys

import pytest

from client import PATIENCE, Client
from process import eventually
from tls import TlsClient, context

#: The signatures of this many handshakes take most of a second.
FLOOD = 200
#: Requests of another client, which take a small part of that.
REQUESTS = 10
#: The type of the record that a handshake's messages are in (RFC 8446 §5.1).
HANDSHAKE = b"\x16"
#: The places of these fields in /proc/PID/task/TID/stat, see proc(5).
UTIME, STIME, NICE = 13, 14, 18


class Thread:
    """A thread of a server, as the kernel sees it."""

    def __init__(self, place):
        name, _, rest = (place / "stat").read_text().partition("(")[2].rpartition(")")
        fields = [place.name, name, *rest.split()]
        self.number, self.name, self.nice = int(place.name), name, int(fields[NICE])
        self.ticks = int(fields[UTIME]) + int(fields[STIME])


def threads(running):
    """Returns the threads for handshakes, and all others."""
    both = [], []
    for place in pathlib.Path(f"/proc/{running.pid}/task").iterdir():
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            thread = Thread(place)
            both[not thread.name.startswith("maypole-tls")].append(thread)
    return both


def slice_of(thread):
    """Returns for how many nanoseconds a thread asks to keep a processor at a time; 0 if the kernel does not tell."""
    attributes = ctypes.create_string_buffer(48)
    number = {"x86_64": 315, "aarch64": 275}.get(platform.machine())
    if number is None or ctypes.CDLL(None).syscall(number, thread.number, attributes, len(attributes), 0):
        return 0
    return int.from_bytes(attributes.raw[24:32], sys.byteorder)


def ticks(of):
    return sum(thread.ticks for thread in of)


@pytest.fixture(scope="module")
def rsa(tmp_path_factory):
    """The options of a server whose signatures take long."""
    directory = tmp_path_factory.mktemp("rsa")
    files = ["-keyout", directory / "rsa.key", "-out", directory / "rsa.pem"]
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:4096", "-nodes", "-days", "30", "-subj", "/CN=localhost",
         "-addext", "subjectAltName=DNS:localhost", *files], check=True, capture_output=True, timeout=3 * PATIENCE)
    return "--certfile", directory / "rsa.pem", "--keyfile", directory / "rsa.key"


class Flood:
    """Clients that have sent their first message of TLS."""

    def __init__(self, stack, address, count=FLOOD):
        settings = context(trusts=False)
        settings.check_hostname, settings.verify_mode = False, ssl.CERT_NONE
        self.sockets = [stack.enter_context(contextlib.closing(Client(address).socket)) for _ in range(count)]
        hellos = []
        for _ in self.sockets:
            outgoing = ssl.MemoryBIO()
            with contextlib.suppress(ssl.SSLWantReadError):
                settings.wrap_bio(ssl.MemoryBIO(), outgoing, server_hostname="localhost").do_handshake()
            hellos.append(outgoing.read())
        for one, hello in zip(self.sockets, hellos):
            one.sendall(hello)

    def served(self):
        """Returns how many have got the server's part of the handshake, or the end of their connection."""
        poll = select.poll()
        for one in self.sockets:
            poll.register(one, select.POLLIN)
        return len(poll.poll(0))

    def finish(self):
        """Waits until the server has done its part for each client."""
        eventually(lambda: self.served() == len(self.sockets), 3 * PATIENCE, "the server's part for each client")
        assert {one.recv(1) for one in self.sockets} == {HANDSHAKE}


def test_handshakes_are_computed_on_threads_of_their_own(server, rsa):
    running = server("secured", *rsa)
    with contextlib.ExitStack() as stack:
        Flood(stack, running.address, 1).finish()
        before = [ticks(of) for of in threads(running)]
        Flood(stack, running.address).finish()
        own, others = (ticks(of) - earlier for of, earlier in zip(threads(running), before))
        # Accepting and reading take the others some time, too. A signature on their threads would take them all of it.
        assert own > 20 and own > 2 * others, (own, others)


def test_threads_of_handshakes_give_way_to_all_others(server, rsa):
    running = server("secured", *rsa)
    with contextlib.ExitStack() as stack:
        # A thread lowers its priority when it begins.
        Flood(stack, running.address, 1).finish()
    own, others = threads(running)
    # 19 is the lowest priority.
    assert own and {thread.nice for thread in own} == {min(others[0].nice + 15, 19)}
    assert len({thread.nice for thread in others}) == 1, [(thread.name, thread.nice) for thread in others]
    # Linux 6.12 and later tell for how long a thread keeps a processor at a time, in nanoseconds.
    if any(slice_of(thread) for thread in others):
        assert {slice_of(thread) for thread in own} == {100_000}


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_connected_client_is_served_before_handshakes_that_came_first(server, rsa, scheme):
    running = server("secured", "--bind", "http://127.0.0.1:0", *rsa)
    secured, plain = running.addresses
    with contextlib.ExitStack() as stack:
        settings = context(trusts=False)
        settings.load_verify_locations(rsa[1])
        client = stack.enter_context(TlsClient(secured, settings) if scheme == "https" else Client(plain))
        assert client.get("/").status == 200
        flood = Flood(stack, secured)
        # All of them have sent their part, and the server is at work.
        eventually(flood.served)
        for _ in range(REQUESTS):
            assert client.get("/").status == 200
        assert flood.served() < FLOOD, "the requests have waited for all handshakes"
        flood.finish()
