#!/usr/bin/env python3
"""Checks that a small request costs no more than before, in instructions counted by callgrind.

    benches/guard.py BINARY                    compares with benches/guard.json; more than 3 % above it is a failure
    MAYPOLE_BLESS=1 benches/guard.py BINARY    writes what it has counted to benches/guard.json

Instructions are of two kinds, by the function that they belong to. The **work** of a request is done on the runtime's
thread and on the executor's: reading, parsing, the call, encoding, writing. It repeats within 1 %, also on a busy
machine, and its limit is 3 % more. **Waiting** is the rest: the GIL, locks, clocks, the scheduler, threads that only
look. Its amount depends on how the threads take turns, so its limit is loose: 50 % of the work.

The same pattern in a worker under a supervisor has figures of its own: it also shows its load and notes its requests.

The counts differ by compiler, CPython and C library, so guard.json has figures for each combination. Without figures
the check says so and passes. The kernel's own work is not counted.

This file is also the application that the server runs.
"""

import collections
import glob
import json
import os
import pathlib
import platform
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading

FIGURES = pathlib.Path(__file__).with_name("guard.json")
TOLERANCE = 0.03
# The largest cost of waiting, as a share of the work.
WAITING_MAX = 0.5
# Each slice is counted separately, and the median is taken.
SLICES = 7
# Functions that wait, wake, or choose the next thread. How often they run depends on how the threads take turns.
WAITING = re.compile(
    r"lock_contended|pthread_|lll_lock|take_gil|drop_gil|SaveThread|RestoreThread|MustExit|_Py_HandlePending"
    r"|clock_gettime|Timespec|condvar|[:<]park|unpark|sched_yield|syscall|epoll"
    r"|may::|may_queue|generator::|StackBox|swap_registers|run_coroutine|scheduler|bulk_pop|SegQueue|count_raw"
    r"|begin_short_backtrace|Shared<C>|sit_down|end_idle|executor::|timer::|sys::|Deferred|flush_wakes|Waker")
# What only a worker does. The name of its runner would match the pattern above.
OF_WORKER = re.compile(r"NotingRunner|scoreboard::")
PATIENCE = 60

SMALL = b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nUser-Agent: guard\r\nAccept: */*\r\n\r\n"
BROWSER = (
    b"GET /some/path?name=value HTTP/1.1\r\n"
    b"Host: www.example.org\r\n"
    b"User-Agent: Mozilla/5.0 (X11; Linux x86_64; rv:139.0) Gecko/20100101 Firefox/139.0\r\n"
    b"Accept: text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8\r\n"
    b"Accept-Language: en-US,en;q=0.5\r\n"
    b"Accept-Encoding: gzip, deflate, br, zstd\r\n"
    b"Referer: https://www.example.org/other\r\n"
    b"Connection: keep-alive\r\n"
    b"Cookie: session=0123456789abcdef0123456789abcdef; theme=dark\r\n"
    b"Upgrade-Insecure-Requests: 1\r\n"
    b"Sec-Fetch-Dest: document\r\n"
    b"Sec-Fetch-Mode: navigate\r\n"
    b"Priority: u=0, i\r\n\r\n"
)
# name: the request, the number of keep-alive connections, and the rounds in a slice.
PATTERNS = {"one": (SMALL, 1, 800), "sixteen": (SMALL, 16, 60), "sixteen browsers": (BROWSER, 16, 60)}
# The same in a worker.
WORKER_PATTERNS = {"sixteen, in a worker": PATTERNS["sixteen"]}
# Counts the program that is named in its place.
CALLGRIND = ["valgrind", "--tool=callgrind", "--separate-threads=yes", "--fair-sched=yes", "--dump-line=no", "--compress-strings=no",
             "--compress-pos=no"]

FIELDS = [("Content-Type", "text/plain"), ("Content-Length", "13")]


def application(environ, start_response):
    if environ["PATH_INFO"] == "/versions":
        body = f"CPython {platform.python_version()}, glibc {platform.libc_ver()[1]}, {platform.machine()}".encode()
        start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", str(len(body)))])
        return [body]
    start_response("200 OK", list(FIELDS))
    return [b"Hello, World!"]


class Counted:
    """A server under callgrind."""

    def __init__(self, binary, directory, options=()):
        self.directory = directory
        self.start([*CALLGRIND, f"--callgrind-out-file={directory}/out", binary, *options])

    def start(self, program):
        environment = {name: value for name, value in os.environ.items()
                       if not name.startswith(("MAYPOLE", "LISTEN_", "PYTHON")) and name not in ("PORT", "VIRTUAL_ENV")}
        environment |= {"PYTHONHASHSEED": "0", "PYTHONDONTWRITEBYTECODE": "1"}
        here = os.path.dirname(os.path.abspath(__file__))
        self.process = subprocess.Popen(
            [*program, "--bind", "127.0.0.1:0", "--chdir", here, "guard:application"],
            env=environment, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, start_new_session=True)
        self.counted = self.process.pid
        self.said = []
        self.patience = threading.Timer(PATIENCE * 3, self.kill)
        self.patience.start()

    def __enter__(self):
        self.port = int(self.wait_for(r"listening on http://127\.0\.0\.1:(\d+)"))
        self.begin()
        # The thread keeps the pipe from filling up.
        threading.Thread(target=lambda: self.said.extend(self.process.stderr), daemon=True).start()
        return self

    def begin(self):
        """Does what remains until the process that is counted serves."""

    def wait_for(self, pattern):
        """Waits for a line of the log. Returns the first group of the pattern."""
        for line in self.process.stderr:
            self.said.append(line)
            if match := re.search(pattern, line):
                return match[1]
        self.__exit__()
        sys.exit("the server does not start under valgrind:\n" + "".join(self.said))

    def __exit__(self, *_):
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            self.kill()
        self.patience.cancel()

    def kill(self):
        os.killpg(self.process.pid, signal.SIGKILL)

    def connect(self):
        made = socket.create_connection(("127.0.0.1", self.port), PATIENCE)
        made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return made

    def count(self, request, connections, times):
        """Returns the cost of a request in each slice."""
        opened = [self.connect() for _ in range(connections)]
        drive(opened, request, times)
        self.take(1)
        slices = []
        for _ in range(SLICES):
            drive(opened, request, times)
            slices.append(self.take(connections * times))
        for connection in opened:
            connection.close()
        return slices

    def take(self, requests):
        """Returns the instructions per request since the last dump, by part."""
        done = subprocess.run(["vgdb", f"--pid={self.counted}", "dump"], capture_output=True, text=True, timeout=PATIENCE)
        if done.returncode:
            sys.exit(f"vgdb: {done.stderr}")
        parts = collections.Counter()
        for path in glob.glob(f"{self.directory}/out.*-*"):
            for name, count in read(path).items():
                parts[name] += count / requests
            os.unlink(path)
        return parts


class CountedWorker(Counted):
    """A worker under callgrind. Its supervisor is not counted.

    The supervisor starts the program by the symbolic link that it was started by. After a reload, the link names callgrind.
    """

    def __init__(self, binary, directory):
        self.directory = directory
        self.link = pathlib.Path(directory, "maypole")
        self.link.symlink_to(binary)
        self.start([str(self.link), "--workers", "1", "--worker-start-timeout", str(PATIENCE)])
        words = shlex.join([*CALLGRIND, f"--callgrind-out-file={directory}/out", binary])
        pathlib.Path(directory, "callgrind").write_text(f'#!/bin/sh\nexec {words} "$@"\n')

    def begin(self):
        self.link.unlink()
        script = pathlib.Path(self.directory, "callgrind")
        script.chmod(0o755)
        self.link.symlink_to(script)
        self.process.send_signal(signal.SIGHUP)
        self.wait_for("(SIGHUP): reloading")
        self.counted = int(self.wait_for(r"worker 1 \(pid (\d+)\) serves"))
        self.wait_for("(reloaded): 1 worker")


def drive(connections, request, times):
    """Sends a request on every connection, and waits for all responses before the next round."""
    for _ in range(times):
        for connection in connections:
            connection.sendall(request)
        for connection in connections:
            answer = receive(connection)
            if not (answer.startswith(b"HTTP/1.1 200 OK\r\n") and answer.endswith(b"\r\n\r\nHello, World!")):
                sys.exit(f"a wrong answer: {answer!r}")


def receive(connection):
    """Receives one response, which must have a Content-Length."""
    answer = b""
    while True:
        piece = connection.recv(65536)
        if not piece:
            return answer
        answer += piece
        head, end, body = answer.partition(b"\r\n\r\n")
        length = re.search(rb"(?i)\r\ncontent-length: *(\d+)", head)
        if end and length and len(body) >= int(length[1]):
            return answer


def read(path):
    """Reads a thread's dump: its instructions by part, for instance `executor, libpython`, or `waiting`."""
    parts, waiting = collections.Counter(), 0
    where, function, inclusive, serves = "", "", False, False
    with open(path) as lines:
        for line in lines:
            if line.startswith("fn="):
                function = line[3:].strip()
                serves |= "maypole::connection::" in function
            elif line.startswith("ob="):
                where = part(line[3:].strip())
            elif line.startswith("calls="):
                # The next line has the inclusive cost of the called function.
                inclusive = True
            elif line[:1].isdigit():
                if not inclusive:
                    count = int(line.split()[1])
                    if WAITING.search(function) and not OF_WORKER.search(function):
                        waiting += count
                    else:
                        parts[where] += count
                inclusive = False
    if parts["libpython"] * 10 > parts.total():
        kind = "executor"
    elif serves:
        kind = "runtime"
    else:
        return {"waiting": parts.total() + waiting}
    return {f"{kind}, {name}": count for name, count in parts.items()} | {"waiting": waiting}


def part(path):
    name = os.path.basename(path)
    for known in ("libpython", "libc.", "maypole"):
        if name.startswith(known):
            return known.rstrip(".")
    return "elsewhere"


def summarise(slices):
    """Returns the cost of the slice with the median work, as a total and by part."""
    def work(parts):
        return parts.total() - parts["waiting"]

    middle = sorted(slices, key=work)[len(slices) // 2]
    return {"work": round(work(middle))} | {name: round(count) for name, count in sorted(middle.items()) if count >= 1}


def compiler(binary):
    """Returns the version of the rustc that built the binary, read from the binary."""
    found = re.search(rb"rustc version ([\w.-]+)", pathlib.Path(binary).read_bytes())
    return f"rustc {found[1].decode()}" if found else "an unknown rustc"


def versions(server):
    with server.connect() as connection:
        connection.sendall(SMALL.replace(b" / ", b" /versions "))
        return receive(connection).partition(b"\r\n\r\n")[2].decode()


def change(figure, before):
    return f"{(figure - before) / before:+.1%}" if before else ""


def compare(pattern, figures, before):
    """Prints how a pattern's figures differ. Returns those above their limits, and those much below."""
    above, below = [], []
    for name, figure in figures.items():
        old = before.get(name)
        print(f"  {name:22} {figure:>9,}" + (f"   was {old:>9,}  {change(figure, old)}" if old is not None else ""))
    work, old, waiting = figures["work"], before.get("work"), figures["waiting"]
    if old and work > old * (1 + TOLERANCE):
        above.append(f"{pattern}: {work:,} instructions of work, {change(work, old)}")
    elif old and work < old * (1 - TOLERANCE):
        below.append(f"{pattern}: {work:,} instructions of work, {change(work, old)}")
    if waiting > work * WAITING_MAX:
        above.append(f"{pattern}: {waiting:,} instructions of waiting, {waiting / work:.0%} of the work")
    return above, below


def dump(figures):
    """Returns JSON with one pattern per line, so that a diff is readable."""
    keys = []
    for key, patterns in sorted(figures.items()):
        lines = ",\n".join(f"  {json.dumps(name)}: {json.dumps(counts)}" for name, counts in patterns.items())
        keys.append(f" {json.dumps(key)}: {{\n{lines}\n }}")
    return "{\n" + ",\n".join(keys) + "\n}\n"


def main():
    binary = os.path.abspath(sys.argv[1])
    if not shutil.which("valgrind") or not shutil.which("vgdb"):
        print("guard: SKIPPED, valgrind is missing")
        return
    with tempfile.TemporaryDirectory() as directory, Counted(binary, directory) as server:
        key = f"{versions(server)}, {compiler(binary)}"
        counted = {name: server.count(*pattern) for name, pattern in PATTERNS.items()}
    with tempfile.TemporaryDirectory() as directory, CountedWorker(binary, directory) as server:
        counted |= {name: server.count(*pattern) for name, pattern in WORKER_PATTERNS.items()}
    committed = json.loads(FIGURES.read_text()) if FIGURES.exists() else {}
    known = committed.get(key, {})
    summaries = {name: summarise(slices) for name, slices in counted.items()}
    above, below = [], []
    print(f"guard: per request, {key}")
    for name in counted:
        print(f" {name}")
        for into, found in zip((above, below), compare(name, summaries[name], known.get(name, {}))):
            into += found
    if os.environ.get("MAYPOLE_BLESS") == "1":
        FIGURES.write_text(dump(committed | {key: summaries}))
        print(f"guard: written to {FIGURES}")
    elif not known:
        print(f"guard: no figures for these versions; `make guard-bless` writes them to {FIGURES.name}:\n{dump({key: summaries})}")
    elif above:
        sys.exit(f"guard: dearer by more than {TOLERANCE:.0%}:\n  " + "\n  ".join(above) + "\nWhere it is worth that, `make guard-bless` and say why.")
    else:
        for line in below:
            print(f"guard: cheaper, `make guard-bless` so that it stays so: {line}")
        print("guard: all is well")


if __name__ == "__main__":
    main()
