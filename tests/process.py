"""Starts the real server as a process, and reads what it writes.

*Invariants*: no function here sleeps in order to wait. A server is ready when its error log says so, and every read
from a log or a process has a deadline.
"""

import contextlib
import fcntl
import os
import pathlib
import re
import resource
import select
import signal
import struct
import subprocess
import sys
import termios
import threading
import time

import pytest

from client import PATIENCE, Client

ROOT = pathlib.Path(__file__).resolve().parent.parent
APPS = ROOT / "tests" / "apps"
PROGRAMS = ROOT / "tests" / "programs"
EXAMPLES = ROOT / "examples"
MAYPOLE = os.path.abspath(os.environ.get("MAYPOLE", ROOT / "target" / "release" / "maypole"))
READY = re.compile(r"listening on (\S.*?), pool size (\d+)")

# For a start, which imports the application, and whole frameworks with it.
START_PATIENCE = 3 * PATIENCE

RUNNING = []


def reset_signals():
    """Restores the default signal handlers, for the tests and their processes: `nohup`, `&` and some CI change them."""
    for number in (signal.SIGHUP, signal.SIGQUIT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2, signal.SIGCHLD):
        signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())


reset_signals()


def clean_environment(**changes):
    """Returns this process's environment without the variables that configure a server or a Python."""
    configure = ("MAYPOLE", "LISTEN_", "PYTHON")
    env = {k: v for k, v in os.environ.items() if not k.startswith(configure) and k not in ("PORT", "WEB_CONCURRENCY")}
    env["PYTHONDONTWRITEBYTECODE"] = "1"
    if sys.prefix != sys.base_prefix:
        env["VIRTUAL_ENV"] = sys.prefix
    env.update(changes)
    return {k: v for k, v in env.items() if v is not None}


def run(*args, env=None, cwd=APPS, timeout=3 * PATIENCE, **more):
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
        readable = select.poll()
        readable.register(self._stream, select.POLLIN)
        while True:
            readable.poll()
            with self._changed:
                piece = os.read(self._stream.fileno(), 1 << 16)
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
        """Waits until all output of a finished process has been read. A child of the process may keep the pipe open."""
        with self._changed:
            self._changed.wait_for(lambda: self._closed, 2)
            self._changed.wait_for(lambda: self._closed or self._unread() == 0, PATIENCE)

    def _unread(self):
        """Returns how many bytes the pipe has. What has left it is in the text, because the lock is held for both."""
        return struct.unpack("i", fcntl.ioctl(self._stream, termios.FIONREAD, bytes(4)))[0]

    def wait_end(self, timeout=PATIENCE):
        with self._changed:
            assert self._changed.wait_for(lambda: self._closed, timeout), "the pipe is still open"
            return self._text


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
        match = self.err.wait(READY, START_PATIENCE)
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

    def hold(self, client, name="it"):
        """Sends a request that stays inside `probe` until /release/NAME, and returns once it is there. The server may
        count the question for it a moment longer than its response takes."""
        client.request(f"GET /hold/{name} HTTP/1.1")
        assert self.get(f"/held/{name}").body == b"yes"

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

    def threads(self):
        """Returns the names of the threads, by their ids."""
        return thread_names(self.pid)

    def thread_names(self):
        return list(self.threads().values())

    def application_threads(self):
        return sum(name.startswith("maypole-exec") for name in self.thread_names())

    def descriptors(self):
        return len(os.listdir(f"/proc/{self.pid}/fd"))

    def cpu_seconds(self):
        fields = pathlib.Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def open_files(pid):
    """Returns the files of a process's descriptors, by their numbers. The process may close some meanwhile."""
    found = {}
    for entry in pathlib.Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(OSError):
            found[int(entry.name)] = os.readlink(entry)
    return found


def thread_names(pid):
    """Returns the names of a process's threads, by their ids. A thread may end meanwhile."""
    names = {}
    for task in pathlib.Path(f"/proc/{pid}/task").iterdir():
        with contextlib.suppress(OSError):
            names[int(task.name)] = (task / "comm").read_text().strip()
    return names


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


def best(measure, is_good, rounds=6):
    """Measures until the result is good, and returns it. Other processes may use most of the processors, so the best
    round counts."""
    measured = []
    for _ in range(rounds):
        measured.append(measure())
        if is_good(*measured[-1]):
            return measured[-1]
    pytest.fail(f"the rounds: {measured}")


def halt(*pids):
    """Stops processes with SIGSTOP, and waits until every thread of them stands still. The signal alone does not mean
    that: a thread runs on until one of the process's threads has received it."""
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    eventually(lambda: all(stands_still(pid) for pid in pids), what="that every thread stands still")


def stands_still(pid):
    """Returns whether every thread of a process is stopped, or has ended."""
    states = set()
    for task in pathlib.Path(f"/proc/{pid}/task").iterdir():
        with contextlib.suppress(OSError):
            states.add((task / "stat").read_text().rpartition(")")[2].split()[0])
    return states <= {"T", "Z", "X"}
