"""TLS in the kernel, in a virtual machine with Debian's kernel: QEMU computes it, so that no rights are needed.

The machine has the binary, busybox and a few modules. It is booted once, and the test is a client outside of it. Another
kernel can be named with MAYPOLE_TEST_KERNEL, a directory into which `dpkg-deb -x` has unpacked its package.
"""

import gzip
import hashlib
import os
import pathlib
import re
import shutil
import socket
import ssl
import subprocess

import pytest

from client import PATIENCE
from ports import free_port
from process import MAYPOLE, ROOT, eventually

CERTIFICATES = ROOT / "tests" / "certificates"
BODY = b"".join(hashlib.sha256(str(i).encode()).digest() for i in range(3 * 32768))
SUITES = ["TLS_AES_128_GCM_SHA256", "TLS_AES_256_GCM_SHA384", "TLS_CHACHA20_POLY1305_SHA256", "ECDHE-ECDSA-AES128-GCM-SHA256",
          "ECDHE-ECDSA-AES256-GCM-SHA384", "ECDHE-ECDSA-CHACHA20-POLY1305"]  # fmt: skip
VERSIONS = {"TLS": "TLSv1_3", "ECD": "TLSv1_2"}
MODULES = ["tls", "gcm", "gf128mul", "crypto_simd", "ghash-clmulni-intel", "ghash-generic", "ctr", "cryptd", "aesni-intel", "libchacha", "libpoly1305", "libchacha20poly1305", "chacha_generic",
           "chacha-x86_64", "poly1305_generic", "poly1305-x86_64", "chacha20poly1305", "seqiv", "failover", "net_failover", "virtio", "virtio_ring",
           "virtio_pci_modern_dev", "virtio_pci_legacy_dev", "virtio_pci", "virtio_net"]  # fmt: skip
INIT = """#!/bin/busybox sh
/bin/busybox --install -s /bin
mount -t proc proc /proc; mount -t sysfs sys /sys; mount -t devtmpfs dev /dev
cd /lib/modules; for i in 1 2 3 4; do for m in *.ko; do insmod $m 2>/dev/null; done; done; cd /
ip link set lo up; ip link set eth0 up; ip addr add 10.0.2.15/24 dev eth0; ip route add default via 10.0.2.2
nc -ll -p 9000 -e cat /proc/net/tls_stat &
serve() { maypole files /data --certfile /etc/cert.pem --keyfile /etc/key.pem --bind "0.0.0.0:$1" --keep-alive 600 $2 $3 $4 $5 & }
"""


def kernel(place):
    """Returns the directory of an unpacked kernel."""
    named = os.environ.get("MAYPOLE_TEST_KERNEL")
    if named:
        return pathlib.Path(named)
    depends = subprocess.run(["apt-cache", "depends", "linux-image-cloud-amd64"], capture_output=True, text=True, timeout=PATIENCE)
    package = re.search(r"Depends: (linux-image-\S+)", depends.stdout)
    if package is None:
        pytest.skip("apt knows no package linux-image-cloud-amd64 here (apt-get update)")
    got = subprocess.run(["apt-get", "download", package[1]], cwd=place, capture_output=True, text=True, timeout=6 * PATIENCE)
    files = list(place.glob("*.deb"))
    if not files:
        pytest.skip(f"the package {package[1]} cannot be had: {got.stderr.strip()[-200:]}")
    subprocess.run(["dpkg-deb", "-x", files[0], place / "kernel"], check=True, timeout=6 * PATIENCE)
    return place / "kernel"


def entry(name, mode, content):
    """Returns a file in the format of an initramfs (cpio, newc)."""
    name = name.encode() + b"\0"
    fields = [0, mode, 0, 0, 1, 0, len(content), 0, 0, 0, 0, len(name), 0]
    head = b"070701" + b"".join(b"%08X" % field for field in fields) + name
    return head + bytes(-len(head) % 4) + content + bytes(-len(content) % 4)


def initramfs(unpacked, init):
    """Returns the archive with everything that the machine needs."""
    libraries = re.findall(r"(/\S+)", subprocess.run(["ldd", MAYPOLE], capture_output=True, text=True, check=True).stdout)
    files = {library: pathlib.Path(library).read_bytes() for library in libraries}
    stripped = subprocess.run(["strip", "-o", "/dev/stdout", MAYPOLE], capture_output=True)
    files["/bin/maypole"] = stripped.stdout or pathlib.Path(MAYPOLE).read_bytes()
    files["/bin/busybox"] = pathlib.Path(shutil.which("busybox")).read_bytes()
    files |= {f"/lib/modules/{path.name}": path.read_bytes() for path in unpacked.rglob("*.ko") if path.stem in MODULES}
    files |= {"/etc/cert.pem": (CERTIFICATES / "ecdsa.pem").read_bytes(), "/etc/key.pem": (CERTIFICATES / "ecdsa.key").read_bytes()}
    files |= {"/data/big.bin": BODY, "/data/small.txt": b"small", "/init": init.encode()}
    directories = {str(parent)[1:] for file in files for parent in pathlib.PurePath(file).parents} | {"proc", "sys", "dev", "tmp"}
    archive = [entry(name, 0o040755, b"") for name in sorted(directories - {""})]
    archive += [entry(name[1:], 0o100755, content) for name, content in files.items()]
    return gzip.compress(b"".join([*archive, entry("TRAILER!!!", 0, b"")]), 1)


class Machine:
    """The machine. `ports` has the port of each suite, and of `off`."""

    def __init__(self, port, ports):
        self.port, self.ports = port, ports

    def counts(self):
        """Returns the numbers of the kernel's TLS."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=PATIENCE) as client:
            text = client.makefile().read()
        return {name: int(number) for name, number in re.findall(r"(\w+)\s+(\d+)", text)}

    def connect(self, name):
        context = ssl.create_default_context(cafile=CERTIFICATES / "authority.pem")
        client = socket.create_connection(("127.0.0.1", self.ports[name]), timeout=3 * PATIENCE)
        return context.wrap_socket(client, server_hostname="localhost", suppress_ragged_eofs=False)


@pytest.fixture(scope="module")
def machine(tmp_path_factory):
    lacking = [name for name in ["qemu-system-x86_64", "busybox", "apt-get", "dpkg-deb"] if shutil.which(name) is None]
    if lacking or os.uname().machine != "x86_64":
        pytest.skip(f"{', '.join(lacking) or 'a machine of the kind x86_64'} is missing")
    place = tmp_path_factory.mktemp("ktls")
    unpacked = kernel(place)
    names = [*SUITES, "off"]
    inside = {name: 8443 + i for i, name in enumerate(names)}
    lines = [f"serve {port} " + ("--ktls off" if name == "off" else f"--ciphers {name} --ssl-version {VERSIONS[name[:3]]}") for name, port in inside.items()]
    (place / "initrd").write_bytes(initramfs(unpacked, "\n".join([INIT, *lines, "wait; sleep 1000"])))
    port, ports = free_port(), {name: free_port() for name in names}
    forwards = [f"hostfwd=tcp:127.0.0.1:{port}-:9000", *(f"hostfwd=tcp:127.0.0.1:{ports[name]}-:{inside[name]}" for name in names)]
    command = ["qemu-system-x86_64", "-accel", "tcg,thread=multi", "-cpu", "max", "-m", "1024", "-smp", "2", "-nographic", "-no-reboot",
               "-kernel", next((unpacked / "boot").glob("vmlinuz-*")), "-initrd", place / "initrd", "-append", "console=ttyS0 panic=-1 quiet",
               "-netdev", ",".join(["user,id=net", *forwards]), "-device", "virtio-net-pci,netdev=net,romfile="]  # fmt: skip
    log = place / "log"
    with log.open("wb") as out, subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT) as process:
        try:
            listening = re.compile(r"listening on")
            eventually(lambda: process.poll() is not None or len(listening.findall(log.read_text(errors="replace"))) == len(names), 12 * PATIENCE)
            text = log.read_text(errors="replace")
            assert process.poll() is None, text
            assert text.count("are sealed by the kernel\n") + text.count("are sealed by the kernel\r") == len(names) - 1, text
            yield Machine(port, ports)
        finally:
            process.kill()


def ask(client, path, fields="", method="GET"):
    """Sends a request, and returns the head and the body of its response."""
    client.sendall(f"{method} {path} HTTP/1.1\r\nHost: localhost\r\n{fields}\r\n".encode())
    data = b""
    while b"\r\n\r\n" not in data:
        data += (more := client.recv(65536))
        assert more, data
    head, body = data.split(b"\r\n\r\n", 1)
    body = bytearray(body)
    length = 0 if method == "HEAD" else int(re.search(rb"(?i)content-length: (\d+)", head)[1])
    while len(body) < length:
        body += (more := client.recv(1 << 20))
        assert more, (len(body), length)
    return head, bytes(body)


def files_of_a_connection_are_sealed_by_the_kernel(machine, name):
    """Also what follows on the connection: small files, ranges, HEAD, and the end."""
    with machine.connect(name) as client:
        assert name in ("off", client.cipher()[0])
        before = machine.counts()
        assert ask(client, "/small.txt")[1] == b"small"
        assert machine.counts() == before
        assert ask(client, "/big.bin")[1] == BODY
        after = machine.counts()
        switched = {key: after[key] - before[key] for key in ("TlsCurrTxSw", "TlsCurrRxSw", "TlsTxSw", "TlsRxSw")}
        assert switched == dict.fromkeys(switched, 0 if name == "off" else 1)
        assert ask(client, "/small.txt")[1] == b"small"
        assert ask(client, "/big.bin", "Range: bytes=1000-2000000\r\n")[1] == BODY[1000:2000001]
        assert ask(client, "/big.bin", method="HEAD")[1] == b""
        assert ask(client, "/big.bin", "Connection: close\r\n")[1] == BODY
        # close_notify: without it, this would raise an error.
        assert client.recv(1) == b""
    eventually(lambda: machine.counts()["TlsCurrTxSw"] == before["TlsCurrTxSw"])
    assert machine.counts()["TlsDecryptError"] == 0


def slow_reader_gets_the_whole_file_and_the_end(machine):
    before = machine.counts()["TlsCurrTxSw"]
    with machine.connect("TLS_AES_128_GCM_SHA256") as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
        client.sendall(b"GET /big.bin HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        received = b"".join(iter(lambda: client.recv(3000), b""))
    assert received.endswith(BODY)
    # What follows counts, too.
    eventually(lambda: machine.counts()["TlsCurrTxSw"] == before)


def client_that_ends_in_order_is_forgotten(machine):
    before = machine.counts()["TlsCurrRxSw"]
    with machine.connect("TLS_AES_256_GCM_SHA384") as client:
        assert ask(client, "/big.bin")[1] == BODY
        assert machine.counts()["TlsCurrRxSw"] == before + 1
        try:
            client.unwrap()
        except ssl.SSLEOFError:
            pass
    eventually(lambda: machine.counts()["TlsCurrRxSw"] == before)


def client_that_changes_its_keys_is_served_or_closed(machine):
    """Kernels before 6.14 take no new keys: the client sees the end of the connection, and never wrong bytes."""
    port = machine.ports["TLS_AES_256_GCM_SHA384"]
    command = ["openssl", "s_client", "-connect", f"127.0.0.1:{port}", "-CAfile", CERTIFICATES / "authority.pem"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        request = b"GET /%s HTTP/1.1\r\nHost: localhost\r\n\r\n"
        process.stdin.write(request % b"big.bin")
        process.stdin.flush()
        received = b""
        while not received.endswith(BODY[-1000:]):
            received += (more := process.stdout.read1())
            assert more, len(received)
        assert received.endswith(BODY)
        for line in [b"K\n", request % b"small.txt"]:
            process.stdin.write(line)
            process.stdin.flush()
        rest = b""
        while not rest.endswith(b"small") and (more := process.stdout.read1()):
            rest += more
        process.kill()
    rest = rest.split(b"KEYUPDATE\n")[-1]
    assert b"HTTP/1.1" not in rest or rest.endswith(b"\r\n\r\nsmall"), rest


def test_kernel_seals_files_with_each_suite(machine):
    """One test, because the tests of a file may run in several processes, and each would boot a machine."""
    for name in [*SUITES, "off"]:
        files_of_a_connection_are_sealed_by_the_kernel(machine, name)
    slow_reader_gets_the_whole_file_and_the_end(machine)
    client_that_ends_in_order_is_forgotten(machine)
    client_that_changes_its_keys_is_served_or_closed(machine)
