#!/usr/bin/env python3
"""Counts what each option that observes requests costs, in instructions per request: the figures of
docs/explain/performance.md#what-observation-costs.

    benches/cost.py BINARY [BINARY ...]

The requests are those of the guard's pattern "sixteen". **Work** is the part of the thread that serves connections and of
the threads that call the application. **Other threads** are those that write the log, and all waiting: this part varies.
A second binary is compared with the first one, both without an option.
"""

import os
import sys
import tempfile

from guard import PATTERNS, Counted, change, summarise

OPTIONS = {
    "an access log": ["--access-logfile", "{directory}/access.log"],
    "an access log as JSON": ["--access-logfile", "{directory}/access.log", "--access-logformat", "json"],
    "an access log of requests above 1 s": ["--access-logfile", "{directory}/access.log", "--access-log-slower-than", "1s"],
    "request ids": ["--request-id-header", "X-Request-ID"],
    "a request timeout": ["--request-timeout", "30s"],
    "lines for slow requests": ["--slow-request", "2s"],
    "a status address": ["--status-bind", "127.0.0.1:0"],
}


def count(binary, options):
    with tempfile.TemporaryDirectory() as directory:
        with Counted(binary, directory, [option.format(directory=directory) for option in options]) as server:
            return summarise(server.count(*PATTERNS["sixteen"]))


def show(name, found, first):
    work, others = found["work"], found["waiting"]
    print(f"| {name} | {work:,} | {change(work, first['work'])} | {others - first['waiting']:+,} |", flush=True)


def main():
    binaries = [os.path.abspath(path) for path in sys.argv[1:]]
    first = count(binaries[0], [])
    print("| with | work | more | other threads |\n|---|---|---|---|")
    show("nothing", first, first)
    for path in binaries[1:]:
        show(path, count(path, []), first)
    for name, options in OPTIONS.items():
        show(name, count(binaries[0], options), first)


if __name__ == "__main__":
    main()
