#!/usr/bin/env python3
"""Measures servers with WebSockets: the figures of docs/howto/resting-websockets.md.

    python3 benches/load/sockets.py [--counts NUMBERS] [--rounds N] [--seconds N] [--idle N] [--nice N] [--output FILE.json]
                                    [--plot FILE.svg]
    python3 benches/load/sockets.py --draw FILE.json --plot FILE.svg

The application is the same for all: sockets_app.py. The servers take turns. For each one and each number of sockets: how many messages of
16 bytes come back per second, if each socket sends the next one after the echo of the last, and how long an echo takes
(echo_client.c). For Maypole, also the memory, the threads and the descriptors of idle sockets. Clients and server share all processors.
BENCH_VENV needs Flask, flask-sock and gunicorn. --plot needs matplotlib.
"""

import argparse
import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time

import clients
import servers
from report import described, hand_out, save_figure
from subscribers import numbers, servers_limit

BIN = servers.VENV + "/bin/"
# name → the path of the application, and the most sockets that it is measured with: those of flask-sock hold a thread each.
THREADS = 256
KINDS = {
    "maypole, resting": ("/rest", 20_000),
    "maypole, flask-sock": ("/block", THREADS),
    "gunicorn gthread, flask-sock": ("/block", THREADS),
    "werkzeug, flask-sock": ("/block", THREADS),
}
servers.SERVERS |= {
    "maypole, resting": servers.MAYPOLE + " --bind 127.0.0.1:{port} {application}",
    "maypole, flask-sock": servers.MAYPOLE + f" --werkzeug-socket --threads {THREADS} --bind 127.0.0.1:{{port}} {{application}}",
    "gunicorn gthread, flask-sock": BIN + f"gunicorn -w 1 -b 127.0.0.1:{{port}} --backlog 4096 --log-level critical -k gthread"
                                          f" --threads {THREADS} --worker-connections 20000 {{application}}",
    "werkzeug, flask-sock": BIN + "python sockets_app.py {port}",
}
MESSAGE_BYTES = 16


def echo(server, path, count, seconds, folder):
    before = server.cpu_seconds()
    command = [f"{folder}/echo_client", str(server.port), path, str(count), str(seconds), str(MESSAGE_BYTES)]
    done = subprocess.run(command, capture_output=True, text=True, preexec_fn=servers.child(set(servers.CORES)))
    if done.returncode:
        raise RuntimeError(f"{server.name}, {count} sockets: {done.stderr}")
    result = json.loads(done.stdout)
    messages = result["per_second"] * seconds
    result["cpu_us"] = round((server.cpu_seconds() - before) / messages * 1e6, 1) if messages else None
    return result


def idle(count):
    """Returns what idle WebSockets cost: the growth of the server's anonymous memory, divided by their number."""
    with servers.Server("maypole, resting", "sockets_app:app", pinned=False) as server:
        with clients.Clients("sockets", server.port, 200, "/rest"):
            pass
        time.sleep(2)
        before = numbers(server, "RssAnon")
        with clients.Clients("sockets", server.port, count, "/rest") as crowd:
            # Timers and trimming have had their turn.
            time.sleep(3)
            return {"open": crowd.made["open"], "threads": numbers(server, "Threads"),
                    "kib_each": round((numbers(server, "RssAnon") - before) / crowd.made["open"], 2)}


def middle(rounds, key):
    found = [one[key] for one in rounds if one[key] is not None]
    return statistics.median(found) if found else None


def table(report):
    counts = report["counts"]
    lines = ["| server | " + " | ".join(f"{count:,}" for count in counts) + " |", "|---" * (len(counts) + 1) + "|"]
    for name, by_count in report["results"].items():
        cells = []
        for count in counts:
            rounds = by_count.get(str(count))
            cells.append(f"{middle(rounds, 'per_second'):,.0f} ({middle(rounds, 'p99_us') / 1000:.1f} ms; {middle(rounds, 'cpu_us'):.1f} µs)"
                         if rounds else "-")
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + f"\n\nidle: {report['idle']}"


def draw(report, path):
    """Draws the messages per second of each server by the number of sockets."""
    import plot

    colours = dict(zip(KINDS, ("#D55E00", "#E69F00", "#0072B2", "#9AA5B1")))
    counts = report["counts"]
    figure, axis = plot.plt.subplots(figsize=(9, 4))
    for at, (name, by_count) in enumerate(report["results"].items()):
        values = [middle(by_count[str(count)], "per_second") if str(count) in by_count else 0 for count in counts]
        places = [place + (at - 1.5) * 0.2 for place in range(len(counts))]
        bars = axis.bar(places, values, 0.19, label=name, color=colours[name])
        axis.bar_label(bars, [f"{value:,.0f}" if value else "" for value in values], padding=2, fontsize=7)
    axis.set_xticks(range(len(counts)), [f"{count:,} socket{'s' * (count > 1)}" for count in counts])
    axis.set_title("Messages that come back per second")
    axis.yaxis.set_major_formatter(plot.THOUSANDS)
    axis.legend(frameon=False, fontsize=9)
    save_figure(figure, report, path)


def measure(options):
    results = {name: {} for name in KINDS}
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run(["cc", "-O2", "-o", f"{folder}/echo_client", os.path.join(servers.HERE, "echo_client.c")], check=True)
        for number in range(options.rounds):
            for name, (path, most) in KINDS.items():
                with servers.Server(name, "sockets_app:app", pinned=False) as server:
                    for count in options.counts:
                        if count <= most:
                            result = echo(server, path, count, options.seconds, folder)
                            results[name].setdefault(str(count), []).append(result)
                            print(f"round {number + 1}: {name}, {count} sockets: {result}", file=sys.stderr, flush=True)
    return described(options, results, counts=options.counts, idle=idle(options.idle))


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--counts", type=lambda text: [int(one) for one in text.split(",")], default=[1, 16, 64, 1000],
                        help="measure with these numbers of sockets: 1,16,64,1000")
    parser.add_argument("--rounds", type=int, default=3, help="measure each server this often")
    parser.add_argument("--seconds", type=int, default=5, help="send messages for this long")
    parser.add_argument("--idle", type=int, default=10_000, help="measure the memory of this many idle sockets")
    parser.add_argument("--nice", type=int, default=0, help="run at this niceness")
    parser.add_argument("--output", help="write all results to this file")
    parser.add_argument("--plot", help="draw a picture into this file")
    parser.add_argument("--draw", help="measure nothing, and draw the results of this file")
    options = parser.parse_args()
    if options.draw:
        return draw(json.loads(pathlib.Path(options.draw).read_text()), options.plot)
    servers.niceness = options.nice
    servers_limit()
    servers.prepare()
    report = measure(options)
    print(table(report))
    hand_out(options, report, draw)
    return None


if __name__ == "__main__":
    main()
