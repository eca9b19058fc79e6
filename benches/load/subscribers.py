#!/usr/bin/env python3
"""Measures servers with 10,000 subscribers of server-sent events: the figures of docs/explain/performance.md#subscribers.

    python3 benches/load/subscribers.py [--servers NAMES] [--count N] [--rounds N] [--seconds N] [--nice N]
                                        [--every SECONDS] [--output FILE.json] [--plot FILE.svg]

The application is Flask's, and the same for all: subscribers_app.py, with `maypole.sse`. The servers take turns. For each one:
how many subscribers of N get the stream, its threads and memory with them, how long a broadcast takes until the last one has it,
and the throughput of 16 other clients before and beside them: while the subscribers wait, and with a broadcast every few seconds. Clients and server share all processors. BENCH_VENV needs Flask,
the package maypole and the other servers. --plot needs matplotlib.
"""

import argparse
import contextlib
import json
import os
import pathlib
import select
import statistics
import subprocess
import sys
import tempfile
import threading
import time

import clients
import servers
from report import described, hand_out, save_figure

APPLICATION = "subscribers_app:app"
NAMES = "maypole,granian64,gunicorn-gthread64,waitress64"
REQUEST = b"GET /events HTTP/1.1\r\nHost: 127.0.0.1\r\nAccept: text/event-stream\r\n\r\n"
# How many connections are being opened at once.
OPENING_MAX = 100
# After this time without a further open stream, or a further event, there will be none.
QUIET_SECONDS = 5
BROADCASTS = 5
BUSY_CLIENTS = 16


class Subscribers:
    """Many connections with a stream each. (In a process of its own.)"""

    def __init__(self, port, count):
        self.port, self.count = port, count
        self.epoll = select.epoll()
        self.connections = {}
        self.open = set()

    def connect(self):
        made = clients.new_socket(len(self.connections), 2, 8)
        made.connect_ex(("127.0.0.1", self.port))
        self.connections[made.fileno()] = made
        self.epoll.register(made, select.EPOLLOUT)

    def subscribe(self):
        """Opens all connections. Returns when each has its first block, or no more come."""
        began = last = time.monotonic()
        while len(self.open) < self.count and time.monotonic() - last < QUIET_SECONDS:
            opening = len(self.connections) - len(self.open)
            # A server without a free thread does not respond: then each further one is on its own.
            is_stuck = time.monotonic() - last > 0.2
            for _ in range(min(self.count - len(self.connections), OPENING_MAX if is_stuck else OPENING_MAX - opening)):
                self.connect()
            for descriptor, events in self.epoll.poll(0.1):
                if events & select.EPOLLOUT:
                    with contextlib.suppress(OSError):
                        self.connections[descriptor].send(REQUEST)
                    self.epoll.modify(descriptor, select.EPOLLIN)
                elif b"\n\n" in self.receive(descriptor) and descriptor not in self.open:
                    self.open.add(descriptor)
                    last = time.monotonic()
        return {"open": len(self.open), "seconds": round(last - began, 2)}

    def receive(self, descriptor):
        try:
            return self.connections[descriptor].recv(65536)
        except OSError:
            return b""

    def event(self):
        """Waits for an event, whose data is the time when it was sent. Returns when the last one came."""
        times, last = {}, time.monotonic()
        while len(times) < len(self.open) and time.monotonic() - last < QUIET_SECONDS:
            for descriptor, _ in self.epoll.poll(0.1):
                data = self.receive(descriptor).partition(b"data: ")[2].partition(b"\n")[0]
                if not data:
                    continue
                last = time.monotonic()
                times[descriptor] = last - float(data)
        found = sorted(times.values())
        return {"reached": len(found), "half_s": found[len(found) // 2] if found else None, "last_s": found[-1] if found else None}


def run_clients(port, count):
    servers_limit()
    subscribers = Subscribers(port, count)
    clients.say(**subscribers.subscribe())
    for _ in sys.stdin:
        clients.say(**subscribers.event())


def servers_limit():
    """Raises the limit of descriptors to its maximum. The servers inherit it."""
    import resource

    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))


@contextlib.contextmanager
def connected(port, count):
    """Runs the clients in a process of their own, and gives a function that reads a line of theirs."""
    process = subprocess.Popen([sys.executable, os.path.abspath(__file__), "clients", str(port), str(count)], stdin=subprocess.PIPE,
                               stdout=subprocess.PIPE, text=True, preexec_fn=servers.child(set(servers.CORES)))

    def read(order=""):
        if order:
            process.stdin.write(order + "\n")
            process.stdin.flush()
        return json.loads(process.stdout.readline())

    try:
        yield read
    finally:
        process.kill()
        process.communicate()


def numbers(server, name):
    """Returns the sum of a number in /proc/PID/status over the server's processes."""
    total = 0
    for pid in server.pids():
        with contextlib.suppress(OSError):
            total += int(pathlib.Path(f"/proc/{pid}/status").read_text().partition(f"\n{name}:")[2].split()[0])
    return total


def broadcast(orders, read):
    """Sends an event, and waits until all have it."""
    with open(orders, "w") as file:
        file.write(f"{time.monotonic()}\n")
    return read("event")


@contextlib.contextmanager
def broadcasts(orders, read, every):
    """Sends an event every few seconds, the first one after half of the time, and gives their times."""
    times, ends = [], threading.Event()

    def send():
        due = time.monotonic() + every / 2
        while not ends.wait(max(0, due - time.monotonic())):
            times.append(broadcast(orders, read))
            due += every

    thread = threading.Thread(target=send)
    thread.start()
    try:
        yield times
    finally:
        ends.set()
        thread.join()


def measure(name, count, seconds, every, orders):
    with servers.Server(name, APPLICATION, pinned=False) as server:
        alone = clients.wrk(server, BUSY_CLIENTS, seconds, pinned=False, timeout=2)
        before = numbers(server, "RssAnon")
        with connected(server.port, count) as read:
            result = read()
            # Timers and trimming have had their turn.
            time.sleep(1)
            result["kib_each"] = round((numbers(server, "RssAnon") - before) / max(1, result["open"]), 2)
            result["threads"] = numbers(server, "Threads")
            beside = clients.wrk(server, BUSY_CLIENTS, seconds, pinned=False, timeout=2)
            with broadcasts(orders, read, every) as meanwhile:
                during = clients.wrk(server, BUSY_CLIENTS, 2 * every, pinned=False, timeout=2)
            times = [broadcast(orders, read) for _ in range(BROADCASTS)]
        result |= {"reached": min(one["reached"] for one in times), "half_s": middle(times, "half_s"), "last_s": middle(times, "last_s"),
                   "alone_rps": alone["rps"], "beside_rps": beside["rps"], "ratio": round(beside["rps"] / alone["rps"], 3),
                   "during_rps": during["rps"], "during_ratio": round(during["rps"] / alone["rps"], 3), "during_last_s": middle(meanwhile, "last_s"),
                   "alone_p99_us": alone["p99_us"], "during_p99_us": during["p99_us"], "during_max_us": during["max_us"],
                   "alone_cpu_us": alone["cpu_us"], "beside_cpu_us": beside["cpu_us"]}
    return result


def middle(results, key):
    found = [result[key] for result in results if result[key] is not None]
    return round(statistics.median(found), 4) if found else None


def table(results):
    keys = ("open", "reached", "threads", "kib_each", "half_s", "last_s", "alone_rps", "beside_rps", "ratio", "during_rps",
            "during_ratio", "during_last_s", "alone_p99_us", "during_p99_us", "alone_cpu_us", "beside_cpu_us")
    lines = ["| server | " + " | ".join(keys) + " |", "|---" * (len(keys) + 1) + "|"]
    for name, rounds in results.items():
        lines.append(f"| {name} | " + " | ".join(str(middle(rounds, key)) for key in keys) + " |")
    return "\n".join(lines)


def draw(report, path):
    """Draws how many subscribers each server has, and its throughput beside them."""
    import plot

    plt = plot.plt
    names = list(report["results"])
    figure, axes = plt.subplots(1, 2, figsize=(11, 1.4 + 0.45 * len(names)), sharey=True)
    labels = [plot.label(name) for name in names]
    colours = [plot.COLOURS["maypole"] if name == "maypole" else "#9AA5B1" for name in names]
    for axis, key, title in ((axes[0], "reached", f"Subscribers reached, of {report['count']:,}"),
                             (axes[1], "beside_rps", "Requests/s of 16 other clients")):
        values = [middle(report["results"][name], key) or 0 for name in names]
        bars = axis.barh(labels, values, color=colours)
        axis.bar_label(bars, [f"{value:,.0f}" for value in values], padding=4)
        axis.set_title(title)
        axis.set_xlim(right=max(values) * 1.2)
        axis.xaxis.set_major_formatter(plot.THOUSANDS)
        axis.xaxis.set_major_locator(plot.MaxNLocator(5))
    axes[0].invert_yaxis()
    save_figure(figure, report, path)


def main():
    if sys.argv[1:2] == ["clients"]:
        return run_clients(int(sys.argv[2]), int(sys.argv[3]))
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--servers", default=NAMES, help=f"take part: {NAMES}")
    parser.add_argument("--count", type=int, default=10_000, help="connect this many subscribers")
    parser.add_argument("--rounds", type=int, default=3, help="measure each server this often")
    parser.add_argument("--seconds", type=int, default=5, help="send other requests for this long")
    parser.add_argument("--every", type=int, default=5, help="send an event every SECONDS beside other requests")
    parser.add_argument("--nice", type=int, default=0, help="run at this niceness")
    parser.add_argument("--output", help="write all results to this file")
    parser.add_argument("--plot", help="draw a picture into this file")
    options = parser.parse_args()
    servers.niceness = options.nice
    servers_limit()
    servers.prepare()
    results = {}
    with tempfile.TemporaryDirectory() as directory:
        orders = os.environ["BENCH_ORDERS"] = os.path.join(directory, "orders")
        os.mkfifo(orders)
        for number in range(options.rounds):
            for name in options.servers.split(","):
                results.setdefault(name, []).append(measure(name, options.count, options.seconds, options.every, orders))
                print(f"round {number + 1}: {name}: {results[name][-1]}", file=sys.stderr, flush=True)
    print(table(results))
    hand_out(options, described(options, results, count=options.count), draw)
    return None


if __name__ == "__main__":
    main()
