#!/usr/bin/env python3
"""Holds the cost of a small request to what it was: instructions and system calls, counted by callgrind.

    benches/guard.py BINARY                    compares with benches/guard.json; more than 5 % above it is a failure
    MAYPOLE_BLESS=1 benches/guard.py BINARY    writes what it has counted to benches/guard.json

Counts repeat within one per cent where times on a busy machine do not within twenty. They differ by compiler, CPython and
C library, so there are figures for each; where there are none, this says so and passes. callgrind lets one thread run
at a time, so the counts say little about how threads wait for each other; the kernel's own work is not counted.

This file is also the application that is served.
"""

import collections
import glob
import json
import os
import pathlib
import platform
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading

FIGURES = pathlib.Path(__file__).with_name("guard.json")
TOLERANCE = 0.05
# Each is counted on its own and the cheapest taken: other load makes the threads take turns more often, which only adds.
SLICES = 7
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
# name: the request, on how many keep-alive connections at once, and how often in a slice.
PATTERNS = {"one": (SMALL, 1, 800), "sixteen": (SMALL, 16, 60), "sixteen browsers": (BROWSER, 16, 60)}

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

    def __init__(self, binary, directory):
        self.directory = directory
        environment = {name: value for name, value in os.environ.items()
                       if not name.startswith(("MAYPOLE", "LISTEN_", "PYTHON")) and name not in ("PORT", "VIRTUAL_ENV")}
        environment |= {"PYTHONHASHSEED": "0", "PYTHONDONTWRITEBYTECODE": "1"}
        self.process = subprocess.Popen(
            ["valgrind", "--tool=callgrind", "--separate-threads=yes", "--fair-sched=yes", "--collect-systime=usec", "--dump-line=no",
             "--compress-strings=no", "--compress-pos=no", f"--callgrind-out-file={directory}/out",
             binary, "--bind", "127.0.0.1:0", "--chdir", os.path.dirname(os.path.abspath(__file__)), "guard:application"],
            env=environment, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, start_new_session=True)
        self.said = []
        self.patience = threading.Timer(PATIENCE * 3, self.kill)
        self.patience.start()

    def __enter__(self):
        for line in self.process.stderr:
            self.said.append(line)
            if match := re.search(r"listening on http://127\.0\.0\.1:(\d+)", line):
                self.port = int(match[1])
                # So that the pipe never fills.
                threading.Thread(target=lambda: self.said.extend(self.process.stderr), daemon=True).start()
                return self
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
        """The cost of a request in each slice: instructions by part, and system calls by name."""
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
        """What was counted since the last time, by request. (callgrind's command to zero forgets the system calls.)"""
        done = subprocess.run(["vgdb", f"--pid={self.process.pid}", "dump"], capture_output=True, text=True, timeout=PATIENCE)
        if done.returncode:
            sys.exit(f"vgdb: {done.stderr}")
        instructions, calls = collections.Counter(), collections.Counter()
        for path in glob.glob(f"{self.directory}/out.*-*"):
            thread, by_object, by_function = read(path)
            for name, count in by_object.items():
                instructions[thread if thread == "other threads" else f"{thread}, {name}"] += count / requests
            for name, count in by_function.items():
                calls[name] += count / requests
            os.unlink(path)
        return instructions, calls


def drive(connections, request, times):
    """Sends a request on every connection, and waits for all answers before the next ones."""
    for _ in range(times):
        for connection in connections:
            connection.sendall(request)
        for connection in connections:
            answer = receive(connection)
            if not (answer.startswith(b"HTTP/1.1 200 OK\r\n") and answer.endswith(b"\r\n\r\nHello, World!")):
                sys.exit(f"a wrong answer: {answer!r}")


def receive(connection):
    """One answer; it has a Content-Length."""
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
    """A thread's dump: what kind of thread it is, its own instructions by object, its system calls by function."""
    by_object, by_function = collections.Counter(), collections.Counter()
    where, function, inclusive, serves = "", "", False, False
    with open(path) as lines:
        for line in lines:
            if line.startswith("fn="):
                function = line[3:].strip()
                serves |= "maypole::connection::" in function
            elif line.startswith("ob="):
                where = part(line[3:].strip())
            elif line.startswith("calls="):
                # The next line has what was called in it.
                inclusive = True
            elif line[:1].isdigit():
                numbers = [int(number) for number in line.split()[1:]]
                if not inclusive:
                    by_object[where] += numbers[0]
                    if len(numbers) > 1 and numbers[1]:
                        by_function[re.sub(r"^_+|@.*", "", function)] += numbers[1]
                inclusive = False
    kind = "executor" if by_object["libpython"] * 10 > by_object.total() else "runtime" if serves else "other threads"
    return kind, by_object, by_function


def part(path):
    name = os.path.basename(path)
    for known in ("libpython", "libc.", "maypole"):
        if name.startswith(known):
            return known.rstrip(".")
    return "elsewhere"


def summarise(slices):
    """The cheapest slice: what it costs together, and each part."""
    instructions, calls = min(slices, key=lambda slice: slice[0].total())
    figures = {"instructions": round(instructions.total()), "clock reads": round(calls["clock_gettime"], 1)}
    figures["other system calls"] = round(calls.total() - calls["clock_gettime"], 1)
    return figures | {name: round(count) for name, count in sorted(instructions.items()) if count >= 1}


def compiler(binary):
    """The rustc that made it, as it says itself."""
    found = re.search(rb"rustc version ([\w.-]+)", pathlib.Path(binary).read_bytes())
    return f"rustc {found[1].decode()}" if found else "an unknown rustc"


def versions(server):
    with server.connect() as connection:
        connection.sendall(SMALL.replace(b" / ", b" /versions "))
        return receive(connection).partition(b"\r\n\r\n")[2].decode()


def change(figure, before):
    return f"{(figure - before) / before:+.1%}" if before else ""


def compare(pattern, figures, before):
    """Says how a pattern's figures differ; answers what is too much, and what is much less."""
    above, below = [], []
    for name, figure in figures.items():
        old = before.get(name)
        print(f"  {name:22} {figure:>9,}" + (f"   was {old:>9,}  {change(figure, old)}" if old is not None else ""))
        # The others depend on how the threads take turns, or are only a part.
        if name == "instructions" and old:
            if figure > old * (1 + TOLERANCE):
                above.append(f"{pattern}: {figure:,} {name}, {change(figure, old)}")
            elif figure < old * (1 - TOLERANCE):
                below.append(f"{pattern}: {figure:,} {name}, {change(figure, old)}")
    return above, below


def dump(figures):
    """JSON with a pattern a line, so that a difference can be read."""
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
    committed = json.loads(FIGURES.read_text()) if FIGURES.exists() else {}
    known = committed.get(key, {})
    summaries = {name: summarise(slices) for name, slices in counted.items()}
    above, below = [], []
    print(f"guard: per request, {key}")
    for name, slices in counted.items():
        print(f" {name}")
        for into, found in zip((above, below), compare(name, summaries[name], known.get(name, {}))):
            into += found
        calls = sum((calls for _, calls in slices), collections.Counter())
        print("  calls: " + ", ".join(f"{call} {count / SLICES:.2f}" for call, count in calls.most_common() if count / SLICES >= 0.05))
    if os.environ.get("MAYPOLE_BLESS") == "1":
        FIGURES.write_text(dump(committed | {key: summaries}))
        print(f"guard: written to {FIGURES}")
    elif not known:
        print(f"guard: no figures for these versions; `make guard-bless` writes them to {FIGURES.name}:\n{dump({key: summaries})}")
    elif above:
        sys.exit("guard: dearer by more than 5 %:\n  " + "\n  ".join(above) + "\nWhere it is worth that, `make guard-bless` and say why.")
    else:
        for line in below:
            print(f"guard: cheaper, `make guard-bless` so that it stays so: {line}")
        print("guard: all is well")


if __name__ == "__main__":
    main()
