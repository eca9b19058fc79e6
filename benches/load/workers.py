#!/usr/bin/env python3
"""Measures the memory and the start of N workers, with and without --preload: the figures of docs/explain/performance.md.

    python3 benches/load/workers.py [--program PROGRAM] [--rounds N] [--output FILE.json] [--plot FILE.svg]

Memory is the proportional set size of all processes of the service: a page that n processes share counts 1/n for each of them.
It is read after every worker has served requests. The start is the time from exec(2) to the line with "listening". The Python of
the virtual environment that is active needs Flask and Django. --plot needs matplotlib.
"""

import argparse
import concurrent.futures
import contextlib
import http.client
import json
import os
import pathlib
import re
import signal
import statistics
import subprocess
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
# One process without a supervisor, then supervisors.
COUNTS = [None, 1, 2, 4, 8]
REQUESTS_EACH = 100
PATIENCE = 60

# A framework, a library of a common size, and 25 MiB of the application's own objects.
APPLICATION = """
import django.contrib.auth.hashers, django.db.models, django.forms, django.template, email.mime.multipart, flask, sqlite3
TABLE = {number: {"name": f"item {number}", "price": number * 1.5} for number in range(100_000)}
application = flask.Flask(__name__)
@application.route("/")
def index():
    return flask.jsonify([TABLE[number] for number in range(0, 1000, 7)])
"""


def session(leader):
    """Returns the processes of a session."""
    found = []
    for entry in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(OSError):
            fields = pathlib.Path(f"/proc/{entry}/stat").read_text().rpartition(")")[2].split()
            if int(fields[3]) == leader and fields[0] != "Z":
                found.append(int(entry))
    return found


def pss_kib(pids):
    total = 0
    for pid in pids:
        text = pathlib.Path(f"/proc/{pid}/smaps_rollup").read_text()
        total += int(re.search(r"^Pss:\s+(\d+)", text, re.MULTILINE)[1])
    return total


def ask(port, requests):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE)
    for _ in range(requests):
        connection.request("GET", "/")
        response = connection.getresponse()
        assert response.status == 200, response.status
        response.read()
    connection.close()


def measure(program, folder, workers, preload):
    """Runs a service once. Returns its memory and its start."""
    options = [] if workers is None else ["-w", str(workers)]
    command = [program, *options, *(["--preload"] if preload else []), "--access-logfile", "none", "--bind", "127.0.0.1:0", "app"]
    began = time.perf_counter()
    process = subprocess.Popen(command, cwd=folder, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, start_new_session=True)
    try:
        for line in process.stderr:
            if match := re.search(r"listening on \S+?:(\d+),", line):
                break
        else:
            raise RuntimeError(f"{command} has ended")
        start = time.perf_counter() - began
        # More connections than workers, which are spread over them evenly.
        clients = 4 * (workers or 1)
        with concurrent.futures.ThreadPoolExecutor(clients) as pool:
            list(pool.map(lambda _: ask(int(match[1]), REQUESTS_EACH), range(clients)))
        pids = session(process.pid)
        return {"workers": workers, "preload": preload, "processes": len(pids), "pss_kib": pss_kib(pids), "start_s": round(start, 3)}
    finally:
        process.send_signal(signal.SIGTERM)
        process.stderr.read()
        process.wait(PATIENCE)


def plot(rows, path):
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    import plot as style  # noqa: F401  the look of all figures

    figure, axes = plt.subplots(1, 2, figsize=(9, 3.6))
    for axis, key, scale, unit in ((axes[0], "pss_kib", 1 / 1024, "MiB, all processes"), (axes[1], "start_s", 1, "seconds until the service listens")):
        for preload, name, colour in ((False, "each worker imports", "#0072B2"), (True, "--preload", "#D55E00")):
            chosen = [row for row in rows if row["preload"] == preload and row["workers"]]
            axis.plot([row["workers"] for row in chosen], [row[key] * scale for row in chosen], marker="o", color=colour, label=name)
        for row in rows:
            if row["workers"] is None:
                axis.plot([1], [row[key] * scale], marker="s", color="#555555", linestyle="none", label="one process")
        axis.set_xlabel("workers")
        axis.set_title(unit, fontsize=11)
        axis.set_xticks([count for count in COUNTS if count])
        axis.set_ylim(bottom=0)
        axis.grid(axis="y", alpha=0.3)
    axes[0].legend(frameon=False)
    figure.savefig(path, metadata={"Date": None})


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--program", default=str(ROOT / "target/release/maypole"))
    parser.add_argument("--rounds", type=int, default=3, help="the number of services of each kind; a figure is their median")
    parser.add_argument("--output", help="a file for the figures")
    parser.add_argument("--plot", help="a file for the picture")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        pathlib.Path(folder, "app.py").write_text(APPLICATION)
        cases = [(workers, preload) for workers in COUNTS for preload in (False, True) if workers or not preload]
        rounds = [[measure(arguments.program, folder, *case) for case in cases] for _ in range(arguments.rounds)]
    rows = []
    for same in zip(*rounds):
        middle = {key: statistics.median(row[key] for row in same) for key in ("pss_kib", "start_s")}
        rows.append(same[0] | middle)
    print("| workers | `--preload` | processes | memory, MiB | start, s |\n|---|---|---|---|---|")
    for row in rows:
        workers = "one process" if row["workers"] is None else row["workers"]
        print(f"| {workers} | {'yes' if row['preload'] else 'no'} | {row['processes']} | {row['pss_kib'] / 1024:.0f} | {row['start_s']:.2f} |")
    if arguments.output:
        pathlib.Path(arguments.output).write_text(json.dumps(rows, indent=1) + "\n")
    if arguments.plot:
        plot(rows, arguments.plot)


if __name__ == "__main__":
    main()
