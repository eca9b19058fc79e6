#!/usr/bin/env python3
"""Makes pictures of a run: plot.py RUN_DIRECTORY [svg|png]. It needs matplotlib, which run.py --setup installs.

throughput.svg: requests/s by server. idle.svg: memory by idle clients. slow.svg: throughput beside slow clients.
wait.svg: throughput by how long the application waits. promise-*.svg: the README's pictures, one for each promise.
A picture is made if the run has its scenarios.
"""

import json
import os
import sys

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.ticker import FuncFormatter, MaxNLocator

import report

# Colours that colour-blind readers can tell apart (Okabe and Ito). The reference has the strongest one.
COLOURS = {
    "maypole": "#D55E00",
    "granian": "#0072B2",
    "bjoern": "#009E73",
    "fastwsgi": "#CC79A7",
    "gunicorn-sync": "#E69F00",
    "gunicorn-gthread": "#56B4E9",
    "gunicorn-gthread64": "#8C6D31",
    "gunicorn-gevent": "#009E73",
    "uwsgi64": "#CC79A7",
    "waitress64": "#E69F00",
    "eventlet": "#56B4E9",
    "granian64": "#0072B2",
    "calibrate": "#BBBBBB",
    "c-epoll": "#DDDDDD",
}
LABELS = {
    "maypole": "Maypole (defaults)",
    "granian": "granian (defaults)",
    "granian64": "granian (64 threads, backpressure 16,384)",
    "gunicorn-sync": "gunicorn sync",
    "gunicorn-gthread": "gunicorn gthread (4 threads)",
    "gunicorn-gthread64": "gunicorn gthread (64 threads)",
    "gunicorn-gevent": "gunicorn gevent (20,000 connections)",
    "uwsgi64": "uWSGI (64 threads)",
    "waitress64": "waitress (64 threads)",
    "eventlet": "eventlet (20,000 green threads)",
    "calibrate": "may, no Python",
    "c-epoll": "C epoll, no Python",
}
MARKERS = "osD^vPX*"
# The number that run.py opens.
IDLE_CLIENTS = 10_000
THOUSANDS = FuncFormatter(lambda value, _: f"{value:,.0f}")

plt.rcParams.update({
    "font.size": 11,
    "axes.titlesize": 13,
    "axes.titlelocation": "left",
    "axes.titlepad": 12,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "svg.hashsalt": "maypole",
    "figure.constrained_layout.use": True,
    "figure.constrained_layout.h_pad": 0.14,
})


def colour(server):
    return COLOURS.get(server, "#555555")


def label(server):
    return LABELS.get(server, server)


def ran(results, scenario):
    """Returns the servers that took part in a scenario."""
    return list(dict.fromkeys(record["server"] for record in results["records"] if record["scenario"] == scenario))


def bars(axis, pairs, describe, least_is_best=False, failed=lambda _: "failed"):
    """Draws horizontal bars with labels, the best on top. A server that failed has an empty bar at the bottom."""

    def rank(pair):
        server, value = pair
        worth = round(value, 2) if value is not None else 0
        return value is not None, -worth if least_is_best else worth, server == report.REFERENCE

    pairs = sorted(pairs, key=rank)
    values = [value or 0 for _, value in pairs]
    drawn = axis.barh([label(server) for server, _ in pairs], values, color=[colour(server) for server, _ in pairs], height=0.7)
    axis.bar_label(drawn, [failed(server) if value is None else describe(server, value) for server, value in pairs], padding=5, fontsize=10,
                   bbox={"facecolor": "white", "edgecolor": "none", "pad": 1})
    for tick, (server, _) in zip(axis.get_yticklabels(), pairs):
        tick.set_fontweight("bold" if server == report.REFERENCE else "normal")
    axis.set_xlim(0, max([*values, 1e-9]) * 1.25)
    axis.tick_params(axis="y", length=0)
    axis.grid(axis="x", alpha=0.3)


def throughput(results):
    shown = [(name, title) for name, title in [
        ("hello-c64", "64 connections, one core"),
        ("hello-c1000", "1,000 connections, one core"),
        ("hello-unpinned-c64", "64 connections, cores shared with the client"),
        ("hello-c8", "8 connections, one core"),
    ] if ran(results, name)][:3]
    if not shown:
        return None
    rows = max(len(ran(results, name)) for name, _ in shown)
    figure, axes = plt.subplots(len(shown), 1, figsize=(9, len(shown) * (1.1 + 0.34 * rows)), squeeze=False)
    for axis, (name, title) in zip(axes[:, 0], shown):
        bars(axis, [(server, report.value(results, name, server, "rps") or None) for server in ran(results, name)], lambda _, value: f"{value:,.0f}")
        axis.set_title(f"Hello, World: {title}")
        axis.xaxis.set_major_formatter(THOUSANDS)
    # One scale for all pictures, so that readers can compare them.
    most = max(axis.get_xlim()[1] for axis in axes[:, 0])
    for axis in axes[:, 0]:
        axis.set_xlim(0, most)
    axes[-1, 0].set_xlabel("requests per second")
    return figure


def idle(results):
    servers = ran(results, "idle")
    if not servers:
        return None
    figure, axes = plt.subplots(1, 2, figsize=(11, 1.3 + 0.42 * len(servers)))

    def answered(server):
        return report.value(results, "idle", server, "answered") or 0

    def cost(server):
        # If some clients got no response, memory by client means nothing.
        everyone = max(map(answered, servers))
        return report.value(results, "idle", server, "kib_per_client") if answered(server) == everyone else None

    def survivors(server, value):
        alive = report.value(results, "idle", server, "alive_after")
        return f"{value:.2f}   ({alive:,.0f} alive)"

    def abandoned(server):
        return f"only {answered(server):,.0f} answered"

    bars(axes[0], [(server, cost(server)) for server in servers], survivors, least_is_best=True, failed=abandoned)
    axes[0].set_xlim(right=axes[0].get_xlim()[1] * 1.3)
    axes[0].set_title("Memory of an idle client")
    axes[0].set_xlabel("KiB each, with 10,000 clients")
    bars(axes[1], [(server, report.value(results, "idle", server, "ratio")) for server in servers], lambda _, value: f"{value:.2f}")
    axes[1].set_title("Throughput beside them")
    axes[1].set_xlabel("requests/s with ÷ without idle clients")
    return figure


def slow(results):
    shown = [(name, title) for name, title in [
        ("slow-both", "1,000 slow senders and 1,000 slow readers of 1 MiB"),
        ("slow-read8", "200 slow readers of 8 MiB"),
    ] if ran(results, name)]
    if not shown:
        return None
    rows = max(len(ran(results, name)) for name, _ in shown)
    figure, axes = plt.subplots(len(shown), 1, figsize=(8.5, len(shown) * (1.0 + 0.4 * rows)), squeeze=False)
    for axis, (name, title) in zip(axes[:, 0], shown):

        def describe(server, value, name=name):
            growth = report.value(results, name, server, "growth_mib")
            return f"{value:.2f}" + (f"   ({growth:+,.0f} MiB)" if growth is not None else "")

        bars(axis, [(server, report.value(results, name, server, "ratio")) for server in ran(results, name)], describe)
        axis.axvline(1, color="#333333", linewidth=0.8, linestyle="--", zorder=0)
        axis.set_xlim(right=max(axis.get_xlim()[1], 1.4))
        axis.set_title(f"Beside {title}")
    axes[-1, 0].set_xlabel("requests/s with ÷ without slow clients; in brackets the growth of memory")
    return figure


def wait(results):
    scenarios = sorted((int(name[5:-2]), name) for name in report.names(results, "scenario") if name.startswith("wait-"))
    if not scenarios:
        return None
    figure, axis = plt.subplots(figsize=(8.5, 5))
    times = [milliseconds for milliseconds, _ in scenarios]
    positions = range(len(times))
    for number, server in enumerate(ran(results, scenarios[0][1])):
        rates = [report.value(results, name, server, "rps") for _, name in scenarios]
        strong = server == report.REFERENCE
        axis.plot(positions, [rate or float("nan") for rate in rates], color=colour(server), marker=MARKERS[number % len(MARKERS)], label=label(server),
                  linewidth=3 if strong else 1.6, markersize=8 if strong else 6, zorder=3 if strong else 2)
    # 256 connections have at most 256 requests at a time.
    bound = [256_000 / milliseconds if milliseconds else float("nan") for milliseconds in times]
    axis.plot(positions, bound, color="#333333", linewidth=1, linestyle=":", label="possible with 256 connections")
    axis.set_yscale("log")
    axis.set_ylim(top=max(axis.get_ylim()[1], 1e5))
    axis.set_xticks(list(positions), [str(milliseconds) for milliseconds in times])
    axis.yaxis.set_major_formatter(THOUSANDS)
    axis.grid(alpha=0.3, which="major")
    axis.set_title("An application that waits: 256 connections, default settings")
    axis.set_xlabel("milliseconds that the application waits (a database, another service)")
    axis.set_ylabel("requests per second, logarithmic")
    axis.legend(frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))
    return figure


def promise(results, scenario, title, describe=lambda server, value: f"{value:,.0f}"):
    """Draws one scenario's requests per second by server. The reference's bar has its colour."""
    servers = ran(results, scenario)
    if not servers:
        return None
    figure, axis = plt.subplots(figsize=(9, 1.2 + 0.36 * len(servers)))
    bars(axis, [(server, report.value(results, scenario, server, "rps")) for server in servers], describe)
    for bar, tick in zip(axis.patches, axis.get_yticklabels()):
        bar.set_color(COLOURS[report.REFERENCE] if tick.get_text() == label(report.REFERENCE) else "#9AA5B1")
    axis.set_xlim(right=axis.get_xlim()[1] * 1.12)
    axis.set_title(title)
    axis.xaxis.set_major_formatter(THOUSANDS)
    axis.xaxis.set_major_locator(MaxNLocator(5))
    axis.set_xlabel("requests per second")
    return figure


def promise_idle(results):
    def describe(server, value):
        answered = report.value(results, "idle", server, "answered") or 0
        if value < 1:
            return f"no answers: it took {answered:,.0f} of the clients"
        cost = report.value(results, "idle", server, "kib_per_client")
        return f"{value:,.0f}, {cost:.1f} KiB per idle client" + (f", took {answered:,.0f} of them" if answered < IDLE_CLIENTS else "")

    return promise(results, "idle", "16 busy clients while 10,000 idle ones stay connected", describe)


def promise_slow(results):
    def describe(_, value):
        return f"{value:,.0f}" if value >= 1 else "no answers"

    return promise(results, "slow-both", "16 busy clients beside 1,000 slow senders and 1,000 slow readers", describe)


def promise_wait(results):
    return promise(results, "sleep-10ms", "An application that waits 10 ms in each request, 256 clients")


def promise_hello(results):
    return promise(results, "hello-c64", "The same small application, 64 clients")


def main():
    directory = sys.argv[1]
    kind = sys.argv[2] if len(sys.argv) > 2 else "svg"
    with open(os.path.join(directory, "results.json")) as file:
        results = json.load(file)
    for draw in (throughput, idle, slow, wait, promise_idle, promise_slow, promise_wait, promise_hello):
        figure = draw(results)
        if figure is None:
            continue
        figure.text(1, -0.01, f"{results['machine']}, {results['date'][:10]}, medians of {results['rounds']} rounds", ha="right", va="top", fontsize=8, color="#777777")
        path = os.path.join(directory, f"{draw.__name__.replace('_', '-')}.{kind}")
        figure.savefig(path, dpi=150, bbox_inches="tight", metadata={"Date": None} if kind == "svg" else None)
        print(path)


if __name__ == "__main__":
    main()
