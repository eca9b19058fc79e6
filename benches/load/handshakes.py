#!/usr/bin/env python3
"""Measures what a flood of TLS handshakes does to the other clients of a server: the figures of docs/tls.md.

    python3 benches/load/handshakes.py [--key ecdsa|rsa] [--rounds N] [--seconds N] [--rate N] [--nice N] [--unpinned]
        [--at-once N] [--within RATIO] [--plot FILE.svg]

A server listens with and without TLS. For each of the two, 8 connections that stay open ask for 13 bytes at a constant rate, and
the time of a request counts from the moment when it was due. The flood sends a first message of TLS (ClientHello) on one
connection after the other, waits for the server's part of the handshake, and leaves: this costs the flood next to nothing, and
the server a key exchange and a signature. 256 such connections are under way at any time, or as many as --at-once says. They
begin in one moment, and the times of the requests count from that moment on.

The server has the first core, and the clients the last one, unless --unpinned is given. A figure is the median of the rounds.
With --within, the status is 1 if the p99 beside the flood is more than RATIO times that alone, in the median of the rounds.
"""

import argparse
import contextlib
import json
import os
import pathlib
import re
import select
import socket
import ssl
import statistics
import subprocess
import sys
import tempfile
import time

import clients
import servers

REQUEST = b"GET /hello HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
ANSWER = b"Hello, World!"
KEPT = 8
FLOOD_ADDRESSES = 40
PERCENTILES = {"p50": 0.5, "p90": 0.9, "p99": 0.99, "p99.9": 0.999, "longest": 1.0}


def trusting():
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context


def client_hello():
    outgoing = ssl.MemoryBIO()
    session = trusting().wrap_bio(ssl.MemoryBIO(), outgoing, server_hostname="localhost")
    with contextlib.suppress(ssl.SSLWantReadError):
        session.do_handshake()
    return outgoing.read()


def flood(port, at_once):
    """Waits for a line. Then begins handshakes until the next one, and prints how many the server has replied to, and in what
    time."""
    hello, epoll, under_way, made, done = client_hello(), select.epoll(), {}, 0, 0
    epoll.register(0, select.EPOLLIN)
    print("ready", flush=True)
    os.read(0, 100)
    began = time.monotonic()
    while True:
        while len(under_way) < at_once:
            connection = clients.new_socket(made, 60, FLOOD_ADDRESSES)
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            connection.connect_ex(("127.0.0.1", port))
            under_way[connection.fileno()] = connection
            epoll.register(connection, select.EPOLLOUT)
            made += 1
        for fd, event in epoll.poll(1):
            if fd == 0:
                print(json.dumps({"handshakes": done, "seconds": time.monotonic() - began}), flush=True)
                return
            connection = under_way[fd]
            with contextlib.suppress(OSError):
                if event & select.EPOLLOUT and not event & (select.EPOLLERR | select.EPOLLHUP):
                    connection.send(hello)
                    epoll.modify(fd, select.EPOLLIN)
                    continue
                done += connection.recv(65536)[:1] == b"\x16"
            epoll.unregister(fd)
            under_way.pop(fd).close()


def probe(port, rate, seconds, is_secured):
    """Asks at a constant rate. Prints the times in milliseconds."""
    context, free, busy = trusting(), [], {}
    for _ in range(KEPT):
        connection = socket.create_connection(("127.0.0.1", port), 20)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection = context.wrap_socket(connection, server_hostname="localhost") if is_secured else connection
        connection.setblocking(False)
        free.append(connection)
    print("ready", flush=True)
    sys.stdin.readline()
    times, sent, count, began = [], 0, int(rate * seconds), time.perf_counter()
    received = dict.fromkeys((connection.fileno() for connection in free), b"")
    end = began + seconds + 20
    while len(times) < count and time.perf_counter() < end:
        now = time.perf_counter()
        while free and sent < count and began + sent / rate <= now:
            connection = free.pop()
            connection.send(REQUEST)
            busy[connection.fileno()] = (connection, began + sent / rate)
            sent += 1
        due = began + sent / rate - time.perf_counter() if free and sent < count else 1
        # epoll's times are whole milliseconds.
        for fd in select.select(list(busy), [], [], max(0, due))[0]:
            connection, since = busy[fd]
            with contextlib.suppress(ssl.SSLWantReadError, BlockingIOError):
                piece = connection.recv(65536)
                assert piece, "the server has closed a connection"
                received[fd] += piece
            if received[fd].endswith(ANSWER):
                times.append((time.perf_counter() - since) * 1000)
                received[fd] = b""
                del busy[fd]
                free.append(connection)
    print(json.dumps({"times": times, "missing": count - len(times)}), flush=True)


class Process:
    """One of the functions above in a process of its own."""

    def __init__(self, *arguments, cores, gives_way=False):
        def arrange():
            servers.child(cores)()
            if gives_way:
                # A lower priority would not do: a process of any priority may keep its core for a slice of milliseconds.
                os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))

        command = [sys.executable, os.path.abspath(__file__), *map(str, arguments)]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, preexec_fn=arrange)

    def go(self):
        self.process.stdin.write("\n")
        self.process.stdin.flush()

    def read(self):
        return self.process.stdout.readline()

    def end(self):
        self.process.stdin.close()
        self.process.wait(60)


@contextlib.contextmanager
def server(certificate, key, cores):
    command = [servers.MAYPOLE, "--bind", "http://127.0.0.1:0", "--bind", "https://127.0.0.1:0", "--certfile", certificate,
               "--keyfile", key, "--access-logfile", "none", "--backlog", "4096", "apps:hello"]
    process = subprocess.Popen(command, cwd=servers.HERE, stderr=subprocess.PIPE, text=True, preexec_fn=servers.child(cores))
    said = ""
    try:
        for line in process.stderr:
            said += line
            if found := re.search(r"listening on http://127\.0\.0\.1:(\d+), https://127\.0\.0\.1:(\d+)", line):
                # Nothing reads the log from here on, and what does not fit is lost.
                os.set_blocking(process.stderr.fileno(), False)
                yield int(found[1]), int(found[2])
                return
        sys.exit(f"the server does not start:\n{said}")
    finally:
        process.kill()
        process.wait()


def measure(ports, arguments, cores, flooding=None):
    """Returns the percentiles of requests without TLS and of those within TLS, in milliseconds. The flood begins with them."""
    both = {kind: Process("probe", port, arguments.rate, arguments.seconds, kind == "TLS", cores=cores)
            for kind, port in zip(("plain", "TLS"), ports)}
    for one in both.values():
        assert one.read() == "ready\n"
    for one in filter(None, [*both.values(), flooding]):
        one.go()
    found = {}
    for kind, one in both.items():
        result = json.loads(one.read())
        times = sorted(result["times"])
        assert times and not result["missing"], f"{result['missing']} of the requests have no response"
        found[kind] = {name: times[min(len(times) - 1, int(len(times) * share))] for name, share in PERCENTILES.items()}
        one.end()
    return found


def key_files(kind, directory):
    if kind == "ecdsa":
        files = pathlib.Path(servers.ROOT) / "tests" / "certificates"
        return files / "ecdsa.pem", files / "ecdsa.key"
    certificate, key = f"{directory}/rsa.pem", f"{directory}/rsa.key"
    subprocess.run(["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost", "-keyout", key,
                    "-out", certificate], check=True, capture_output=True)
    return certificate, key


def plot(path, table):
    import plot as style

    figure, axis = style.plt.subplots(figsize=(8, 3.4))
    bars = [(f"{kind}, {name}", calm[kind][name], loaded[kind][name]) for calm, loaded in [table] for kind in calm for name in ("p50", "p90", "p99")]
    places = range(len(bars))
    for offset, index, name, colour in ((0.2, 1, "alone", "#BBBBBB"), (-0.2, 2, "beside the flood", "#D55E00")):
        drawn = axis.barh([place + offset for place in places], [bar[index] for bar in bars], 0.38, label=name, color=colour)
        axis.bar_label(drawn, [f"{bar[index]:.2f}" for bar in bars], padding=4, fontsize=10)
    axis.set_yticks(list(places), [bar[0] for bar in bars])
    axis.invert_yaxis()
    axis.set_xlabel("milliseconds")
    axis.grid(axis="x", alpha=0.3)
    axis.legend(loc="lower right")
    axis.set_title("The time of a request, alone and beside a flood of handshakes")
    figure.savefig(path, metadata={"Date": None})


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--key", choices=["ecdsa", "rsa"], default="ecdsa")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=int, default=5)
    parser.add_argument("--rate", type=int, default=400, help="requests a second, for plain clients and for those with TLS")
    parser.add_argument("--nice", type=int, default=0, help="priority, such as -15 on a shared machine (root)")
    parser.add_argument("--unpinned", action="store_true")
    parser.add_argument("--at-once", type=int, default=256, help="how many connections of the flood are under way")
    parser.add_argument("--within", type=float, metavar="RATIO", help="fail if the flood makes the p99 longer than by this factor")
    parser.add_argument("--plot", metavar="FILE")
    arguments = parser.parse_args()
    servers.niceness = arguments.nice
    server_cores, client_cores = (servers.CORES, servers.CORES) if arguments.unpinned else (servers.SERVER_CORES, servers.CLIENT_CORES)
    rounds, rates = [], []
    with tempfile.TemporaryDirectory() as directory:
        certificate, key = key_files(arguments.key, directory)
        for _ in range(arguments.rounds):
            with server(certificate, key, server_cores) as ports:
                measure(ports, argparse.Namespace(rate=arguments.rate, seconds=1), client_cores)
                calm = measure(ports, arguments, client_cores)
                # The flood gives way to the probes: the server is measured, not the machine of the clients.
                flooding = Process("flood", ports[1], arguments.at_once, cores=client_cores, gives_way=True)
                assert flooding.read() == "ready\n"
                loaded = measure(ports, arguments, client_cores, flooding)
                flooding.go()
                told = json.loads(flooding.read())
                flooding.end()
            rounds.append((calm, loaded))
            rates.append(told["handshakes"] / told["seconds"])
            print(f"{rates[-1]:,.0f} handshakes/s: {json.dumps({'alone': calm, 'flood': loaded})}", file=sys.stderr, flush=True)
    middle = [{kind: {name: statistics.median(one[side][kind][name] for one in rounds) for name in PERCENTILES} for kind in ("plain", "TLS")}
              for side in (0, 1)]
    print(f"{arguments.key}, {statistics.median(rates):,.0f} handshakes/s, medians of {arguments.rounds} rounds of {arguments.seconds} s, "
          f"{arguments.rate} requests/s of each kind\n")
    print("| client | | p50, ms | p90, ms | p99, ms | p99.9, ms | longest, ms |\n|---|---|--:|--:|--:|--:|--:|")
    for kind in ("plain", "TLS"):
        for side, name in ((0, "alone"), (1, "beside the flood")):
            print(f"| {kind} | {name} | " + " | ".join(f"{middle[side][kind][each]:.2f}" for each in PERCENTILES) + " |")
    ratios = [max(loaded[kind]["p99"] / calm[kind]["p99"] for kind in loaded) for calm, loaded in rounds]
    print(f"\np99 beside the flood ÷ alone, the worse of the two: median {statistics.median(ratios):.2f}, worst {max(ratios):.2f}")
    if arguments.plot:
        plot(arguments.plot, middle)
    if arguments.within and statistics.median(ratios) > arguments.within:
        sys.exit(f"the flood makes the p99 longer than by a factor of {arguments.within:g}")


if __name__ == "__main__":
    if sys.argv[1:2] == ["flood"]:
        flood(int(sys.argv[2]), int(sys.argv[3]))
    elif sys.argv[1:2] == ["probe"]:
        probe(int(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]), sys.argv[5] == "True")
    else:
        main()
