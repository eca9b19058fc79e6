"""A virtual machine with a kernel of Debian's: QEMU computes it, so that no rights are needed.

The machine has the binary, busybox, a few modules, and optionally Python. `target/kernels` keeps what was downloaded.
*Runs on*: the test's thread. The machine is a process of its own, which the test ends.
"""

import contextlib
import gzip
import lzma
import os
import pathlib
import re
import shutil
import socket
import subprocess
import tempfile

import pytest

from client import PATIENCE
from ports import free_port
from process import MAYPOLE, ROOT, eventually

KEYRING = pathlib.Path("/usr/share/keyrings/debian-archive-keyring.gpg")
PROGRAMS = ["qemu-system-x86_64", "busybox", "apt-get", "dpkg-deb", "strip"]
#: Which kernels are tested, divided by spaces: the newest of a suite of Debian's, or a directory into which `dpkg-deb -x` has
#: unpacked the packages of another one.
KERNELS = os.environ.get("MAYPOLE_TEST_KERNELS", "bookworm").split()
# Not every kernel has each of them as a file: some are a part of the kernel.
MODULES = ["tls", "gcm", "gf128mul", "crypto_simd", "ghash_clmulni_intel", "ghash_generic", "ctr", "cryptd", "aesni_intel", "libchacha", "libpoly1305", "libchacha20poly1305", "chacha",
           "chacha_generic", "chacha_x86_64", "poly1305_generic", "poly1305_x86_64", "chacha20poly1305", "seqiv", "failover", "net_failover", "virtio", "virtio_ring",
           "virtio_pci_modern_dev", "virtio_pci_legacy_dev", "virtio_pci", "virtio_net"]  # fmt: skip
# The shell takes commands of the test. Only this machine reaches it, and it holds nothing.
INIT = """#!/bin/busybox sh
/bin/busybox --install -s /bin
mount -t proc proc /proc; mount -t sysfs sys /sys; mount -t devtmpfs dev /dev
cd /lib/modules; for i in 1 2 3 4; do for m in *.ko; do insmod $m 2>/dev/null; done; done; cd /
ip link set lo up; ip link set eth0 up; ip addr add 10.0.2.15/24 dev eth0; ip route add default via 10.0.2.2
echo "kernel $(uname -r) runs"
nc -ll -p 9000 -e sh &
"""


def lacking():
    """Returns what a machine needs and is not there. Empty: nothing."""
    programs = [name for name in PROGRAMS if shutil.which(name) is None]
    if os.uname().machine != "x86_64":
        programs.append("a machine of the kind x86_64")
    return ", ".join(programs)


def apt(place, suite):
    """Returns the start of a command that looks at one of Debian's suites, and changes nothing of this machine."""
    for directory in ("etc/preferences.d", "etc/apt.conf.d", "lists/partial", "cache/archives/partial"):
        (place / directory).mkdir(parents=True)
    (place / "etc" / "sources.list").write_text(f"deb [arch=amd64 signed-by={KEYRING}] http://deb.debian.org/debian {suite} main\n")
    paths = {"Dir::Etc": "etc", "Dir::State::lists": "lists", "Dir::Cache": "cache"}
    options = [f"-o{name}={place / path}" for name, path in paths.items()]
    return ["-q", *options, "-oDir::State::status=/dev/null", "-oAPT::Architecture=amd64", "-oAPT::Sandbox::User=root"]


def called(*command, place=None):
    return subprocess.run([str(word) for word in command], cwd=place, capture_output=True, text=True, timeout=9 * PATIENCE)


def kernel(place, suite):
    """Returns a directory with a kernel of `KERNELS`, and its modules."""
    if "/" in suite:
        return pathlib.Path(suite)
    if not KEYRING.exists():
        pytest.skip(f"{KEYRING} is missing: the package debian-archive-keyring has it")
    options = apt(place / "apt", suite)
    updated = called("apt-get", *options, "update")
    first = re.search(r"Depends: (linux-image-\d\S+)", called("apt-cache", *options, "depends", "linux-image-cloud-amd64").stdout)
    if first is None:
        pytest.skip(f"apt finds no package linux-image-cloud-amd64 of {suite}: {updated.stderr.strip()[-300:]}")
    kept = ROOT / "target" / "kernels" / f"{suite}-{first[1]}"
    if kept.exists():
        return kept
    # Newer packages have the kernel and the modules apart.
    parts = re.findall(r"Depends: (linux-(?:binary|modules)-\d\S+)", called("apt-cache", *options, "depends", first[1]).stdout)
    got = called("apt-get", *options, "download", first[1], *parts, place=place)
    files = list(place.glob("*.deb"))
    if got.returncode or not files:
        pytest.skip(f"the packages {' '.join([first[1], *parts])} cannot be had: {got.stderr.strip()[-300:]}")
    for file in files:
        assert called("dpkg-deb", "-x", file, place / "unpacked").returncode == 0
    keep(place / "unpacked", kept, suite)
    return kept


def keep(unpacked, kept, suite):
    """Copies what a machine needs of a kernel, and removes what another version of it has left."""
    kept.parent.mkdir(parents=True, exist_ok=True)
    for old in kept.parent.glob(f"{suite}-linux-*"):
        shutil.rmtree(old, ignore_errors=True)
    made = unpacked.parent / "kept"
    made.mkdir()
    shutil.copy(next(unpacked.rglob("vmlinuz*")), made / "vmlinuz")
    for name, content in modules(unpacked):
        (made / f"{name}.ko").write_bytes(content)
    # Another process may have been faster.
    with contextlib.suppress(OSError):
        shutil.move(made, kept)


def modules(unpacked):
    """Yields the names and the contents of the modules that a machine needs."""
    for path in unpacked.rglob("*.ko*"):
        name = path.name.partition(".")[0]
        if name.replace("-", "_") in MODULES:
            yield name, lzma.decompress(path.read_bytes()) if path.suffix == ".xz" else path.read_bytes()


def entry(name, mode, content):
    """Returns a file in the format of an initramfs (cpio, newc)."""
    name = name.encode() + b"\0"
    fields = [0, mode, 0, 0, 1, 0, len(content), 0, 0, 0, 0, len(name), 0]
    head = b"070701" + b"".join(b"%08X" % field for field in fields) + name
    return head + bytes(-len(head) % 4) + content + bytes(-len(content) % 4)


def initramfs(files):
    """Returns an archive with these files and their directories."""
    directories = {str(parent)[1:] for file in files for parent in pathlib.PurePath(file).parents} | {"proc", "sys", "dev", "tmp"}
    archive = [entry(name, 0o040755, b"") for name in sorted(directories - {""})]
    archive += [entry(name[1:], 0o100755, content) for name, content in files.items()]
    return gzip.compress(b"".join([*archive, entry("TRAILER!!!", 0, b"")]), 1)


def libraries(program):
    """Returns the shared libraries of a program."""
    return re.findall(r"(/\S+)", called("ldd", program).stdout)


def stripped(program):
    """Returns a program or a library without what is only for a debugger."""
    with tempfile.NamedTemporaryFile() as made:
        done = called("strip", "-o", made.name, program)
        assert done.returncode == 0, done.stderr
        return pathlib.Path(made.name).read_bytes()


def binary():
    """Returns the files of the binary and of busybox."""
    files = {library: stripped(library) for library in libraries(MAYPOLE)}
    return files | {"/bin/maypole": stripped(MAYPOLE), "/bin/busybox": stripped(shutil.which("busybox"))}


class Machine:
    """A machine that runs. `ports` has the port on this side for each port inside."""

    def __init__(self, shell, ports, log):
        self.shell, self.ports, self.log = shell, ports, log

    def text(self):
        """Returns what the machine has written so far."""
        return self.log.read_text(errors="replace").replace("\r", "")

    def release(self):
        """Returns the kernel's version: two numbers."""
        return tuple(map(int, re.search(r"kernel (\d+)\.(\d+)\S* runs", self.text()).groups()))

    def run(self, command):
        """Runs a command of the shell inside, and returns its output."""
        with socket.create_connection(("127.0.0.1", self.shell), timeout=3 * PATIENCE) as client:
            client.sendall(f"{command} 2>&1; exit\n".encode())
            return client.makefile().read()


@contextlib.contextmanager
def booted(place, unpacked, files, script, inside, is_ready):
    """Boots a machine with these files, which runs a script. It is there when `is_ready` says so of its output."""
    files = files | {f"/lib/modules/{name}.ko": content for name, content in modules(unpacked)}
    (place / "initrd").write_bytes(initramfs(files | {"/init": f"{INIT}{script}\nwait; sleep 1000\n".encode()}))
    shell, ports = free_port(), {port: free_port() for port in inside}
    forwards = [f"hostfwd=tcp:127.0.0.1:{outer}-:{inner}" for inner, outer in [(9000, shell), *ports.items()]]
    command = ["qemu-system-x86_64", "-accel", "tcg,thread=multi", "-cpu", "max", "-m", "1024", "-smp", "2", "-nographic", "-no-reboot",
               "-kernel", next(unpacked.rglob("vmlinuz*")), "-initrd", place / "initrd", "-append", "console=ttyS0 panic=-1 quiet",
               "-netdev", ",".join(["user,id=net", *forwards]), "-device", "virtio-net-pci,netdev=net,romfile="]  # fmt: skip
    machine = Machine(shell, ports, place / "log")
    with machine.log.open("wb") as out, subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT) as process:
        try:
            eventually(lambda: process.poll() is not None or is_ready(machine.text()), 12 * PATIENCE)
            assert process.poll() is None, machine.text()
            yield machine
        finally:
            process.kill()
