#!/usr/bin/env python3
"""Measures how workers share connections, and what that costs: the figures of docs/explain/performance.md#workers.

    python3 benches/load/spread.py [--program PROGRAM] [--workers N] [--rounds N] [--seconds N] [--nice N] [--output FILE.json]

Three services take turns: one process, N workers, and N workers apart. These are N services of one worker each that accept from
the same socket, so no worker knows of the others: each accepts whenever it looks first, as without any spreading.

The first table has the connections of each worker, in the most uneven round. The second one has connections per second if each
request gets a connection of its own, and their ratios: the medians of the rounds. The client shares the processors of this
machine. The third one has the time of such a connection while a function in C keeps the GIL of one worker. close_client.c
needs a C compiler.
"""

import argparse
import contextlib
import json
import os
import pathlib
import re
import resource
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parents[1]
sys.path.insert(0, str(ROOT / "tests"))

from scoreboard import Scoreboard  # noqa: E402

PATIENCE = 60
BACKLOG = 4096
REQUEST = b"GET /hello HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
# The numbers of clients.
KEPT = (16, 64, 1000)
CLOSED = (16, 64, 1000)
STUCK_CLIENTS = 64
# How long one worker keeps its GIL.
STUCK_SECONDS = 10
# After this time the others know it: its heartbeat looks once a second while no call runs.
KNOWN_SECONDS = 1.5
SERVICES = ("one process", "workers", "workers apart")


class Service:
    """Supervisors, or a process without one, that accept from one socket."""

    def __init__(self, program, kind, workers, address):
        self.address = address
        family = socket.AF_UNIX if isinstance(address, str) else socket.AF_INET
        with socket.socket(family) as listener:
            if family == socket.AF_INET:
                listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(address)
            listener.listen(BACKLOG)
            self.address = listener.getsockname()
            options = {"one process": [], "workers": ["-w", str(workers)], "workers apart": ["-w", "1"]}[kind]
            count = workers if kind == "workers apart" else 1
            command = [program, *options, "--access-logfile", "none", "--bind", f"fd://{listener.fileno()}", "apps:keep_gil"]
            self.processes = [
                subprocess.Popen(command, cwd=HERE, pass_fds=[listener.fileno()], stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
                for _ in range(count)
            ]
        self.workers = 0 if kind == "one process" else workers

    def __enter__(self):
        for process in self.processes:
            said = ""
            for line in process.stderr:
                said += line
                if re.search("listening on ", line):
                    break
            else:
                self.__exit__()
                raise RuntimeError(f"the service has ended: {said}")
        self.boards = [Scoreboard.of(process.pid) for process in self.processes] if self.workers else []
        return self

    def __exit__(self, *_):
        for process in self.processes:
            process.send_signal(signal.SIGTERM)
        for process in self.processes:
            process.stderr.read()
            process.wait(PATIENCE)

    def client(self):
        made = socket.socket(socket.AF_UNIX if isinstance(self.address, str) else socket.AF_INET)
        made.settimeout(PATIENCE)
        made.connect(self.address)
        return made

    def connections(self, count):
        """Waits until `count` connections are accepted. Returns how many each worker has, the most first."""
        end = time.monotonic() + PATIENCE
        while True:
            each = [slot["connections"] for board in self.boards for slot in board.serving()]
            if sum(each) == count:
                return sorted(each, reverse=True)
            if time.monotonic() > end:
                raise RuntimeError(f"{sum(each)} of {count} connections are accepted")
            time.sleep(0.002)


def at_once(service, clients, count):
    for _ in range(count):
        clients.enter_context(service.client())


def one_by_one(service, clients, count):
    for _ in range(count):
        client = clients.enter_context(service.client())
        client.sendall(REQUEST)
        while b"Hello" not in client.recv(4096):
            pass


def spread(service, arrive, count):
    """Returns how many connections each worker has got."""
    with contextlib.ExitStack() as clients:
        arrive(service, clients, count)
        each = service.connections(count)
    service.connections(0)
    return each


def close_client(service, clients, seconds, folder):
    """Returns connections per second and their times, with a connection for each request."""
    address = service.address if isinstance(service.address, str) else str(service.address[1])
    done = subprocess.run([f"{folder}/close_client", address, str(clients), str(seconds)], capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


def beside_stuck(service, seconds, folder):
    """Returns what `close_client` does while one worker keeps its GIL."""
    with service.client() as client:
        client.sendall(REQUEST.replace(b"/hello", f"/hello?{STUCK_SECONDS}".encode()))
        time.sleep(KNOWN_SECONDS)
        # It ends before the worker answers again.
        return close_client(service, STUCK_CLIENTS, seconds, folder)


def round_of(arguments, folder, unix):
    """Measures each service once. Returns the spreads and the rates, each by service and case."""
    spreads, rates = {}, {}
    for kind in SERVICES:
        address = f"{folder}/s" if unix else ("127.0.0.1", 0)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(f"{folder}/s")
        with Service(arguments.program, kind, arguments.workers, address) as service:
            if service.workers:
                for arrive, name in ((at_once, "at once"), (one_by_one, "one after another")):
                    for count in KEPT:
                        spreads[kind, f"{count} {name}"] = spread(service, arrive, count)
            for count in CLOSED:
                close_client(service, count, 0.5, folder)
                rates[kind, count] = close_client(service, count, arguments.seconds, folder)
            if service.workers:
                rates[kind, "stuck"] = beside_stuck(service, min(arguments.seconds, STUCK_SECONDS / 2), folder)
    return spreads, rates


def show(rounds, kind):
    """Prints the tables of one kind of socket."""
    spreads = [spreads for spreads, _ in rounds]
    print(f"\n{kind}: connections of each worker\n\n| clients | workers apart | workers |\n|---|--:|--:|")
    for case in dict.fromkeys(case for _, case in spreads[0]):
        cells = [max((each[service, case] for each in spreads), key=max) for service in ("workers apart", "workers")]
        print(f"| {case} | " + " | ".join(" : ".join(map(str, each)) for each in cells) + " |")
    rates = [rates for _, rates in rounds]
    names = " | ".join(SERVICES)
    print(f"\n{kind}: connections per second\n\n| clients | {names} | workers ÷ one process | workers ÷ workers apart | errors |\n|---|--:|--:|--:|--:|--:|--:|")
    for count in CLOSED:
        rate = {service: [each[service, count]["rps"] for each in rates] for service in SERVICES}
        cells = [f"{statistics.median(rate[service]):,.0f}" for service in SERVICES]
        for other in ("one process", "workers apart"):
            cells.append(f"{statistics.median(a / b for a, b in zip(rate['workers'], rate[other])):.2f}")
        errors = sum(each[service, count]["errors"] for each in rates for service in SERVICES)
        print(f"| {count} | " + " | ".join(cells) + f" | {errors} |")
    print(f"\n{kind}: time of a connection, {STUCK_CLIENTS} clients, milliseconds\n\n| | median | p99 | longest | longest without an end | per second |\n|---|--:|--:|--:|--:|--:|")
    for case, name in ((STUCK_CLIENTS, "all workers are free"), ("stuck", "one keeps its GIL")):
        for service in SERVICES[1:]:
            middle = {key: statistics.median(each[service, case][key] for each in rates) for key in ("p50_us", "p99_us", "max_us", "open_us", "rps")}
            times = " | ".join(f"{middle[key] / 1000:,.1f}" for key in ("p50_us", "p99_us", "max_us", "open_us"))
            print(f"| {service}, {name} | {times} | {middle['rps']:,.0f} |")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--program", default=str(ROOT / "target/release/maypole"))
    parser.add_argument("--workers", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=2, help="the length of each measurement of connections per second")
    parser.add_argument("--nice", type=int, default=0, help="priority of servers and clients, such as -10 on a shared machine (root)")
    parser.add_argument("--output", help="a file for all figures")
    arguments = parser.parse_args()
    arguments.program = os.path.abspath(arguments.program)
    if arguments.nice:
        os.setpriority(os.PRIO_PROCESS, 0, arguments.nice)
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run(["cc", "-O2", "-o", f"{folder}/close_client", HERE / "close_client.c"], check=True)
        figures = {}
        for unix, kind in ((False, "TCP"), (True, "unix socket")):
            figures[kind] = [round_of(arguments, folder, unix) for _ in range(arguments.rounds)]
            show(figures[kind], kind)
    if arguments.output:
        rows = [
            {"socket": kind, "round": number, "service": service, "case": str(case), "value": value}
            for kind, rounds in figures.items()
            for number, both in enumerate(rounds)
            for part in both
            for (service, case), value in part.items()
        ]
        pathlib.Path(arguments.output).write_text("[\n" + ",\n".join(map(json.dumps, rows)) + "\n]\n")


if __name__ == "__main__":
    main()
