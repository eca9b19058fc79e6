"""Tries examples/deploy/systemd in a Debian that systemd has booted: make test-systemd

The Debian is made once, below TARGET/systemd, and booted by systemd-nspawn(1) with an overlay, so that each run finds it
unchanged. Its own Python gets the package as a wheel, in /srv/shop/venv, where the unit expects it. The network is the
machine's. *Invariants*: a test changes the unit by a drop-in only.
"""

import contextlib
import os
import pathlib
import re
import shutil
import signal
import socket
import subprocess
import sys
import time

import pytest

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "tools")]

import chroot
import pythons
from client import Client

TARGET = pathlib.Path(os.environ.get("TARGET", ROOT / "target")).resolve()
UNITS = ROOT / "examples" / "deploy" / "systemd"
PATIENCE = 180
SUITE, MINOR = "trixie", 13
PATH = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin"}
PACKAGES = ["systemd", "systemd-sysv", "dbus", "python3", "python3-venv", "util-linux"]
CODE = """
import os, time

def application(environ, start_response):
    path = environ["PATH_INFO"]
    if path == "/slow":
        time.sleep(6)
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [f"{version} {{os.getpid()}} {{os.environ.get('NOTIFY_SOCKET')}}".encode()]
"""


def python():
    """Returns a CPython of the Debian's version on this machine, which builds the wheel."""
    found = [path for path in [sys.executable, *pythons.others()] if pythons.minor_of(path) == MINOR]
    return found[0] if found else None


def lacking():
    """Returns what this machine lacks, or `None`."""
    if shutil.which("systemd-nspawn") is None:
        return "systemd-nspawn is missing (Debian: apt install systemd-container)"
    return chroot.lacking() or (None if python() else f"CPython 3.{MINOR} is missing")


def wheel():
    """Builds the package for the Debian's CPython, without optimizations."""
    directory = TARGET / "systemd" / "wheels"
    shutil.rmtree(directory, ignore_errors=True)
    environment = {name: value for name, value in os.environ.items() if name != "PYO3_PYTHON"}
    environment |= {"CARGO_TARGET_DIR": str(TARGET / f"wheel3{MINOR}"), "MATURIN_PEP517_ARGS": "--profile dev"}
    words = ["wheel", "--quiet", "--disable-pip-version-check", "--no-deps", "--wheel-dir", str(directory), str(ROOT)]
    subprocess.run([python(), "-m", "pip", *words], env=environment, check=True, timeout=1800)
    [found] = directory.glob("maypole-*.whl")
    return found


def prepare():
    """Makes the Debian, with the package in the virtual environment of the unit. Returns its directory."""
    root = chroot.make(TARGET / "systemd" / SUITE, SUITE, PACKAGES)
    built = wheel()
    if not (root / "srv/shop/venv/bin/pip").exists():
        subprocess.run(chroot.entering(root, ["/usr/bin/python3", "-m", "venv", "/srv/shop/venv"], env=PATH), check=True, timeout=300)
        subprocess.run(["chroot", root, "/usr/bin/systemd-sysusers", "--inline", "u shop -"], check=True)
    pip = ["/srv/shop/venv/bin/pip", "install", "--quiet", "--no-index", "--no-deps", "--force-reinstall", f"/mnt/{built.name}"]
    subprocess.run(chroot.entering(root, pip, [(built, f"/mnt/{built.name}")], env=PATH), check=True, timeout=300)
    return root


def eventually(condition, what, patience=PATIENCE):
    """Repeats a check until it holds, and returns its value."""
    end = time.monotonic() + patience
    while not (value := condition()):
        assert time.monotonic() < end, f"{what} does not come true: {value!r}"
        time.sleep(0.05)
    return value


class Machine:
    """A Debian that runs, with systemd as its process 1."""

    def __init__(self, root, shop):
        self.shop = shop
        environment = {**os.environ, "SYSTEMD_NSPAWN_UNIFIED_HIERARCHY": "1"}
        words = [
            "systemd-nspawn", f"--directory={root}", "--boot", "--register=no", "--keep-unit", "--volatile=overlay",
            "--machine=maypole-test", "--link-journal=no", "--console=pipe", f"--bind={shop}:/srv/shop/shop",
        ]  # fmt: skip
        self.process = subprocess.Popen(
            words, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            start_new_session=True)
        os.set_blocking(self.process.stdout.fileno(), False)
        try:
            self.first = eventually(self.leader, "that process 1 starts")
            eventually(self.has_booted, "that the machine has booted")
        except BaseException:
            self.kill()
            raise

    def leader(self):
        assert self.process.poll() is None, self.process.stdout.read()
        children = pathlib.Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        return int(children[0]) if children else None

    def has_booted(self):
        self.state = self.ctl("is-system-running", check=False).strip()
        return self.state in ("running", "degraded")

    def kill(self):
        """Kills the machine. Its processes end with its process 1."""
        for pid in (self.process.pid, getattr(self, "first", None)):
            if pid:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        self.process.wait()

    def run(self, *words, check=True, patience=PATIENCE):
        """Runs a command in the machine. Returns the process, with its output as text."""
        enter = ["nsenter", "--target", str(self.first), "--mount", "--uts", "--ipc", "--pid", "--root", "--wd=/"]
        done = subprocess.run([*enter, *map(str, words)], capture_output=True, text=True, timeout=patience, check=False)
        assert not check or done.returncode == 0, (words, done.stdout, done.stderr)
        return done

    def ctl(self, *words, **more):
        return self.run("systemctl", "--no-pager", *words, **more).stdout

    def write(self, path, text):
        self.run("mkdir", "-p", os.path.dirname(path))
        self.run("python3", "-c", "import sys; open(sys.argv[1], 'w').write(sys.argv[2])", path, text)

    def end(self):
        os.kill(self.first, signal.SIGRTMIN + 14)
        try:
            self.process.communicate(timeout=PATIENCE)
        except subprocess.TimeoutExpired:
            self.kill()


@pytest.fixture(scope="session")
def machine(tmp_path_factory):
    if reason := lacking():
        pytest.skip(reason)
    shop = tmp_path_factory.mktemp("shop")
    for directory in (shop, *shop.parents):
        with contextlib.suppress(PermissionError):
            os.chmod(directory, directory.stat().st_mode | 0o055)
    one = Machine(prepare(), shop)
    try:
        yield one
    finally:
        one.end()


class Service:
    """The unit of the example, with a port of its own."""

    def __init__(self, machine):
        self.machine = machine
        with socket.socket() as one:
            one.bind(("127.0.0.1", 0))
            self.port = one.getsockname()[1]
        self.publish("first")
        for name in ("shop.service", "shop.socket"):
            machine.write(f"/etc/systemd/system/{name}", (UNITS / name).read_text())
        machine.write(
            "/etc/systemd/system/shop.socket.d/port.conf", f"[Socket]\nListenStream=\nListenStream=127.0.0.1:{self.port}\n")

    def publish(self, version):
        text = version if "raise" in version else CODE.format(version=version)
        (self.machine.shop / "wsgi.py").write_text(text)

    def start(self, *lines):
        """Starts the service with these further lines in its section."""
        self.machine.write("/etc/systemd/system/shop.service.d/test.conf", "\n".join(["[Service]", *lines, ""]))
        self.machine.ctl("daemon-reload")
        self.since = self.machine.run("date", "+%F %T.%N").stdout.strip()
        self.machine.ctl("start", "shop.socket", "shop.service")
        return self.pid()

    def show(self, name):
        return self.machine.ctl("show", "--value", f"--property={name}", "shop.service").strip()

    def pid(self):
        return int(self.show("MainPID"))

    def status(self):
        return self.show("StatusText")

    def client(self):
        return Client(f"http://127.0.0.1:{self.port}")

    def get(self, path="/"):
        """Returns the words of a response: the version, the worker's process, and its NOTIFY_SOCKET."""
        with self.client() as client:
            response = client.get(path)
            assert response.status == 200, response
            return response.body.decode().split(" ")

    def send(self, number, pid=None):
        self.machine.run("kill", f"-{int(number)}", pid or self.pid())

    def processes(self):
        group = self.show("ControlGroup")
        return {int(pid) for pid in self.machine.run("cat", f"/sys/fs/cgroup{group}/cgroup.procs").stdout.split()}

    def journal(self):
        return self.machine.run(
            "journalctl", "--unit=shop", "--output=cat", "--no-pager", f"--since={self.since}").stdout

    def restarted(self, before):
        """Waits until systemd has started the service again, and returns the new main process."""
        now = eventually(lambda: self.show("ActiveState") == "active" and self.pid() not in (0, before) and self.pid(), "a restart")
        assert self.get()[0] == "first"
        assert self.show("NRestarts") == "1"
        return now

    def succeed(self):
        """Has a new supervisor take over, and returns its process."""
        before = self.pid()
        self.send(signal.SIGUSR2)
        eventually(lambda: self.pid() != before, "that systemd follows the new supervisor")
        eventually(lambda: before not in self.processes(), "the end of the old supervisor")
        assert self.show("ActiveState") == "active"
        return self.pid()

    def end(self):
        machine = self.machine
        machine.ctl("stop", "shop.socket", "shop.service", check=False)
        machine.ctl("reset-failed", check=False)
        machine.run("rm", "-rf", *(f"/etc/systemd/system/shop.{kind}{more}" for kind in ("service", "socket") for more in ("", ".d")))
        machine.ctl("daemon-reload")


@pytest.fixture
def service(machine):
    one = Service(machine)
    try:
        yield one
    except BaseException:
        print(one.journal())
        raise
    finally:
        one.end()


SERVING = "2 of 2 workers serving"
FAILED = "the reload has failed, and the old code serves: "


def test_service_starts_and_stops(service):
    service.start()
    assert service.status().startswith(SERVING)
    version, worker, notify = service.get()
    assert (version, notify) == ("first", "None")
    service.machine.ctl("stop", "shop.service")
    assert (service.show("ActiveState"), service.show("Result")) == ("inactive", "success")
    journal = service.journal()
    assert re.search(r"listening on http://127\.0\.0\.1:\d+, .*2 workers", journal) and "[INFO] stopped" in journal
    # The socket is still there, and starts the service.
    assert service.get()[0] == "first"


@pytest.mark.parametrize("kind", ["notify", "notify-reload"])
def test_reload_returns_once_the_new_code_serves_or_has_failed(service, kind):
    pid = service.start(f"Type={kind}", *(["ExecReload="] if kind == "notify-reload" else []))
    service.publish("second")
    service.machine.ctl("reload", "shop.service")
    assert {service.get()[0] for _ in range(8)} == {"second"}
    service.publish("raise ValueError('not today')")
    done = service.machine.run("systemctl", "reload", "shop.service", check=False)
    # systemd knows no reload that has failed and is told by a message.
    assert (done.returncode == 0) == (kind == "notify-reload"), done
    eventually(lambda: service.status().startswith(FAILED), "that the status has the failure")
    requests = [service.get() for _ in range(3)]
    assert {version for version, *_ in requests} == {"second"}
    # It stays, though the status changes.
    eventually(lambda: re.search(r"; 2 of 2 workers .* [1-9]\d* requests? begun$", service.status()), "that the status goes on")
    assert service.status().startswith(FAILED) and service.pid() == pid
    service.publish("third")
    service.machine.ctl("reload", "shop.service")
    assert service.get()[0] == "third" and service.status().startswith(SERVING)


def test_supervisor_that_stands_still_is_restarted_by_the_watchdog(service):
    pid = service.start("WatchdogSec=3")
    service.send(signal.SIGSTOP)
    service.restarted(pid)
    assert "Watchdog timeout" in service.journal()


def test_supervisor_that_is_killed_is_restarted_and_its_workers_end(service):
    pid = service.start()
    worker = int(service.get()[1])
    service.send(signal.SIGKILL)
    service.restarted(pid)
    assert worker not in service.processes()


def test_new_supervisor_is_the_main_process_with_sockets_and_watchdog(service):
    old = service.start("WatchdogSec=3")
    with service.client() as client:
        assert client.get("/").status == 200
        new = service.succeed()
        assert new != old and client.get("/").status == 200
    assert service.get()[0] == "first" and service.status().startswith(SERVING)
    told = service.show("WatchdogTimestampMonotonic")
    eventually(lambda: service.show("WatchdogTimestampMonotonic") != told, "that the new supervisor tells the watchdog")
    newest = service.succeed()
    service.machine.ctl("reload", "shop.service")
    service.send(signal.SIGSTOP)
    service.restarted(newest)


def test_new_supervisor_that_is_killed_is_restarted(service):
    service.start()
    new = service.succeed()
    service.send(signal.SIGKILL)
    service.restarted(new)


def test_stop_that_takes_longer_than_the_limit_gets_more_time(service):
    service.start("TimeoutStopSec=2")
    with service.client() as client:
        client.request("GET /slow HTTP/1.1")
        eventually(lambda: "1 request running" in service.status(), "that the request runs")
        service.machine.ctl("stop", "shop.service")
        assert client.response().status == 200
    assert service.show("Result") == "success"


def test_service_of_a_dynamic_user_serves_and_is_little_exposed(service):
    service.start("DynamicUser=yes")
    assert service.get()[0] == "first"
    found = service.machine.run("systemd-analyze", "security", "--no-pager", "shop.service").stdout
    exposure = float(re.search(r"Overall exposure level for shop\.service: ([\d.]+)", found)[1])
    assert exposure < 3, found
