#!/usr/bin/env python3
"""Sends damaged connections to real servers and compares the responses with the model: `drive.py --help`.

Each connection follows from the seed and its number alone. It is sent twice, once in one piece and once in pieces.
Both must have the same result. A finding goes to a file, and `--replay` sends it again.
"""

import argparse
import collections
import concurrent.futures
import json
import os
import pathlib
import random
import subprocess
import sys
import time

import observe
import serve
from grammar import bodies, corpus, pieces, proxy_header, stream
from model import Limits, read_connection

LIMITS = Limits()
# The number of connections to a server before the next server's turn, and how many are open at the same time.
BATCH, WIDTH = 100, 32
FINDINGS_MAX = 20
# The end of a client: it closes its side, or first waits for all responses, or leaves, or resets.
ENDS = ("half-close", "wait", "close", "reset")


def connection(seed, kind, number, requests):
    """Returns a connection's bytes, its pieces for the second time, its end, and whether the client is lazy."""
    chance = random.Random(f"{seed}/{kind}/{number}")
    data = bodies(chance, requests) if kind == "bodies" else stream(chance, requests)
    if kind == "proxy":
        data = proxy_header(chance, requests) + data
    end = chance.choices(ENDS, [6, 6, 1, 1])[0]
    if end in ("close", "reset"):
        data = data[:chance.randrange(len(data) + 1)]
    return data, pieces(chance, data), end, chance.random() < 0.15


class Campaign:
    """A process of clients, and its servers."""

    def __init__(self, arguments, job):
        self.job, self.seed = job, f"{arguments.seed}/{job}" if job else str(arguments.seed)
        self.directory = pathlib.Path(arguments.findings)
        self.requests = corpus()
        self.counts, self.findings = collections.Counter(), []
        self.servers = []
        for binary in arguments.binary:
            for streamed in (False, True):
                for proxied in (False, True):
                    # Two processes with two binaries each try every mode with every size.
                    number = len(self.servers)
                    buffers = (number + number // 4 + 2 * job) % len(serve.BUFFERS)
                    self.servers.append(serve.Server(binary, LIMITS, streamed, proxied, buffers))

    def run(self, deadline, streams_max=None):
        """Runs until the time is over or this many connections have been made."""
        number, turn = 0, 0
        try:
            while time.monotonic() < deadline and len(self.findings) < FINDINGS_MAX:
                if streams_max is not None and number >= streams_max:
                    break
                server = self.servers[turn % len(self.servers)]
                kinds = ("proxy",) if server.proxied else ("streams", "bodies")
                try:
                    self.batch(server, kinds[turn // len(self.servers) % len(kinds)], number)
                except OSError as error:
                    # The server accepts no more connections. The end of the server reports the rest.
                    self.note(server, f"{type(error).__name__}: {error}", None)
                    break
                turn, number = turn + 1, number + BATCH
        finally:
            for server in self.servers:
                for problem in server.stop():
                    self.note(server, problem, None)

    def batch(self, server, kind, number):
        """Runs some connections, each twice, and compares what the application saw of all of them."""
        sent, allowed = [], collections.Counter()
        for index in range(number, number + BATCH):
            data, parts, end, lazy = connection(self.seed, kind, index, self.requests)
            reading = read_connection(data, LIMITS, server.streamed, server.proxied)
            for script in ([(data, 0)] if data else [], parts):
                sent.append(observe.Conversation(data, script, end, reading, f"{self.seed}/{kind}/{index}", lazy))
        with server.polite() as polite:
            observe.converse(server.address, sent, WIDTH)
        for problem in polite.problems:
            self.note(server, problem, None)
        for one in sent:
            allowed.update(one.seen())
            self.counts["connections"] += 1
            self.counts["bytes"] += len(one.data)
            for outcome in one.outcomes():
                self.counts[outcome] += 1
            for problem in one.problems():
                self.note(server, problem, one)
        for first, second in zip(sent[::2], sent[1::2]):
            if difference := first.differs(second):
                self.note(server, f"in pieces: {difference}", second)
        self.counts[f"{kind}, {server.name}"] += len(sent)
        for seen, count in (server.seen() - allowed).items():
            self.note(server, f"the application saw {count} times more often than it was sent: {seen}", None)
        for problem in server.problems():
            self.note(server, problem, None)

    def note(self, server, problem, conversation):
        """Writes a finding to a file."""
        self.directory.mkdir(parents=True, exist_ok=True)
        path = self.directory / f"{os.getpid()}-{len(self.findings)}.json"
        finding = {"problem": problem, "binary": server.binary, "streamed": server.streamed, "proxied": server.proxied,
                   "buffers": server.buffers}
        if conversation:
            finding |= conversation.as_json()
        else:
            finding["log"] = "".join(server.log.lines)
        path.write_text(json.dumps(finding, indent=1))
        self.findings.append(f"{path}: {server.name}: {problem[:600]}")
        print(self.findings[-1], flush=True)


def replay(path, binary):
    """Sends a finding again, and prints the result."""
    finding = json.loads(pathlib.Path(path).read_text())
    print(f"recorded: {finding['problem']}")
    if "data" not in finding:
        sys.exit("this finding is not about a single connection: run the seed again")
    data = finding["data"].encode("latin-1")
    server = serve.Server(binary or finding["binary"], LIMITS, finding["streamed"], finding["proxied"], finding["buffers"])
    reading = read_connection(data, LIMITS, server.streamed, server.proxied)
    script, at = [], 0
    for length, pause in finding["script"]:
        script.append((data[at:at + length], pause))
        at += length
    sent = [observe.Conversation(data, one, finding["end"], reading, finding["name"], finding["lazy"]) for one in ([(data, 0)], script)]
    observe.converse(server.address, sent, WIDTH)
    problems = [problem for one in sent for problem in one.problems()]
    if difference := sent[0].differs(sent[1]):
        problems.append(f"in pieces: {difference}")
    print(f"sent: {data}\nexpected: {reading.expected}\nreceived: {bytes(sent[1].received)}")
    problems += server.stop()
    print("\n".join(problems) or "nothing wrong")
    return bool(problems)


def work(arguments, job, deadline):
    campaign = Campaign(arguments, job)
    campaign.run(deadline, arguments.streams)
    return campaign.counts, campaign.findings


def options():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--binary", action="append", help="the server to test; repeatable")
    parser.add_argument("--minutes", type=float, default=1, help="how long, the end included")
    parser.add_argument("--streams", type=int, help="end after this many connections of each process")
    parser.add_argument("--seed", default=time.strftime("%Y%m%d%H%M%S"), help="what all connections follow from")
    parser.add_argument("--jobs", type=int, default=1, help="processes of clients, each with its own servers")
    parser.add_argument("--findings", default="target/findings", help="directory for what is found")
    parser.add_argument("--beside", action="append", default=[], metavar="COMMAND",
                        help="a fuzzer to run at the same time; FUZZ_SECONDS says for how long, FUZZ_SEED has the seed")
    parser.add_argument("--replay", metavar="FILE", help="send what was found again")
    return parser.parse_args()


def main():
    arguments = options()
    if arguments.replay:
        sys.exit(replay(arguments.replay, arguments.binary and arguments.binary[0]))
    arguments.binary = arguments.binary or [serve.default_binary()]
    began = time.monotonic()
    seconds = arguments.minutes * 60
    # The servers need time to end.
    deadline = began + seconds - min(serve.END_SECONDS, seconds / 4)
    print(f"seed {arguments.seed}, {arguments.jobs} processes, {seconds:.0f} s", flush=True)
    environment = os.environ | {"FUZZ_SECONDS": str(round(deadline - began)), "FUZZ_SEED": arguments.seed}
    beside = [subprocess.Popen(command, shell=True, env=environment) for command in arguments.beside]
    counts, findings = collections.Counter(), []
    with concurrent.futures.ProcessPoolExecutor(arguments.jobs, initializer=serve.end_with_parent) as pool:
        for result in [pool.submit(work, arguments, job, deadline) for job in range(arguments.jobs)]:
            more, found = result.result()
            counts += more
            findings += found
    findings += [f"{process.args} ended with {process.returncode}" for process in beside if process.wait()]
    taken = time.monotonic() - began
    for name, count in sorted(counts.items()):
        print(f"{count:>12,}  {name}")
    print(f"{counts['connections']:,} connections in {taken:.0f} s, {counts['connections'] / taken:.0f} a second, {len(findings)} findings")
    print("\n".join(findings) or "fuzz: nothing found")
    sys.exit(bool(findings))


if __name__ == "__main__":
    main()
