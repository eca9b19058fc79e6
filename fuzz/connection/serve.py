"""Runs a real server under the fuzzers, and checks the conditions that hold for any input."""

import collections
import ctypes
import json
import os
import pathlib
import re
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time

import observe

PR_SET_PDEATHSIG = 1
HERE = pathlib.Path(__file__).resolve().parent
READY = re.compile(r"listening on .*?:(\d+)")
# The limit for starting and stopping on a busy machine.
PATIENCE = 60
# The bytes of a request and of a response in memory, and of a response in a file.
BUFFERS = (("4KiB", "4KiB", "64MiB"), ("64KiB", "64KiB", "64KiB"), ("1", "4KiB", "1"), ("0", "8KiB", "0"))
# No connection of the model waits this long.
TIMES = ("--header-timeout", "60s", "--body-timeout", "60s", "--keep-alive", "60s")
# The part of a run's time that is reserved for the end of the servers.
END_SECONDS = 10
# A client beside the hostile ones gets its response within this time. The limit allows for a busy machine.
POLITE_SECONDS = 10
# The maximum of threads that run the applications.
APPLICATION_THREADS = 6
# The allowed increase from before the first connection to the end. Threads of the applications may be idle.
DESCRIPTORS_MAX, THREADS_MAX, RSS_MIB_MAX = 8, APPLICATION_THREADS + 1, 64
# An entry of the log, and the errors that applications and clients cause.
ENTRY = re.compile(r"\[[^]]*\] \[\d+\] \[([A-Z]+)\] ")
ASKED_FOR = re.compile(r"RuntimeError: asked for$|^(?:OSError|ConnectionResetError|TimeoutError): |(?:less|shorter) than its Content-Length")


class Log:
    """Reads the error log while it is written. Keeps its last lines, and what must not be in it."""

    def __init__(self, stream):
        self.lines, self.entry, self.wrong = collections.deque(maxlen=400), [], []
        self.port = None
        self.ready = threading.Event()
        self.thread = threading.Thread(target=self.read, args=[stream], daemon=True)
        self.thread.start()

    def read(self, stream):
        for line in stream:
            self.lines.append(line)
            if not self.port and (ready := READY.search(line)):
                self.port = int(ready[1])
                self.ready.set()
            if ENTRY.match(line):
                self.judge()
            self.entry.append(line.rstrip("\n"))
        self.judge()
        self.ready.set()

    def judge(self):
        """Checks a complete entry."""
        entry, self.entry = [line for line in self.entry if line], []
        text = "\n".join(entry)
        level = ENTRY.match(text)
        bad = level and level[1] == "ERROR" and not ASKED_FOR.search(entry[-1])
        if bad or "panic" in text or "defect of the server" in text:
            self.wrong.append(f"the log says: {text[-1500:]}")


def end_with_parent():
    """Has the kernel end this process when the one that started it does."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def default_binary():
    return os.path.abspath(os.environ.get("MAYPOLE", HERE.parent.parent / "target" / "release" / "maypole"))


class Server:
    """A server for the fuzzers' applications."""

    def __init__(self, binary, limits, streamed, proxied, buffers, speaks_http2=False, times=TIMES):
        self.binary, self.streamed, self.proxied, self.buffers = binary, streamed, proxied, buffers
        request_buffer, response_buffer, response_spool = BUFFERS[buffers]
        self.name = f"{'streamed' if streamed else 'buffered'}{', PROXY' if proxied else ''}, {pathlib.Path(binary).parent.name}"
        self.directory = tempfile.TemporaryDirectory(prefix="maypole-fuzz-")
        command = [
            binary, "--bind", "127.0.0.1:0", "--chdir", str(HERE), *limits.arguments(),
            # The model knows no proxies, and no HTTP/2, which a connection with its preface would have.
            "--http", "auto" if speaks_http2 else "1", "--forwarded-headers", "none", "--threads", str(APPLICATION_THREADS),
            "--status-bind", f"unix:{self.directory.name}/status", *times,
            "--request-buffer", request_buffer, "--response-buffer", response_buffer, "--response-spool", response_spool,
            "--stream-requests", "always" if streamed else "never", "--proxy-protocol", "auto" if proxied else "off", "app",
        ]
        environment = {k: v for k, v in os.environ.items() if not k.startswith(("MAYPOLE", "LISTEN_"))}
        environment |= {"FUZZ_DIR": self.directory.name, "PYTHONDONTWRITEBYTECODE": "1", "RUST_BACKTRACE": "1"}
        if sys.prefix != sys.base_prefix:
            environment["VIRTUAL_ENV"] = sys.prefix
        self.process = subprocess.Popen(command, env=environment, start_new_session=True, stdin=subprocess.DEVNULL, preexec_fn=end_with_parent,
                                        stderr=subprocess.PIPE, text=True, errors="replace")
        self.log = Log(self.process.stderr)
        self.log.ready.wait(PATIENCE)
        if not self.log.port:
            raise RuntimeError(f"{binary} does not serve: {''.join(self.log.lines)}")
        self.address = ("127.0.0.1", self.log.port)
        self.get("/_seen")
        self.base, self.memory = self.figures(), None
        self.dead = False

    def wait(self, condition, seconds=PATIENCE):
        """Waits until `condition` is true. Returns its value, or None if the time is over or the process ended."""
        end = time.monotonic() + seconds
        while not (value := condition()):
            if time.monotonic() > end or self.process.poll() is not None:
                return value
            time.sleep(0.02)
        return value

    def client(self):
        """Opens a connection, and sends its PROXY header if the server requires one."""
        client = socket.create_connection(self.address, POLITE_SECONDS)
        client.settimeout(POLITE_SECONDS)
        if self.proxied:
            client.sendall(b"PROXY UNKNOWN\r\n")
        return client

    def get(self, path):
        with self.client() as client:
            return ask(client, path)

    def seen(self):
        """Returns what the application has seen since the last call."""
        return collections.Counter(seen.encode() for seen in json.loads(self.get("/_seen")))

    def polite(self):
        return Polite(self)

    def problems(self):
        """Returns what is wrong with the process, between two batches."""
        if self.dead:
            return []
        if self.process.poll() is not None:
            self.dead = True
            return [f"the server ended with {self.process.returncode}"]
        # The server keeps what the first connections need for later ones.
        self.memory = self.memory or self.figures()["RSS in MiB"]
        return []

    def figures(self):
        status = pathlib.Path(f"/proc/{self.process.pid}/status").read_text()
        return {
            "descriptors": len(os.listdir(f"/proc/{self.process.pid}/fd")),
            "threads": int(re.search(r"Threads:\s+(\d+)", status)[1]),
            "RSS in MiB": int(re.search(r"VmRSS:\s+(\d+)", status)[1]) // 1024,
        }

    def left(self):
        """Returns what has not returned to its value at the start."""
        figures = self.figures()
        allowed = {"descriptors": self.base["descriptors"] + DESCRIPTORS_MAX, "threads": self.base["threads"] + THREADS_MAX,
                   "RSS in MiB": (self.memory or self.base["RSS in MiB"]) + RSS_MIB_MAX}
        return [f"{figures[name]} {name} at the end, of {most} allowed" for name, most in allowed.items() if figures[name] > most]

    def stop(self):
        """Ends the server. Returns the faults of its end, and the log lines that must not be there."""
        problems = []
        if self.process.poll() is None:
            self.wait(lambda: not self.left(), END_SECONDS)
            problems += self.left()
            self.process.send_signal(signal.SIGTERM)
            try:
                code = self.process.wait(PATIENCE)
            except subprocess.TimeoutExpired:
                os.killpg(self.process.pid, signal.SIGKILL)
                code = self.process.wait()
            if code:
                problems.append(f"the server ended with {code}")
        self.log.thread.join(PATIENCE)
        problems += self.log.wrong
        self.directory.cleanup()
        return problems[:5]


def ask(client, path):
    """Sends a request on a connection that stays open. Returns the body of the response."""
    client.sendall(f"GET {path} HTTP/1.1\r\nHost: h\r\n\r\n".encode())
    received = b""
    while True:
        piece = client.recv(1 << 18)
        received += piece
        try:
            return observe.parse(received, 0, False, False)[0].body
        except observe.Incomplete:
            if not piece:
                raise ConnectionError(f"closed after {received[-300:]!r}") from None


class Polite:
    """A client that sends small requests in sequence, beside the hostile clients."""

    def __init__(self, server):
        self.server, self.problems, self.over = server, [], threading.Event()
        self.thread = threading.Thread(target=self.run)

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.over.set()
        self.thread.join()

    def run(self):
        try:
            with self.server.client() as client:
                while not self.over.wait(0.05):
                    body = ask(client, "/_polite")
                    if body != b"polite\n":
                        self.problems.append(f"the polite client got {body!r}")
        except (OSError, observe.Malformed) as error:
            self.problems.append(f"the polite client: {type(error).__name__}: {error}")
