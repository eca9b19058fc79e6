#!/usr/bin/env python3
"""Runs all make targets in sequence. Prints at the end what ran, what was skipped and why, and what failed.

    tools/run.py MAKE TARGET...

Each target's output is shown as it comes. The exit status is 1 if a target failed.
"""

import collections
import re
import subprocess
import sys
import time

# Output of the tools: a summary, a failed test, a skipped test with its reason.
CARGO = re.compile(r"test result: \w+\. (\d+) passed; (\d+) failed; (\d+) ignored")
PYTEST = re.compile(r"^(?:=+ )?(\d+ (?:passed|failed|skipped|error|deselected|xfailed|warning).*?) in [\d.]+s")
SUITE = re.compile(r"^(?:(?:http1|pep3333) \S+  MUST \d+/\d+.*|fuzz \w+: \d+ inputs in .*)")
FAILED = re.compile(r"^(?:test (\S+) \.\.\. FAILED|(?:FAILED|ERROR) (tests/.+?)(?: - .*)?$|(FAIL (?:MUST|SHOULD|POLICY|http1|pep3333) .{,100}|fuzz \w+: FAILED .*))")
SKIPPED = re.compile(r"^(?:SKIPPED \[(\d+)\] (\S+): (.*)|(\w+): SKIPPED, (.*)|test (\S+) \.\.\. ignored(?:, (.*))?)")


class Step:
    """A make target, and the results in its output."""

    def __init__(self, make, target):
        self.target = target
        self.counts = collections.Counter()
        self.said, self.failed = [], []
        self.skipped = collections.Counter()
        began = time.monotonic()
        print(f"\n=== make {target}", flush=True)
        with subprocess.Popen([make, "--no-print-directory", target], stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                              text=True, errors="replace") as process:
            for line in process.stdout:
                print(line, end="", flush=True)
                self.read(line.rstrip())
        self.status = process.returncode
        self.seconds = time.monotonic() - began

    def read(self, line):
        if match := CARGO.search(line):
            self.counts.update(passed=int(match[1]), failed=int(match[2]), ignored=int(match[3]))
        elif match := PYTEST.match(line):
            self.said.append(match[1])
        elif SUITE.match(line):
            self.said.append(line)
        elif match := FAILED.match(line):
            self.failed.append(next(group for group in match.groups() if group))
        elif match := SKIPPED.match(line):
            count, place, reason, tool, why, test, because = match.groups()
            self.skipped[reason or why or because or f"{test or place or tool}, without a reason"] += int(count or 1)

    def report(self):
        counted = ", ".join(f"{count} {what}" for what, count in self.counts.items() if count)
        word = "FAILED" if self.status else "ok"
        print(f"  {word:7} {self.target:18} {duration(self.seconds):>12}   {'; '.join(filter(None, [counted, *self.said]))}")
        for name in self.failed:
            print(f"            failed: {name}")
        for reason, count in sorted(self.skipped.items()):
            print(f"            skipped: {count} × {reason}")


def duration(seconds):
    minutes, seconds = divmod(round(seconds), 60)
    return f"{minutes} min {seconds:2} s" if minutes else f"{seconds} s"


def main():
    make, *targets = sys.argv[1:]
    began = time.monotonic()
    steps = [Step(make, target) for target in targets]
    failed = [step.target for step in steps if step.status]
    print(f"\n=== {len(steps)} steps in {duration(time.monotonic() - began)}")
    for step in steps:
        step.report()
    if failed:
        sys.exit(f"=== FAILED: {', '.join(failed)}")
    print("=== all is well")


if __name__ == "__main__":
    main()
