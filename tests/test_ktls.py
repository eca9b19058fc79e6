"""TLS in the kernel, in a virtual machine for each of `machine.KERNELS`.

A machine is booted once, and the test is a client outside of it. machine.py says what it needs. The kernel of bookworm, 6.1,
cannot change keys. `make test-kernels` also runs this with the newest kernel that Debian has for its stable release, which can.
"""

import array
import fcntl
import hashlib
import pathlib
import re
import socket
import struct
import subprocess
import termios

import pytest

from client import PATIENCE
from machine import KERNELS, binary, booted, kernel, lacking, libraries, stripped
from process import APPS, Lines, eventually, factory
from test_websocket import CLOSE, TEXT, WebSocket
from tls import AUTHORITY, CERTIFICATES, TLS, TlsClient, context

BODY = b"".join(hashlib.sha256(str(i).encode()).digest() for i in range(3 * 32768))
SUITES = ["TLS_AES_128_GCM_SHA256", "TLS_AES_256_GCM_SHA384", "TLS_CHACHA20_POLY1305_SHA256", "ECDHE-ECDSA-AES128-GCM-SHA256",
          "ECDHE-ECDSA-AES256-GCM-SHA384", "ECDHE-ECDSA-CHACHA20-POLY1305"]  # fmt: skip
VERSIONS = {"TLS": "TLSv1_3", "ECD": "TLSv1_2"}
#: The ports inside the machine.
PORTS = {name: 8443 + i for i, name in enumerate([*SUITES, "off", "stopped", "application"])}
HUGE_BYTES = 16 << 20
#: The first kernel that takes new keys.
FIRST_WITH_NEW_KEYS = (6, 14)
SCRIPT = """serve() {
  port=$1; shift
  maypole "$@" --certfile /etc/cert.pem --keyfile /etc/key.pem --bind "0.0.0.0:$port" --keep-alive 600 &
  echo $! > "/tmp/$port.pid"
}
"""


def servers():
    """Returns the lines that start the servers of a machine."""
    suites = [f"serve {PORTS[name]} files /data --ciphers {name} --ssl-version {VERSIONS[name[:3]]}" for name in SUITES]
    files = [f"serve {PORTS['off']} files /data --ktls off", f"serve {PORTS['stopped']} files /data --graceful-timeout 600"]
    application = f"serve {PORTS['application']} in_kernel:application --chdir /app --static /files=/data"
    return "\n".join([SCRIPT, *suites, *files, application])


def python():
    """Returns the files that Python needs for the application, which says itself what it has loaded."""
    with factory() as server:
        running = server("in_kernel", *TLS)
        client = TlsClient(running.address)
        with WebSocket(running.address, "/websocket", client=TlsClient(running.address)) as websocket:
            assert websocket.send(TEXT, b"a").receive() == (TEXT, b"a")
        client.post("/sha", b"abc")
        names = client.get("/modules").body.decode().split()
    native = {place for name in names if name.endswith(".so") for place in [name, *libraries(name)]}
    files = {place: stripped(place) for place in native}
    for name in names:
        if not name.endswith(".so"):
            # A module is compiled if it can be: the machine is slow.
            place = re.sub(r"__pycache__/([^/]*)\.[^./]*\.pyc$", r"\1.pyc", name)
            files[place] = pathlib.Path(name).read_bytes()
    return files | {"/app/in_kernel.py": (APPS / "in_kernel.py").read_bytes()}


@pytest.fixture(scope="module", params=KERNELS)
def machine(request, tmp_path_factory):
    if lacking():
        pytest.skip(f"{lacking()} is missing")
    place = tmp_path_factory.mktemp("ktls")
    unpacked = kernel(place, request.param)
    files = binary() | python() | {"/data/big.bin": BODY, "/data/small.txt": b"small"}
    files |= {"/etc/cert.pem": (CERTIFICATES / "ecdsa.pem").read_bytes(), "/etc/key.pem": (CERTIFICATES / "ecdsa.key").read_bytes()}
    is_ready = lambda text: len(re.findall(r"listening on", text)) == len(PORTS)  # noqa: E731
    with booted(place, unpacked, files, servers(), PORTS.values(), is_ready) as made:
        assert made.text().count("are sealed by the kernel\n") == len(PORTS) - 1, made.text()
        yield made


def counts(machine):
    """Returns the numbers of the kernel's TLS."""
    return {name: int(number) for name, number in re.findall(r"(\w+)\s+(\d+)", machine.run("cat /proc/net/tls_stat"))}


def connect(machine, name, version=None):
    return TlsClient(f"127.0.0.1:{machine.ports[PORTS[name]]}", context(version), timeout=3 * PATIENCE)


def switched(machine, name):
    """Returns a client whose connection the kernel has taken over."""
    client = connect(machine, name)
    before = counts(machine)["TlsTxSw"]
    assert client.get("/files/big.bin" if name == "application" else "/big.bin").body == BODY
    assert counts(machine)["TlsTxSw"] == before + 1
    return client


def files_of_a_connection_are_sealed_by_the_kernel(machine, name):
    """Also what follows on the connection: small files, ranges, HEAD, and the end."""
    with connect(machine, name) as client:
        assert name in ("off", client.socket.cipher()[0])
        before = counts(machine)
        assert client.get("/small.txt").body == b"small"
        assert counts(machine) == before
        assert client.get("/big.bin").body == BODY
        after = counts(machine)
        changes = {key: after[key] - before[key] for key in ("TlsCurrTxSw", "TlsCurrRxSw", "TlsTxSw", "TlsRxSw")}
        assert changes == dict.fromkeys(changes, 0 if name == "off" else 1)
        assert client.get("/small.txt").body == b"small"
        assert client.get("/big.bin", "Range: bytes=1000-2000000").body == BODY[1000:2000001]
        assert client.get("/big.bin", method="HEAD").body == b""
        assert client.get("/big.bin", "Connection: close").body == BODY
        client.assert_ended()
    eventually(lambda: counts(machine)["TlsCurrTxSw"] == before["TlsCurrTxSw"])
    assert counts(machine)["TlsDecryptError"] == 0


def slow_reader_gets_the_whole_file_and_the_end(machine):
    before = counts(machine)["TlsCurrTxSw"]
    with connect(machine, "TLS_AES_128_GCM_SHA256") as client:
        client.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
        client.request("GET /big.bin HTTP/1.1", "Connection: close")
        received = b"".join(iter(lambda: client.socket.recv(3000), b""))
    assert received.endswith(BODY)
    # What follows counts, too.
    eventually(lambda: counts(machine)["TlsCurrTxSw"] == before)


def client_that_ends_in_order_is_forgotten(machine):
    before = counts(machine)["TlsCurrRxSw"]
    with switched(machine, "TLS_AES_256_GCM_SHA384") as client:
        assert counts(machine)["TlsCurrRxSw"] == before + 1
        # The server ends its side in order, too: otherwise this raises an error.
        client.socket.unwrap()
    eventually(lambda: counts(machine)["TlsCurrRxSw"] == before)


class Rekeying:
    """openssl as a client that can change its keys, which Python's cannot."""

    def __init__(self, machine, name="TLS_AES_256_GCM_SHA384"):
        port = machine.ports[PORTS[name]]
        command = ["openssl", "s_client", "-connect", f"127.0.0.1:{port}", "-CAfile", AUTHORITY]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        self.received, self.err = b"", Lines(self.process.stderr)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.kill()
        self.process.wait()
        self.process.stdin.close()
        self.process.stdout.close()

    def write(self, data):
        self.process.stdin.write(data)
        self.process.stdin.flush()

    def unread(self):
        """Returns how many bytes openssl has not read from its standard input."""
        number = array.array("i", [0])
        fcntl.ioctl(self.process.stdin, termios.FIONREAD, number)
        return number[0]

    def ask(self, path):
        self.write(b"GET %s HTTP/1.1\r\nHost: localhost\r\n\r\n" % path)

    def change_keys(self, letter):
        """Changes the client's keys. With "K" it asks the server to do the same, with "k" it does not."""
        start = len(self.err.text())
        # The letter must come as a line of its own, not behind other bytes in one read.
        eventually(lambda: self.unread() == 0)
        self.write(letter + b"\n")
        self.err.wait("KEYUPDATE", start=start)

    def read_until(self, mark):
        """Returns what comes up to this mark, or up to the end."""
        while mark not in self.received and (more := self.process.stdout.read1(1 << 16)):
            self.received += more
        before, found, self.received = self.received.partition(mark)
        return before + found


def client_changes_its_keys_and_goes_on(machine):
    before = counts(machine)
    with Rekeying(machine) as client:
        client.ask(b"/big.bin")
        assert client.read_until(BODY[-1000:]).endswith(BODY)
        for letter, path, end in [(b"K", b"/small.txt", b"\r\n\r\nsmall"), (b"k", b"/small.txt", b"\r\n\r\nsmall"),
                                  (b"K", b"/big.bin", BODY), (b"k", b"/big.bin", BODY)]:  # fmt: skip
            client.change_keys(letter)
            client.ask(path)
            assert client.read_until(end[-1000:]).endswith(end)
        # Several changes with nothing between them, and one while the server sends.
        client.ask(b"/big.bin")
        first = client.read_until(BODY[:1000])
        for letter in [b"K", b"K", b"k"]:
            client.change_keys(letter)
        assert (first + client.read_until(BODY[-1000:])).endswith(BODY)
        client.ask(b"/big.bin")
        assert client.read_until(BODY[-1000:]).endswith(BODY)
    after = counts(machine)
    changes = {key: after[key] - before[key] for key in after if "Rekey" in key}
    # The two that ask while the server sends may be one for it.
    assert changes.pop("TlsTxRekeyOk") in (3, 4)
    assert changes == {"TlsRxRekeyOk": 7, "TlsRxRekeyReceived": 7, "TlsRxRekeyError": 0, "TlsTxRekeyError": 0}
    assert after["TlsDecryptError"] == 0


def client_changes_its_keys_inside_a_body(machine):
    """A kernel that takes the keys receives the rest. Another kernel cannot, and the application gets no part of it."""
    half = b"a" * 100_000
    with Rekeying(machine, "application") as client:
        client.ask(b"/files/big.bin")
        assert client.read_until(BODY[-1000:]).endswith(BODY)
        client.write(b"POST /sha HTTP/1.1\r\nHost: localhost\r\nContent-Length: 200000\r\nExpect: 100-continue\r\n\r\n")
        client.read_until(b"100 Continue\r\n\r\n")
        client.write(half)
        client.change_keys(b"K")
        client.write(half)
        if machine.release() >= FIRST_WITH_NEW_KEYS:
            assert client.read_until(hashlib.sha256(half + half).hexdigest().encode()).startswith(b"HTTP/1.1 200 OK\r\n")
        else:
            assert b" 200 OK" not in client.read_until(b" 200 OK")


def client_changes_its_keys_and_is_closed_in_order(machine):
    with Rekeying(machine) as client:
        client.ask(b"/big.bin")
        assert client.read_until(BODY[-1000:]).endswith(BODY)
        client.change_keys(b"K")
        assert client.read_until(b"closed\n").endswith(b"closed\n")
    # While the server sends, the response comes first.
    with Rekeying(machine) as client:
        client.ask(b"/big.bin")
        first = client.read_until(BODY[:1000])
        client.change_keys(b"K")
        assert (first + client.read_until(BODY[-1000:])).endswith(BODY)
        assert client.read_until(b"closed\n").endswith(b"closed\n")
    # A further request, which cannot be read, takes nothing of the response before it.
    with Rekeying(machine) as client:
        client.ask(b"/big.bin")
        first = client.read_until(BODY[:1000])
        client.change_keys(b"k")
        client.ask(b"/small.txt")
        assert (first + client.read_until(BODY[-1000:])).endswith(BODY)
        assert b"HTTP/1.1" not in client.read_until(b"HTTP/1.1")
    assert "has changed its keys, and the kernel does not take them (" in machine.text()


def bodies_arrive_after_the_switch(machine):
    with switched(machine, "TLS_AES_128_GCM_SHA256") as client:
        for _ in range(2):
            # No method but GET and HEAD is for a file. The body is received all the same.
            assert client.post("/small.txt", BODY[:100_000]).status == 405
            assert client.get("/small.txt").body == b"small"
    with switched(machine, "application") as client:
        for body in [b"", b"a", BODY]:
            expected = f"{len(body)} {hashlib.sha256(body).hexdigest()}".encode()
            assert client.post("/sha", body).body == expected
        chunks = b"".join(b"%x\r\n%s\r\n" % (len(BODY[at:at + 7000]), BODY[at:at + 7000]) for at in range(0, len(BODY), 7000))
        client.request("POST /sha HTTP/1.1", "Transfer-Encoding: chunked", body=chunks + b"0\r\n\r\n")
        assert client.response().body == f"{len(BODY)} {hashlib.sha256(BODY).hexdigest()}".encode()
        client.request("POST /sha HTTP/1.1", "Expect: 100-continue", "Content-Length: 3")
        assert client.head().status == 100
        assert client.send(b"abc").response().body.startswith(b"3 ba7816bf")
        assert client.get("/").body == b"['https', 'TLSv1.3', '10.0.2.2']"


def connection_is_handed_over_after_the_switch(machine):
    client = switched(machine, "application")
    with WebSocket("", "/websocket", client=client) as websocket:
        for message in [b"", b"a", b"b" * 60_000]:
            assert websocket.send(TEXT, message).receive() == (TEXT, message)
        websocket.send(CLOSE, struct.pack("!H", 1000))
        assert websocket.receive() == (CLOSE, struct.pack("!H", 1000))
        client.assert_ended()
    with switched(machine, "application") as client:
        client.request("GET /taken HTTP/1.1")
        assert client.read_exactly(6) == b"taken\n"
        assert client.exchange(b"abc" * 300_000, 900_000) == b"ABC" * 300_000
        client.socket.unwrap()


def server_that_stops_completes_its_responses(machine):
    """A client in the middle of a file gets its rest. One that is idle is told of the end."""
    port = PORTS["stopped"]
    # More than all buffers on its way hold.
    machine.run(f"dd if=/dev/zero of=/data/huge.bin bs=1M count={HUGE_BYTES >> 20}")
    idle = switched(machine, "stopped")
    with switched(machine, "stopped") as busy, idle:
        busy.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
        busy.request("GET /huge.bin HTTP/1.1")
        assert busy.head().get("Content-Length") == str(HUGE_BYTES)
        machine.run(f"kill -TERM $(cat /tmp/{port}.pid)")
        eventually(lambda: "SIGTERM: stopping; 1 request may run" in machine.text())
        idle.assert_ended()
        left = HUGE_BYTES
        while left:
            left -= len(busy.read_exactly(min(left, 1 << 20)))
        busy.assert_ended()
    eventually(lambda: "every request has ended" in machine.text())


@pytest.mark.slow
def test_kernel_seals_files_with_each_suite(machine):
    """One test, because the tests of a file may run in several processes, and each would boot a machine."""
    for name in [*SUITES, "off"]:
        files_of_a_connection_are_sealed_by_the_kernel(machine, name)
    slow_reader_gets_the_whole_file_and_the_end(machine)
    client_that_ends_in_order_is_forgotten(machine)
    if machine.release() >= FIRST_WITH_NEW_KEYS:
        client_changes_its_keys_and_goes_on(machine)
    else:
        client_changes_its_keys_and_is_closed_in_order(machine)
    client_changes_its_keys_inside_a_body(machine)
    bodies_arrive_after_the_switch(machine)
    connection_is_handed_over_after_the_switch(machine)
    server_that_stops_completes_its_responses(machine)
