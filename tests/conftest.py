"""Starts the real server for the tests, and speaks to it in raw bytes.

No function here sleeps in order to wait: a server is ready when its error log says so, and every read from a socket,
a log or a process has a deadline.
"""

import contextlib
import hashlib
import os
import pathlib
import re
import resource
import signal
import socket
import subprocess
import sys
import threading
import time

import pytest

ROOT = pathlib.Path(__file__).resolve().parent.parent
APPS = ROOT / "tests" / "apps"
PROGRAMS = ROOT / "tests" / "programs"
EXAMPLES = ROOT / "examples"
MAYPOLE = os.path.abspath(os.environ.get("MAYPOLE", ROOT / "target" / "release" / "maypole"))
READY = re.compile(r"listening on (\S.*?), pool size (\d+)")
# Generous: two cores may be busy with the build of something else. No test waits this long when all is well.
PATIENCE = float(os.environ.get("TEST_PATIENCE", 20))

RUNNING = []

# 2 MiB that repeat every 256 bytes, as the application `probe` makes and expects them.
BODY_PIECE = bytes(range(256)) * 8192


def pattern_sha(size):
    """Returns the SHA-256 of that many bytes of the pattern."""
    digest = hashlib.sha256()
    while size > 0:
        digest.update(BODY_PIECE[:size])
        size -= len(BODY_PIECE)
    return digest.hexdigest()



def reset_signals():
    """Restores the default signal handlers, for the tests and their processes: `nohup`, `&` and some CI change them."""
    for number in (signal.SIGHUP, signal.SIGQUIT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2, signal.SIGCHLD):
        signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())


reset_signals()


def pytest_configure(config):
    config.addinivalue_line("markers", "smoke: also run on every other CPython of the machine")
    config.addinivalue_line("markers", "slow: takes longer than 20 s")


def pytest_sessionstart(session):
    if not os.access(MAYPOLE, os.X_OK):
        pytest.exit(f"{MAYPOLE} is not there: build it first, or name another one in MAYPOLE", returncode=2)


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item, call):
    outcome = yield
    report = outcome.get_result()
    if report.failed:
        for server in RUNNING:
            report.sections.append((f"error log of {server.name}", server.err.text()[-8000:]))


def clean_environment(**changes):
    """Returns this process's environment without the variables that configure a server."""
    env = {k: v for k, v in os.environ.items() if not k.startswith(("MAYPOLE", "LISTEN_")) and k != "PORT"}
    env.pop("PYTHONPATH", None)
    env.pop("PYTHONHOME", None)
    env["PYTHONDONTWRITEBYTECODE"] = "1"
    if sys.prefix != sys.base_prefix:
        env["VIRTUAL_ENV"] = sys.prefix
    env.update(changes)
    return {k: v for k, v in env.items() if v is not None}


def run(*args, env=None, cwd=APPS, timeout=PATIENCE, **more):
    """Runs the program to its end. The result has returncode, stdout and stderr."""
    return subprocess.run(
        [MAYPOLE, *map(str, args)],
        env=clean_environment(**(env or {})),
        cwd=cwd,
        timeout=timeout,
        capture_output=True,
        text=True,
        errors="replace",
        stdin=subprocess.DEVNULL,
        **more,
    )


class Lines:
    """Reads the output of a process from a pipe while it runs."""

    def __init__(self, stream):
        self._stream = stream
        self._text = ""
        self._closed = False
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self):
        while True:
            piece = os.read(self._stream.fileno(), 1 << 16)
            with self._changed:
                if not piece:
                    self._closed = True
                self._text += piece.decode("utf-8", "replace")
                self._changed.notify_all()
            if not piece:
                self._stream.close()
                return

    def text(self):
        with self._changed:
            return self._text

    def wait(self, pattern, timeout=PATIENCE, start=0):
        """Returns the first match of `pattern` from `start` on. Fails when the pipe ends or the time is over."""
        pattern = re.compile(pattern)
        with self._changed:
            self._changed.wait_for(lambda: self._closed or pattern.search(self._text, start), timeout)
            match = pattern.search(self._text, start)
        if match is None:
            pytest.fail(f"no {pattern.pattern!r} in {self._text[start:][-3000:]!r}")
        return match

    def settle(self):
        """Waits until all output of a finished process has been read. A child of that process may keep the pipe open."""
        with self._changed:
            self._changed.wait_for(lambda: self._closed, 2)

    def wait_end(self, timeout=PATIENCE):
        with self._changed:
            assert self._changed.wait_for(lambda: self._closed, timeout), "the pipe is still open"
            return self._text


class Response:
    """One response as received."""

    def __init__(self, version, status, reason, fields, head):
        self.version, self.status, self.reason, self.fields, self.head = version, status, reason, fields, head
        self.body = b""
        self.interim = []
        self.trailers = b""

    def all(self, name):
        return [v for k, v in self.fields if k.lower() == name.lower()]

    def get(self, name, default=None):
        values = self.all(name)
        assert len(values) < 2, f"{name} comes {len(values)} times: {values}"
        return values[0] if values else default

    def __repr__(self):
        return f"<{self.status} {self.reason} {self.fields} {self.body[:200]!r}>"


class Closed(Exception):
    """The server closed the connection before the response was complete."""


class Client:
    """A raw connection with just enough HTTP to find the end of a response. Every read has a timeout."""

    def __init__(self, address, timeout=PATIENCE, source=None, receive_buffer=None):
        if address.startswith("unix:"):
            self.socket = socket.socket(socket.AF_UNIX)
            target = address[len("unix:"):]
            target = "\0" + target[1:] if target.startswith("@") else target
        else:
            host, _, port = address.rpartition("//")[2].rpartition(":")
            host = host.strip("[]")
            self.socket = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
            self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            target = (host, int(port))
        self.socket.settimeout(timeout)
        if receive_buffer:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        if source:
            self.socket.bind((source, 0))
        self.socket.connect(target)
        self.buffer = b""
        self.eof = False

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def close(self):
        self.socket.close()

    def reset(self):
        """Closes the connection with a reset."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        self.socket.close()

    def send(self, data):
        self.socket.sendall(data if isinstance(data, bytes) else data.encode("latin-1"))
        return self

    def request(self, line="GET / HTTP/1.1", *fields, host="test.example", body=b""):
        """Sends a request. Adds `Host`, but not `Content-Length`."""
        lines = [line] + ([f"Host: {host}"] if host is not None else []) + list(fields)
        return self.send("\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + body)

    def get(self, path="/", *fields, method="GET"):
        return self.request(f"{method} {path} HTTP/1.1", *fields).response(method)

    def post(self, path, body, *fields, method="POST"):
        return self.request(f"{method} {path} HTTP/1.1", f"Content-Length: {len(body)}", *fields, body=body).response(method)

    def half_close(self):
        self.socket.shutdown(socket.SHUT_WR)
        return self

    def _more(self):
        if self.eof:
            raise Closed(self.buffer)
        try:
            piece = self.socket.recv(1 << 18)
        except (ConnectionResetError, BrokenPipeError):
            piece = b""
        if not piece:
            self.eof = True
            raise Closed(self.buffer)
        self.buffer += piece

    def read_until(self, mark):
        while mark not in self.buffer:
            self._more()
        data, _, self.buffer = self.buffer.partition(mark)
        return data + mark

    def read_exactly(self, count):
        pieces, have = [], 0
        while True:
            take = self.buffer[:count - have]
            self.buffer = self.buffer[len(take):]
            pieces.append(take)
            have += len(take)
            if have == count:
                return b"".join(pieces)
            self._more()

    def head(self):
        """Returns the next head, interim or final, and reads no body."""
        raw = self.read_until(b"\r\n\r\n")
        lines = raw.decode("latin-1").split("\r\n")[:-2]
        match = re.fullmatch(r"(HTTP/1\.[01]) (\d{3}) (.*)", lines[0])
        assert match, f"not a status line: {lines[0]!r}"
        fields = []
        for line in lines[1:]:
            field = re.fullmatch(r"([!#$%&'*+.^_`|~0-9A-Za-z-]+): ?([^\r\n\0]*)", line)
            assert field, f"not a field line: {line!r}"
            fields.append((field[1], field[2].strip(" \t")))
        return Response(match[1], int(match[2]), match[3], fields, raw)

    def response(self, method="GET"):
        """Returns the next final response with its body. Interim responses are in its `interim`."""
        interim = []
        while True:
            response = self.head()
            if response.status >= 200:
                break
            interim.append(response)
        response.interim = interim
        if method == "HEAD" or response.status in (204, 304):
            return response
        if response.get("Transfer-Encoding"):
            assert response.get("Transfer-Encoding").lower() == "chunked"
            assert response.get("Content-Length") is None
            response.body = b"".join(self.chunks(response))
        elif response.get("Content-Length") is not None:
            response.body = self.read_exactly(int(response.get("Content-Length")))
        else:
            response.body = self.rest()
        return response

    def chunks(self, response=None):
        """Yields the chunks of a chunked body as they were sent."""
        while True:
            line = self.read_until(b"\r\n")
            assert re.fullmatch(rb"[0-9A-Fa-f]+\r\n", line), line
            size = int(line, 16)
            if size == 0:
                trailers = b""
                while (line := self.read_until(b"\r\n")) != b"\r\n":
                    trailers += line
                if response is not None:
                    response.trailers = trailers
                return
            yield self.read_exactly(size)
            assert self.read_exactly(2) == b"\r\n"

    def rest(self):
        """Returns all bytes until the server closes."""
        with contextlib.suppress(Closed):
            while True:
                self._more()
        data, self.buffer = self.buffer, b""
        return data

    def assert_closed(self):
        """Checks that the server closes the connection and sends no further byte."""
        assert self.rest() == b""

    def assert_open(self, path="/"):
        """Checks that the connection still serves a request."""
        assert self.get(path).status == 200

    def quiet(self, seconds):
        """Returns whether the server sends no byte for this time and keeps the connection open."""
        self.socket.settimeout(seconds)
        try:
            self._more()
            return False
        except TimeoutError:
            return True
        except Closed:
            return False
        finally:
            self.socket.settimeout(PATIENCE)


class Server:
    """A running server."""

    def __init__(self, app, args, env, cwd, command=None, stdin=subprocess.DEVNULL, **popen):
        self.command = command or [MAYPOLE, *map(str, args), app]
        self.name = " ".join(map(str, self.command[1:]))
        self.process = subprocess.Popen(
            self.command,
            env=clean_environment(**(env or {})),
            cwd=cwd,
            stdin=stdin,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
            **popen,
        )
        self.pid = self.process.pid
        self.err, self.out = Lines(self.process.stderr), Lines(self.process.stdout)
        self.stopped = False
        RUNNING.append(self)

    def wait_ready(self):
        match = self.err.wait(READY)
        self.addresses = match[1].split(", ")
        self.pool_size = int(match[2])
        return self

    @property
    def address(self):
        return self.addresses[0]

    @property
    def port(self):
        return int(self.address.rpartition(":")[2])

    def client(self, **more):
        return Client(self.address, **more)

    def get(self, path="/", *fields, method="GET"):
        with self.client() as client:
            return client.get(path, *fields, method=method)

    def post(self, path, body, *fields):
        with self.client() as client:
            return client.post(path, body, *fields)

    def signal(self, number):
        self.process.send_signal(number)

    def report(self):
        """Sends SIGQUIT and returns the lines of the report."""
        start = len(self.err.text())
        self.signal(signal.SIGQUIT)
        found = self.err.wait(r"\] (SIGQUIT: (?s:.*?)\n)(?=\[2|\Z)", start=start)
        return found[1].rstrip("\n").split("\n")

    def wait(self, timeout=PATIENCE):
        """Waits for the end of the server and returns its exit code."""
        code = self.process.wait(timeout)
        self.ended()
        self.assert_plain()
        return code

    def ended(self):
        self.stopped = True
        self.out.settle()
        self.err.settle()

    def assert_plain(self):
        """Checks that no log line has a panic, or the number of a system error as Rust writes it."""
        for word in ("(os error ", "panicked at"):
            assert word not in self.err.text(), f"{self.name}:\n{self.err.text()[-3000:]}"

    def stop(self, expect=0):
        """Sends SIGTERM and checks the exit code. Kills a server that does not end, and fails."""
        if self.stopped:
            return
        self.stopped = True
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            code = self.process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            self.kill()
            pytest.fail(f"{self.name} does not stop:\n{self.err.text()[-3000:]}")
        self.ended()
        self.assert_plain()
        if expect is not None:
            assert code == expect, f"{self.name} ended with {code}:\n{self.err.text()[-3000:]}"

    def kill(self):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        self.process.wait(PATIENCE)
        self.ended()

    # The kernel's data on the process.

    def status(self, name):
        """Returns a number from /proc/PID/status: VmRSS, VmHWM (both in KiB), Threads."""
        text = pathlib.Path(f"/proc/{self.pid}/status").read_text()
        return int(re.search(rf"^{name}:\s+(\d+)", text, re.M)[1])

    def thread_names(self):
        names = []
        for task in pathlib.Path(f"/proc/{self.pid}/task").iterdir():
            with contextlib.suppress(OSError):
                names.append((task / "comm").read_text().strip())
        return names

    def application_threads(self):
        return sum(name.startswith("maypole-exec") for name in self.thread_names())

    def descriptors(self):
        return len(os.listdir(f"/proc/{self.pid}/fd"))

    def cpu_seconds(self):
        fields = pathlib.Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def all_descriptors():
    """Raises the limit of descriptors to its maximum. Also for `preexec_fn`."""
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))


@contextlib.contextmanager
def factory():
    started = []

    def start(app="probe", *args, env=None, cwd=APPS, ready=True, bind=True, **popen):
        """Starts a server for `app` (a module under tests/apps by default) and waits until it is ready."""
        args = list(args)
        if bind:
            args = ["--bind", "127.0.0.1:0", *args]
        if "--access-logfile" not in args:
            args = ["--access-logfile", "none", *args]
        server = Server(app, args, env, cwd, **popen)
        started.append(server)
        return server.wait_ready() if ready else server

    try:
        yield start
    except BaseException:
        for server in started:
            server.kill()
        raise
    finally:
        try:
            for server in started:
                server.stop()
        finally:
            for server in started:
                if server.process.poll() is None:
                    server.kill()
                RUNNING.remove(server)


@pytest.fixture
def server():
    """Starts servers for one test: `server("app", "--option", "value", env={…})`."""
    with factory() as start:
        yield start


@pytest.fixture(scope="module")
def module_server():
    """Starts servers that all tests of a file share."""
    with factory() as start:
        yield start


@pytest.fixture(scope="module")
def probe(module_server):
    """A shared server with the application `probe` and default deadlines, for tests that leave no trace."""
    return module_server("probe")


@pytest.fixture
def client(probe):
    with probe.client() as client:
        yield client


def eventually(condition, timeout=PATIENCE, what="the condition"):
    """Repeats a check until it holds. For values that can only be polled, such as those in /proc."""
    end = time.monotonic() + timeout
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > end:
            pytest.fail(f"{what} does not come true within {timeout} s: {value!r}")
        time.sleep(0.01)
