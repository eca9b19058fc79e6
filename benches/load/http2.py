#!/usr/bin/env python3
"""Measures a small application over HTTP/2 without TLS, beside granian: the figures of docs/http2.md#beside-granian.

    python3 benches/load/http2.py [--rounds N] [--seconds N] [--nice N] [--output FILE.json]

h2load (Debian's nghttp2-client) has 64 connections, with one request at a time and with ten. The servers take turns. A server has a
processor of its own, and so has the client. BENCH_VENV needs granian.
"""

import argparse
import json
import os
import pathlib
import platform
import re
import statistics
import subprocess
import sys

import servers

CONNECTIONS = 64
STREAMS = (1, 10)
COMMANDS = {
    "maypole": f"{servers.MAYPOLE} --bind 127.0.0.1:{{port}} --access-logfile none {{application}}",
    "granian": servers._GRANIAN.replace("--http 1", "--http auto") + " {application}",
}


def load(server, streams, seconds):
    """Loads a server. Returns its requests per second, and its processor time per request in microseconds."""
    command = ["h2load", "-c", str(CONNECTIONS), "-m", str(streams), "-D", str(seconds), f"http://127.0.0.1:{server.port}/"]
    before = server.cpu_seconds()
    done = subprocess.run(command, capture_output=True, text=True, preexec_fn=servers.child(servers.CLIENT_CORES))
    cpu = server.cpu_seconds() - before
    counts = re.search(r"(\d+) failed, (\d+) errored", done.stdout)
    good = re.search(r"status codes: (\d+) 2xx, 0 3xx, 0 4xx, 0 5xx", done.stdout)
    if not good or not int(good[1]) or int(counts[1]) or int(counts[2]) or "Application protocol: h2c" not in done.stdout:
        raise RuntimeError(f"{server.name}: {done.stdout[-800:]}{done.stderr[-300:]}")
    return {"rps": int(good[1]) / seconds, "cpu_us": cpu / int(good[1]) * 1e6}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=int, default=4)
    parser.add_argument("--nice", type=int, default=0)
    parser.add_argument("--output")
    arguments = parser.parse_args()
    servers.niceness = arguments.nice
    os.makedirs(servers.WORK, exist_ok=True)
    servers.SERVERS.update(COMMANDS)
    records = []
    for number in range(arguments.rounds):
        for name in COMMANDS:
            with servers.Server(name, "apps:hello", pinned=True) as server:
                for streams in STREAMS:
                    load(server, streams, 1)
                    record = {"server": name, "streams": streams, "round": number, **load(server, streams, arguments.seconds)}
                    records.append(record)
                    print(f"{name:10} {streams:3} {record['rps']:10.0f}/s {record['cpu_us']:8.1f} us", file=sys.stderr, flush=True)
    print("| server | requests at a time | requests per second | processor time |\n|---|--:|--:|--:|")
    for name in COMMANDS:
        for streams in STREAMS:
            rounds = [record for record in records if (record["server"], record["streams"]) == (name, streams)]
            rps, cpu = (statistics.median(record[what] for record in rounds) for what in ("rps", "cpu_us"))
            print(f"| {name} | {streams} | {rps:,.0f} | {cpu:.1f} µs |")
    if arguments.output:
        results = {"machine": platform.machine(), "kernel": platform.release(), "connections": CONNECTIONS,
                   "seconds": arguments.seconds, "records": records}
        pathlib.Path(arguments.output).write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
