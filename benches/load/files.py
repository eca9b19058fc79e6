#!/usr/bin/env python3
"""Measures how servers send files: the figures of docs/static.md#beside-other-servers.

    python3 benches/load/files.py [--servers NAMES] [--rounds N] [--seconds N] [--nice N] [--output FILE.json] [--plot FILE.svg]

Each server sends files of 1 KiB, 10 KiB and 1 MiB over 64 keep-alive connections of h2load (Debian's nghttp2-client). The servers
take turns. A server with one process has a processor of its own, and so has the client; with two processes they share both. For
each: requests per second, and the processor time of the server per request. Then the memory of an idle server, and the time from
its start to its first response. BENCH_VENV needs granian; nginx is Debian's, with its own settings for files: `sendfile on` and
`tcp_nopush on`. --plot needs matplotlib.
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
import tempfile

import servers

SIZES = {"1k": 1 << 10, "10k": 10 << 10, "1m": 1 << 20}
CONNECTIONS = 64
NAMES = "maypole-files,maypole-static,nginx,granian-files,maypole-static-w2,nginx-w2,granian-files-w2"
LABELS = {
    "maypole-files": "maypole files DIR",
    "maypole-static": "maypole --static, 1 process",
    "maypole-static-w2": "maypole --static, 2 workers",
    "nginx": "nginx, 1 worker",
    "nginx-w2": "nginx, 2 workers",
    "granian-files": "granian, 1 worker",
    "granian-files-w2": "granian, 2 workers",
}
NGINX = """
daemon off; worker_processes {workers}; pid {directory}/pid; error_log {directory}/error.log;
events {{ worker_connections 768; }}
http {{
    access_log off; sendfile on; tcp_nopush on; types_hash_max_size 2048; keepalive_requests 1000000000;
    include /etc/nginx/mime.types; default_type application/octet-stream;
    client_body_temp_path {directory}/a; proxy_temp_path {directory}/b; fastcgi_temp_path {directory}/c;
    uwsgi_temp_path {directory}/d; scgi_temp_path {directory}/e;
    server {{ listen 127.0.0.1:{port}; location /static/ {{ alias {root}/; }} }}
}}
"""


def commands(root, directory):
    """Returns the command lines. Each serves the directory `root` below /static/."""
    nginx = f"{sys.executable} {os.path.abspath(__file__)} --nginx {{port}}"
    granian = servers._GRANIAN.replace("--workers 1", "--workers {workers}") + f" --static-path-route /static --static-path-mount {root} {{application}}"
    static = f"{servers.MAYPOLE} --static /static={root} --bind 127.0.0.1:{{port}} {{application}}"
    return {
        "maypole-files": f"{servers.MAYPOLE} files {directory}/site --bind 127.0.0.1:{{port}}",
        "maypole-static": static,
        "maypole-static-w2": static + " -w 2",
        "nginx": f"{nginx} 1 {root} {directory}",
        "nginx-w2": f"{nginx} 2 {root} {directory}",
        "granian-files": granian.replace("{workers}", "1"),
        "granian-files-w2": granian.replace("{workers}", "2"),
    }


def become_nginx(port, workers, root, directory):
    """Makes this process nginx."""
    place = pathlib.Path(tempfile.mkdtemp(prefix="nginx-", dir=directory))
    place.chmod(0o755)
    (place / "nginx.conf").write_text(NGINX.format(port=port, workers=workers, root=root, directory=place))
    os.execvp("nginx", ["nginx", "-c", str(place / "nginx.conf")])


def load(server, name, seconds, cores):
    """Loads a server with requests for one file."""
    command = ["h2load", "--h1", "-c", str(CONNECTIONS), "-t", "1", "-D", str(seconds), f"http://127.0.0.1:{server.port}/static/{name}.txt"]
    before = server.cpu_seconds()
    done = subprocess.run(command, capture_output=True, text=True, preexec_fn=servers.child(cores))
    cpu = server.cpu_seconds() - before
    counts = re.search(r"requests: (\d+) total.* (\d+) succeeded, (\d+) failed, (\d+) errored", done.stdout)
    good = re.search(r"status codes: (\d+) 2xx, 0 3xx, 0 4xx, 0 5xx", done.stdout)
    if not good or not int(good[1]) or int(counts[3]) or int(counts[4]):
        raise RuntimeError(f"{server.name}: {done.stdout[-800:]}{done.stderr[-300:]}")
    requests = int(good[1])
    return {"rps": requests / seconds, "cpu_us": cpu / requests * 1e6}


def measure(arguments, records):
    names = arguments.servers.split(",")
    for number in range(arguments.rounds):
        for name in names:
            shares = name.endswith("-w2")
            with servers.Server(name, "apps:hello", pinned=not shares) as server:
                base = {"rss_kib": server.rss_kib(), "start_seconds": server.start_seconds}
                cores = set(servers.CORES) if shares else servers.CLIENT_CORES
                for size in SIZES:
                    load(server, size, 1, cores)
                    record = {"server": name, "size": size, "round": number, **base, **load(server, size, arguments.seconds, cores)}
                    records.append(record)
                    print(f"{name:20} {size:4} {record['rps']:10.0f}/s {record['cpu_us']:8.1f} us", file=sys.stderr, flush=True)


def median(records, server, size, what):
    return statistics.median(record[what] for record in records if record["server"] == server and record["size"] == size)


def table(records):
    """Returns the medians as a table in Markdown."""
    names = list(dict.fromkeys(record["server"] for record in records))
    lines = ["| server | 1 KiB | 10 KiB | 1 MiB | memory | start |", "|---|---|---|---|---|---|"]
    for name in names:
        cells = [f"{median(records, name, size, 'rps'):,.0f} ({median(records, name, size, 'cpu_us'):,.1f} µs)" for size in SIZES]
        memory, start = median(records, name, "1k", "rss_kib") / 1024, median(records, name, "1k", "start_seconds")
        lines.append(f"| {LABELS[name]} | {' | '.join(cells)} | {memory:.0f} MiB | {start * 1000:.0f} ms |")
    return "\n".join(lines)


def plot(records, path):
    import plot as style

    names = list(dict.fromkeys(record["server"] for record in records))
    figure, axes = style.plt.subplots(1, len(SIZES), figsize=(12, 0.9 + 0.5 * len(names)), sharey=True)
    for axis, (size, title) in zip(axes, [("1k", "1 KiB"), ("10k", "10 KiB"), ("1m", "1 MiB")]):
        values = [median(records, name, size, "rps") for name in reversed(names)]
        colours = ["#D55E00" if name.startswith("maypole") else "#0072B2" if name.startswith("nginx") else "#BBBBBB" for name in reversed(names)]
        drawn = axis.barh([LABELS[name] for name in reversed(names)], values, color=colours, height=0.7)
        axis.bar_label(drawn, [f"{value:,.0f}" for value in values], padding=4, fontsize=10)
        axis.set_xlim(0, max(values) * 1.3)
        axis.set_title(title)
        axis.set_xlabel("requests per second")
        axis.xaxis.set_major_locator(style.MaxNLocator(3))
        axis.xaxis.set_major_formatter(style.THOUSANDS)
        axis.grid(axis="x", alpha=0.3)
    figure.savefig(path, metadata={"Date": None} if path.endswith("svg") else None)


def main():
    if sys.argv[1:2] == ["--nginx"]:
        become_nginx(*sys.argv[2:])
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--servers", default=NAMES)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=int, default=4)
    parser.add_argument("--nice", type=int, default=0)
    parser.add_argument("--output")
    parser.add_argument("--plot")
    arguments = parser.parse_args()
    servers.niceness = arguments.nice
    os.makedirs(servers.WORK, exist_ok=True)
    records = []
    with tempfile.TemporaryDirectory(prefix="files-") as directory:
        root = pathlib.Path(directory) / "site" / "static"
        root.mkdir(parents=True)
        for name, size in SIZES.items():
            (root / f"{name}.txt").write_bytes(b"x" * size)
        # nginx's workers run as another user.
        os.chmod(directory, 0o755)
        servers.SERVERS.update(commands(root, directory))
        measure(arguments, records)
    print(table(records))
    if arguments.output:
        results = {"machine": platform.machine(), "cores": len(servers.CORES), "kernel": platform.release(), "connections": CONNECTIONS,
                   "seconds": arguments.seconds, "records": records}
        pathlib.Path(arguments.output).write_text(json.dumps(results, indent=1) + "\n")
    if arguments.plot:
        plot(records, arguments.plot)


if __name__ == "__main__":
    main()
