"""Prints the medians and ratios of a run as markdown: report.py RESULTS.json"""

import json
import os
import pathlib
import platform
import statistics
import sys
import time

REFERENCE = "maypole"

# The columns of a scenario, the most important first.
COLUMNS = {
    "idle": ["answered", "alive_after", "kib_per_client", "idle_cpu", "rps_before", "rps", "ratio", "p99_us", "errors"],
    "slow": ["dripping_alive", "reading_alive", "reading_started", "rps_before", "rps", "ratio", "p99_us_before", "p99_us", "growth_mib", "errors"],
    "open": ["capacity", "rps", "p50_us", "p99_us", "p999_us", "max_us", "backlog", "pacing_p99_us", "client_busy", "errors"],
    "headers": ["ns_per_field", "rps_before", "rps", "cpu_us_before", "cpu_us", "errors"],
    "base": ["start_ms", "rss_kib"],
}
THROUGHPUT = ["rps", "p50_us", "p99_us", "max_us", "cpu_us", "client_us", "rss_kib", "errors"]


def described(options, results, **more):
    """Returns the report of a run that has its own form of results, with what is to be known of the machine."""
    machine = next((line.partition(": ")[2] for line in open("/proc/cpuinfo") if line.startswith("model name")), platform.machine())
    return {"machine": f"{machine.strip()}, {os.cpu_count()} processors", "date": time.strftime("%Y-%m-%d"), "rounds": options.rounds,
            "python": platform.python_version(), "load": os.getloadavg()[0], **more, "results": results}


def hand_out(options, report, draw):
    """Writes a report into the file of `--output`, and its picture into that of `--plot`."""
    if options.output:
        pathlib.Path(options.output).write_text(json.dumps(report, indent=1) + "\n")
    if options.plot:
        draw(report, options.plot)


def save_figure(figure, report, path):
    """Writes a picture, with the machine and the day below it."""
    figure.text(1, -0.01, f"{report['machine']}, {report['date']}, medians of {report['rounds']} rounds", ha="right", va="top", fontsize=8,
                color="#777777")
    figure.savefig(path, bbox_inches="tight", metadata={"Date": None})


def median(values):
    values = [value for value in values if isinstance(value, (int, float))]
    return statistics.median(values) if values else None


def of(results, scenario, server):
    return [record for record in results["records"] if (record["scenario"], record["server"]) == (scenario, server)]


def names(results, key):
    return list(dict.fromkeys(record[key] for record in results["records"]))


def value(results, scenario, server, column):
    """Returns the median of a scenario's column. None if a round failed."""
    records = of(results, scenario, server)
    return None if any("error" in record for record in records) else median(record.get(column) for record in records)


def ratio(results, scenario, server):
    """Returns the reference's throughput divided by the server's: the median of the rounds' ratios."""
    mine = {record["round"]: record.get("rps") for record in of(results, scenario, REFERENCE)}
    pairs = [(mine.get(record["round"]), record.get("rps")) for record in of(results, scenario, server)]
    return median(reference / other for reference, other in pairs if reference and other)


def number(value):
    if value is None:
        return "–"
    if isinstance(value, str):
        return value
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.3g}"


def row(cells):
    return "| " + " | ".join(cells) + " |"


def heading(cells):
    return [row(cells), "|" + "---|" + "--:|" * (len(cells) - 1)]


def summary(results):
    """Makes one row per scenario: requests/s, and the reference's as a multiple of them."""
    scenarios = [name for name in names(results, "scenario") if value(results, name, REFERENCE, "rps") is not None]
    # At a constant rate all servers serve the same number; there the times count.
    scenarios = [name for name in scenarios if not name.startswith("open")]
    others = [name for name in names(results, "server") if name != REFERENCE]
    if not scenarios or not others:
        return []
    lines = ["", f"Requests per second; in brackets {REFERENCE} ÷ the other.", ""]
    lines += heading(["scenario", REFERENCE, *others])
    for scenario in scenarios:
        cells = [scenario, "**" + number(value(results, scenario, REFERENCE, "rps")) + "**"]
        for other in others:
            times = ratio(results, scenario, other)
            cells.append(number(value(results, scenario, other, "rps")) + (f" ({times:.2f} ×)" if times else ""))
        lines.append(row(cells))
    return lines


def details(results, scenario):
    columns = COLUMNS.get(scenario.split("-")[0], THROUGHPUT)
    lines = ["", f"## {scenario}", ""]
    lines += heading(["server", *columns])
    servers = names({"records": [record for record in results["records"] if record["scenario"] == scenario]}, "server")
    first = "ratio" if "ratio" in columns else columns[0]
    descending = first in ("rps", "ratio", "capacity")
    keyed = [(value(results, scenario, server, first), server) for server in servers]
    keyed.sort(key=lambda pair: (pair[0] is None, -pair[0] if pair[0] is not None and descending else pair[0] or 0))
    for _, server in keyed:
        if any("error" in record for record in of(results, scenario, server)):
            lines.append(row([server, "failed", *[""] * (len(columns) - 1)]))
        else:
            lines.append(row([server, *(number(value(results, scenario, server, column)) for column in columns)]))
    return lines


def table(results):
    lines = [
        f"# {results['date']}, {results['machine']}",
        "",
        f"Commit {results['commit']}, Linux {results['kernel']}; medians of {results['rounds']} rounds of {results['seconds']} s, the servers in turn:",
        f"`{results['command'].strip()}`",
        *summary(results),
    ]
    for scenario in names(results, "scenario"):
        lines += details(results, scenario)
    failures = dict.fromkeys(f"- {r['scenario']}, {r['server']}: `{' '.join(r['error'].split())[-200:]}`" for r in results["records"] if "error" in r)
    if failures:
        lines += ["", "## Failures", "", *failures]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    with open(sys.argv[1]) as opened:
        print(table(json.load(opened)))
