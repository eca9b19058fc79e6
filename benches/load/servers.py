"""The servers in the comparison: starting, watching and stopping them. Each is one process, unless its name says otherwise."""

import contextlib
import os
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import time

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(os.path.dirname(HERE))
TARGET = os.environ.get("CARGO_TARGET_DIR", os.path.join(ROOT, "target"))
VENV = os.environ.get("BENCH_VENV", os.path.join(TARGET, "bench-venv"))
WORK = os.path.join(TARGET, "bench")
FILE = os.path.join(WORK, "10MiB.bin")
MAYPOLE = os.environ.get("MAYPOLE", os.path.join(TARGET, "release", "maypole"))
CALIBRATE = os.path.join(TARGET, "release", "examples", "calibrate")
EPOLL = os.path.join(WORK, "epoll_server")

PEERS = ["granian==2.8.7", "gunicorn==27.0.1", "gevent==26.9.0", "eventlet==0.41.3", "uwsgi==2.0.31", "waitress==3.0.2", "bjoern==3.2.2",
         "fastwsgi==0.0.9", "flask==3.1.3", "matplotlib"]

TICKS = os.sysconf("SC_CLK_TCK")
CORES = sorted(os.sched_getaffinity(0))
SERVER_CORES, CLIENT_CORES = {CORES[0]}, {CORES[-1]}

_BIN = VENV + "/bin/"
_GUNICORN = _BIN + "gunicorn -w 1 -b 127.0.0.1:{port} --backlog 4096 --log-level critical"
_GRANIAN = _BIN + "granian --interface wsgi --http 1 --workers 1 --no-ws --no-log --port {port}"

# name → command line. A server is started in this directory. {application} stands for a name such as apps:hello.
SERVERS = {
    "maypole": MAYPOLE + " --bind 127.0.0.1:{port} {application}",
    "maypole-w2": MAYPOLE + " -w 2 --bind 127.0.0.1:{port} {application}",
    "maypole-w4": MAYPOLE + " -w 4 --bind 127.0.0.1:{port} {application}",
    "granian": _GRANIAN + " {application}",
    "bjoern": _BIN + "python launch.py bjoern {application} {port}",
    "fastwsgi": _BIN + "python launch.py fastwsgi {application} {port}",
    "gunicorn-sync": _GUNICORN + " -k sync {application}",
    "gunicorn-gthread": _GUNICORN + " -k gthread --threads 4 {application}",
    "gunicorn-gthread64": _GUNICORN + " -k gthread --threads 64 --worker-connections 20000 --keep-alive 3600 {application}",
    "gunicorn-gevent": _GUNICORN + " -k gevent --worker-connections 20000 --keep-alive 3600 {application}",
    "uwsgi64": _BIN + "uwsgi --disable-logging --need-app --module {application} --listen 4096 --processes 1 --enable-threads --threads 64"
                      " --die-on-term --http11-socket 127.0.0.1:{port}",
    "waitress64": _BIN + "waitress-serve --listen=127.0.0.1:{port} --backlog=4096 --threads=64 --connection-limit=19000 --asyncore-use-poll"
                         " --channel-timeout=3600 {application}",
    "eventlet": _BIN + "python launch.py eventlet {application} {port}",
    # Enough threads and waiting requests to hold 10,000 clients.
    "granian64": _GRANIAN + " --backpressure 16384 --blocking-threads 64 {application}",
    # Without Python: the ceiling of the coroutine runtime, and that of the machine.
    "calibrate": CALIBRATE + " 127.0.0.1:{port}",
    "c-epoll": EPOLL + " {port}",
}
# The options that make a server speak TLS, by the first part of its name.
_FILES = [os.path.join(ROOT, "tests", "certificates", name) for name in ("ecdsa.pem", "ecdsa.key")]
TLS = {
    "maypole": ["--certfile", _FILES[0], "--keyfile", _FILES[1]],
    "gunicorn": ["--certfile", _FILES[0], "--keyfile", _FILES[1]],
    "granian": ["--ssl-certificate", _FILES[0], "--ssl-keyfile", _FILES[1]],
}
CEILINGS = ("calibrate", "c-epoll")

niceness = 0


def set_up():
    """Installs the peers, and makes the files that the scenarios need."""
    if not os.path.exists(_BIN + "python"):
        subprocess.run([sys.executable, "-m", "venv", VENV], check=True)
    subprocess.run([_BIN + "pip", "-q", "install", "setuptools<80", "wheel"], check=True)
    for peer in PEERS:
        # One by one: bjoern needs libev's headers, and the other peers must not fail with it.
        if subprocess.run([_BIN + "pip", "-q", "install", "--no-build-isolation", peer]).returncode:
            print(f"cannot install {peer}", file=sys.stderr)
    prepare()
    if not shutil.which("wrk"):
        print("wrk is not in PATH", file=sys.stderr)


def prepare():
    os.makedirs(WORK, exist_ok=True)
    if not os.path.exists(FILE):
        with open(FILE, "wb") as file:
            file.write(os.urandom(10 << 20))
    source = os.path.join(HERE, "epoll_server.c")
    if not os.path.exists(EPOLL) or os.path.getmtime(EPOLL) < os.path.getmtime(source):
        with contextlib.suppress(OSError):
            subprocess.run(["cc", "-O2", "-o", EPOLL, source])


def missing(name):
    """Returns why a server cannot take part, or None."""
    command = SERVERS[name].split()
    if not shutil.which(command[0]):
        return f"{command[0]} is not there"
    if command[1:2] == ["launch.py"] and subprocess.run([command[0], "-c", f"import {command[2]}"], capture_output=True).returncode:
        return f"{command[2]} is not installed"
    return None


def child(cores):
    """Returns a function for Popen's preexec_fn that sets cores and priority."""

    def set_up_child():
        os.sched_setaffinity(0, cores)
        if niceness:
            with contextlib.suppress(OSError):
                os.setpriority(os.PRIO_PROCESS, 0, niceness)

    return set_up_child


def free_port():
    # Below the ephemeral range, so that no client's socket takes the port meanwhile.
    for port in range(20000 + os.getpid() % 1000 * 10, 32000):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            with contextlib.suppress(OSError):
                probe.bind(("127.0.0.1", port))
                return port
    raise RuntimeError("no free port")


def stat_fields(pid):
    with open(f"/proc/{pid}/stat") as file:
        return file.read().rsplit(")", 1)[1].split()


class Server:
    """A server that runs while the `with` block does."""

    def __init__(self, name, application, pinned=True, tls=False):
        self.name = name
        self.tls = tls
        self.application = application
        self.cores = SERVER_CORES if pinned else set(CORES)

    def __enter__(self):
        self.port = free_port()
        self.log_path = os.path.join(WORK, f"{self.name}.log")
        command = SERVERS[self.name].format(port=self.port, application=self.application).split()
        if self.tls:
            options = next((TLS[kind] for kind in TLS if self.name.startswith(kind)), None)
            if options is None:
                raise RuntimeError(f"{self.name} speaks no TLS here")
            command += options
        environment = dict(os.environ, PYTHONDONTWRITEBYTECODE="1", BENCH_FILE=FILE)
        environment.pop("PYTHONPATH", None)
        if "flask" in self.application:
            environment["BENCH_FLASK"] = "1"
        # Maypole runs in the interpreter it was built for. The applications' imports come from the environment.
        environment["VIRTUAL_ENV"] = VENV
        began = time.perf_counter()
        with open(self.log_path, "wb") as log:
            self.process = subprocess.Popen(command, cwd=HERE, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                                            start_new_session=True, preexec_fn=child(self.cores))
        try:
            self.wait_until_ready(20)
        except BaseException:
            self.stop()
            raise
        self.start_seconds = time.perf_counter() - began
        return self

    def __exit__(self, *_):
        self.stop()

    def wait_until_ready(self, seconds):
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if self.process.poll() is not None:
                break
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 5) as connection:
                connection.settimeout(5)
                if self.tls:
                    context = ssl.create_default_context()
                    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
                    connection = context.wrap_socket(connection, server_hostname="localhost")
                connection.sendall(b"GET /hello HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
                if connection.recv(100).startswith(b"HTTP/1."):
                    return
            time.sleep(0.004)
        with open(self.log_path, errors="replace") as log:
            raise RuntimeError(f"{self.name} does not answer: {log.read()[-500:]}")

    def pids(self):
        """Returns the processes of the server's session."""
        found = []
        for entry in filter(str.isdigit, os.listdir("/proc")):
            with contextlib.suppress(OSError):
                fields = stat_fields(entry)
                if int(fields[3]) == self.process.pid and fields[0] != "Z":
                    found.append(int(entry))
        return found

    def cpu_seconds(self):
        total = 0
        for pid in self.pids():
            with contextlib.suppress(OSError):
                fields = stat_fields(pid)
                total += int(fields[11]) + int(fields[12])
        return total / TICKS

    def rss_kib(self):
        total = 0
        for pid in self.pids():
            with contextlib.suppress(OSError), open(f"/proc/{pid}/smaps_rollup") as file:
                total += sum(int(line.split()[1]) for line in file if line.startswith("Rss:"))
        return total

    def stop(self):
        for number, seconds in ((signal.SIGTERM, 1.0), (signal.SIGKILL, 3.0)):
            for pid in self.pids():
                with contextlib.suppress(OSError):
                    os.kill(pid, number)
            end = time.monotonic() + seconds
            while time.monotonic() < end:
                if self.process.poll() is not None and not self.pids():
                    return
                time.sleep(0.02)
