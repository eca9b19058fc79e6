#!/usr/bin/env python3
"""Compares whole servers side by side, and writes a table.

    python3 benches/load/run.py --setup                    install the peers into target/bench-venv (BENCH_VENV names another place)
    python3 benches/load/run.py --quick                    the main scenarios, about 15 minutes
    python3 benches/load/run.py                            all scenarios, some hours
    python3 benches/load/run.py -s maypole,bjoern hello-c64 idle
    python3 benches/load/run.py --list

Every scenario runs in rounds, A B C A B C …, so that drift or a disturbance of the machine affects all servers. A figure is the
median of its rounds, a ratio the median of the rounds' ratios. Each server is one process on the first core, and its client runs
on the last core. Unpinned, both have all cores. Nothing is tuned. The results go to benches/load/runs/DATE-MACHINE/: results.json
with every measurement, and table.md. plot.py makes pictures of them.
"""

import argparse
import contextlib
import fcntl
import fnmatch
import json
import os
import re
import resource
import signal
import subprocess
import sys
import time

import clients
import report
import servers
from servers import Server

QUICK_SERVERS = "maypole,granian,bjoern,fastwsgi,calibrate,c-epoll"
QUICK_SCENARIOS = ["hello-c1", "hello-c8", "hello-c64", "hello-c1000", "hello-unpinned-c64", "echo-10k", "sleep-10ms", "cpu-1ms", "base"]
IDLE_CLIENTS = 10_000
SLOW_SECONDS_MIN = 6
# A server that has not responded to all slow readers by then never will.
SETTLE_SECONDS_MAX = 10
# A server that serves one request at a time needs 2.6 s for 256 requests of 10 ms.
WAIT_SECONDS_MIN = 5
SLOW_CLIENTS = 1_000

SCENARIOS = {}


def scenario(name, ceilings=False):
    """Registers a function of a server's name and a duration as a scenario. The ceilings serve hello only."""

    def add(function):
        SCENARIOS[name] = (function, ceilings)
        return function

    return add


def throughput(application, connections, path="/hello", pinned=True, body_bytes=0, waits=False, fields=(), tls=False):
    def measure(name, seconds):
        if waits:
            seconds = max(seconds, WAIT_SECONDS_MIN)
        with Server(name, application, pinned, tls) as server:
            # If the application waits, a server with one thread would be busy with the warm-up requests for long.
            clients.wrk(server, min(connections, 8) if waits else connections, 1, path, pinned, body_bytes, fields=fields)
            result = clients.wrk(server, connections, seconds, path, pinned, body_bytes, fields=fields)
            return result | {"rss_kib": server.rss_kib()}

    return measure


for count in (1, 4, 8, 16, 64, 1000):
    scenario(f"hello-c{count}", ceilings=True)(throughput("apps:hello", count))
for count in (1, 64, 1000):
    scenario(f"hello-unpinned-c{count}", ceilings=True)(throughput("apps:hello", count, pinned=False))
for count in (1, 64, 1000):
    scenario(f"hello-tls-c{count}")(throughput("apps:hello", count, tls=True))
scenario("hello-tls-unpinned-c64")(throughput("apps:hello", 64, pinned=False, tls=True))
scenario("file-tls-10m")(throughput("apps:file", 8, tls=True))
scenario("echo-10k")(throughput("apps:echo", 64, body_bytes=10 << 10))
scenario("echo-1m")(throughput("apps:echo", 8, body_bytes=1 << 20))
scenario("stream")(throughput("apps:stream", 64))
scenario("file-10m")(throughput("apps:file", 8))
scenario("json")(throughput("apps:json_environ", 64))
scenario("flask")(throughput("apps:flask_app", 64))
scenario("cpu-1ms")(throughput("apps:cpu_1ms", 64))
scenario("cpu-1ms-unpinned")(throughput("apps:cpu_1ms", 64, pinned=False))
for count in (16, 64):
    scenario(f"close-unpinned-c{count}")(throughput("apps:hello", count, pinned=False, fields=["Connection: close"]))
scenario("sleep-10ms")(throughput("apps:sleep_10ms", 256, waits=True))
for wait in (0, 1, 3, 10, 30, 100):
    scenario(f"wait-{wait}ms")(throughput("apps:sleep_query", 256, path=f"/hello?{wait}", waits=True))


@scenario("idle", ceilings=True)
def idle(name, seconds):
    """Measures throughput at 16 connections with and without idle clients, and the cost of an idle client."""
    with Server(name, "apps:hello") as server:
        clients.wrk(server, 16, 1)
        before = clients.wrk(server, 16, seconds)
        rss_before = server.rss_kib()
        with clients.Clients("idle", server.port, IDLE_CLIENTS) as idlers:
            cpu, began = server.cpu_seconds(), time.monotonic()
            time.sleep(2)
            idle_cpu = (server.cpu_seconds() - cpu) / (time.monotonic() - began)
            rss = server.rss_kib()
            alive = idlers.ask()["alive"]
            after = clients.wrk(server, 16, seconds, timeout=30)
            return after | {
                "answered": idlers.made["answered"],
                "alive": alive,
                "alive_after": idlers.ask()["alive"],
                "kib_per_client": round((rss - rss_before) / alive, 3) if alive else None,
                "idle_cpu": round(idle_cpu, 3),
                "rps_before": before["rps"],
                "ratio": round(after["rps"] / before["rps"], 3) if before["rps"] else None,
            }


# Fields that browsers and proxies send.
MANY_FIELDS = [
    "User-Agent: Mozilla/5.0 (X11; Linux x86_64; rv:139.0) Gecko/20100101 Firefox/139.0",
    "Accept: text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8",
    "Accept-Language: en-US,en;q=0.5",
    "Accept-Encoding: gzip, deflate, br, zstd",
    "Referer: https://www.example.org/other",
    "Cache-Control: no-cache",
    "Pragma: no-cache",
    "Upgrade-Insecure-Requests: 1",
    "Sec-Fetch-Dest: document",
    "Sec-Fetch-Mode: navigate",
    "Sec-Fetch-Site: same-origin",
    "Sec-Fetch-User: ?1",
    "Priority: u=0, i",
    "DNT: 1",
    "Sec-CH-UA: \"Chromium\";v=\"130\", \"Not?A_Brand\";v=\"99\"",
    "Sec-CH-UA-Mobile: ?0",
    "Sec-CH-UA-Platform: \"Linux\"",
    "Origin: https://www.example.org",
    "If-None-Match: \"5f2c-61b8a4\"",
    "If-Modified-Since: Sat, 01 Nov 2025 10:00:00 GMT",
    "Authorization: Bearer " + "0123456789abcdef" * 4,
    "X-Forwarded-For: 203.0.113.7, 198.51.100.2",
    "X-Forwarded-Proto: https",
    "X-Forwarded-Host: www.example.org",
    "X-Real-IP: 203.0.113.7",
    "X-Request-ID: 7b0c1c9e-8a44-4a53-9c1c-3a5f0e0f4b11",
    "X-Csrf-Token: " + "fedcba9876543210" * 2,
    "Traceparent: 00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
    "Cookie: session=" + "0123456789abcdef" * 8 + "; theme=dark; language=en; _ga=GA1.2.1234567890.1234567890",
]


@scenario("headers")
def headers(name, seconds):
    """Measures the cost of a further header field: 30 fields compared with Host alone."""
    with Server(name, "apps:hello") as server:
        clients.wrk(server, 64, 1)
        few = clients.wrk(server, 64, seconds)
        many = clients.wrk(server, 64, seconds, fields=MANY_FIELDS)
        dearer = many["cpu_us"] - few["cpu_us"] if many["cpu_us"] and few["cpu_us"] else None
        return many | {
            "rps_before": few["rps"],
            "cpu_us_before": few["cpu_us"],
            "ns_per_field": round(dearer * 1000 / len(MANY_FIELDS)) if dearer is not None else None,
        }


def settle(slow_ones, reading):
    """Waits until every reader has begun to read. Until then the server is busy with their requests."""
    end = time.monotonic() + SETTLE_SECONDS_MAX
    time.sleep(2)
    while slow_ones.ask()["started"] < reading and time.monotonic() < end:
        time.sleep(0.5)
    time.sleep(1)


def slow(dripping, reading, path):
    def measure(name, seconds):
        seconds = max(seconds, SLOW_SECONDS_MIN)
        with Server(name, "apps:mixed") as server:
            clients.wrk(server, 16, 1)
            before = clients.wrk(server, 16, seconds)
            rss_before = server.rss_kib()
            with clients.Clients("slow", server.port, dripping, reading, path) as slow_ones:
                settle(slow_ones, reading)
                after = clients.wrk(server, 16, seconds, timeout=30)
                alive = slow_ones.ask()
                return after | {
                    "dripping_alive": alive["dripping"],
                    "reading_alive": alive["reading"],
                    "reading_started": alive["started"],
                    "growth_mib": round((server.rss_kib() - rss_before) / 1024, 1),
                    "rps_before": before["rps"],
                    "p99_us_before": before["p99_us"],
                    "ratio": round(after["rps"] / before["rps"], 3) if before["rps"] else None,
                }

    return measure


scenario("slow-both")(slow(SLOW_CLIENTS, SLOW_CLIENTS, "/big"))
scenario("slow-read8")(slow(0, SLOW_CLIENTS // 5, "/big8"))


def open_loop(share):
    """Measures latency at a constant rate: a share of the throughput just measured for the same server."""

    def measure(name, seconds):
        with Server(name, "apps:hello") as server:
            clients.wrk(server, 64, 1)
            capacity = clients.wrk(server, 64, 2)["rps"]
            result = clients.open_loop(server, max(1, round(capacity * share)), 64, seconds)
            latency = result.pop("latency_us")
            pacing = result.pop("pacing_us")
            return {
                "rps": result["answered_per_second"],
                "capacity": capacity,
                "backlog": result["backlog"],
                "p50_us": latency["p50"],
                "p99_us": latency["p99"],
                "p999_us": latency["p99.9"],
                "max_us": latency["max"],
                "pacing_p99_us": pacing["p99"],
                "client_busy": result["busy"],
                "errors": result["refused"] + result["broken"] + result["unanswered"],
            }

    return measure


for percent in (50, 80, 120):
    scenario(f"open-{percent}", ceilings=True)(open_loop(percent / 100))


@scenario("base")
def base(name, _):
    """Measures memory and the time to the first response."""
    with Server(name, "apps:hello") as server:
        clients.wrk(server, 1, 1)
        return {"start_ms": round(server.start_seconds * 1000, 1), "rss_kib": server.rss_kib()}


@contextlib.contextmanager
def alone():
    """Allows one measurement at a time on this machine, among all processes with the same BENCH_LOCK."""
    with open(os.environ.get("BENCH_LOCK", os.path.join(servers.WORK, "lock")), "a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def machine_name():
    model = "unknown"
    with contextlib.suppress(OSError), open("/proc/cpuinfo") as file:
        model = next((line.split(":", 1)[1] for line in file if line.startswith("model name")), model)
    model = re.sub(r"\(.*?\)|@.*|\b(cpu|processor|[\d.]+ghz)\b", " ", model.lower())
    return re.sub(r"[^a-z0-9]+", "-", f"{model} {os.cpu_count()} cores").strip("-")


def commit():
    command = ["git", "-C", servers.ROOT, "describe", "--always", "--dirty"]
    with contextlib.suppress(OSError, subprocess.CalledProcessError):
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    return ""


def choose(patterns, names):
    """Returns the names that match, in the order of the patterns."""
    chosen = []
    for pattern in patterns:
        found = fnmatch.filter(names, pattern)
        if not found:
            sys.exit(f"nothing is called {pattern}")
        chosen += [name for name in found if name not in chosen]
    return chosen


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("scenarios", nargs="*", help="names or patterns; all by default")
    parser.add_argument("-s", "--servers", help="names or patterns, with commas; all by default")
    parser.add_argument("-r", "--rounds", type=int, help="5 by default, 3 when quick")
    parser.add_argument("-d", "--duration", type=int, help="seconds of each measurement: 5 by default, 2 when quick")
    parser.add_argument("--quick", action="store_true", help="the main servers and scenarios")
    parser.add_argument("--setup", action="store_true", help="install the peers, then end unless scenarios are named")
    parser.add_argument("--list", action="store_true", help="servers and scenarios")
    parser.add_argument("--add", action="append", default=[], metavar="NAME=COMMAND", help="another server, with {port} and {application}")
    parser.add_argument("--machine", default=machine_name(), help="what the machine is called in the results")
    parser.add_argument("--output", help="directory of the results")
    parser.add_argument("--nice", type=int, default=0, help="priority of server and client, such as -15 on a shared machine (root)")
    return parser.parse_args()


def run(arguments, names, scenarios, output):
    rounds = arguments.rounds or (3 if arguments.quick else 5)
    seconds = arguments.duration or (2 if arguments.quick else 5)
    results = {
        "machine": arguments.machine,
        "kernel": os.uname().release,
        "commit": commit(),
        "date": time.strftime("%Y-%m-%d %H:%M"),
        "command": "run.py " + " ".join(sys.argv[1:]),
        "rounds": rounds,
        "seconds": seconds,
        "records": [],
    }
    for scenario_name in scenarios:
        measure, ceilings = SCENARIOS[scenario_name]
        taking_part = [name for name in names if ceilings or name not in servers.CEILINGS]
        for number in range(rounds):
            for name in list(taking_part):
                record = {"scenario": scenario_name, "server": name, "round": number}
                try:
                    with alone():
                        record |= measure(name, seconds)
                except (RuntimeError, OSError, subprocess.SubprocessError, ValueError) as error:
                    record["error"] = str(error)[-500:]
                    taking_part.remove(name)
                results["records"].append(record)
                print(" ".join(f"{key}={value}" for key, value in record.items() if value is not None), file=sys.stderr, flush=True)
        # Written after every scenario, so that an interrupted run keeps its results.
        with open(os.path.join(output, "results.json"), "w") as file:
            # One record per line, so that a diff is readable.
            records = ",\n".join(json.dumps(record) for record in results["records"])
            head = json.dumps({key: value for key, value in results.items() if key != "records"}, indent=1)
            file.write(head.rstrip("}\n") + ',\n "records": [\n' + records + "\n]}\n")
        with open(os.path.join(output, "table.md"), "w") as file:
            file.write(report.table(results))
    print(report.table(results))
    print(f"in {os.path.relpath(output)}", file=sys.stderr)


def main():
    arguments = parse_arguments()
    for added in arguments.add:
        name, command = added.split("=", 1)
        servers.SERVERS[name] = command
    servers.niceness = arguments.nice
    if arguments.list:
        print("servers:  ", " ".join(servers.SERVERS), "\nscenarios:", " ".join(SCENARIOS))
        return
    if arguments.setup:
        servers.set_up()
        if not arguments.scenarios and not arguments.quick:
            return
    servers.prepare()
    default = QUICK_SERVERS if arguments.quick else "*"
    names = choose((arguments.servers or default).split(","), servers.SERVERS)
    scenarios = choose(arguments.scenarios or (QUICK_SCENARIOS if arguments.quick else ["*"]), SCENARIOS)
    for name in list(names):
        if reason := servers.missing(name):
            print(f"without {name}: {reason}", file=sys.stderr)
            names.remove(name)
    if not names:
        sys.exit("no server is left; run it with --setup, and cargo build --release --examples --bins")
    output = arguments.output or os.path.join(servers.HERE, "runs", f"{time.strftime('%Y-%m-%d')}-{arguments.machine}")
    while not arguments.output and os.path.exists(output):
        output = re.sub(r"(?:\.(\d+))?$", lambda match: f".{int(match[1] or 1) + 1}", output, count=1)
    os.makedirs(output, exist_ok=True)
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))
    # SIGTERM to this program also stops its server.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    run(arguments, names, scenarios, output)


if __name__ == "__main__":
    main()
