#!/usr/bin/env python3
"""Lets workers come and go under load, and checks that no request is lost: storm.py EVENTS [KIND …]

Several hundred clients ask without a pause: with keep-alive and without, in pipelines, slowly, and after long rests.
Meanwhile the service is reloaded, grows and shrinks, changes its supervisor, recycles its workers and loses some by
SIGKILL, also while their connections move, until each kind of event has happened EVENTS times. Then each request must
have had its response, exactly one, from the right version. The journal of the application must have its begin and its
end once.

Excused are the requests and the idle connections of a killed worker, and no others. Before the storm kills a worker, it
stops it and reads which connections the worker has. The log must name each request that was inside.
"""

import argparse
import asyncio
import collections
import functools
import os
import pathlib
import random
import re
import signal
import sys
import tempfile
import time

sys.path.append(str(pathlib.Path(__file__).resolve().parent.parent / "tests"))

import process
from storm_clients import KINDS, PATIENCE, Storm

CLIENTS = 300
WORKERS = 3
#: A kill and a loss that is noticed this much later belong together. An idle client looks after 20 s at most.
NOTICED_MAX = 25
LOSSES_MAX = 30
# A worker may be killed in the moment in which the supervisor has told it to stop.
KILLED = "has (?:ended unexpectedly|failed to stop): signal SIGKILL"

EVENTS = {}


def event(function):
    """A kind of event: a method of the service, which returns when the event is over."""
    EVENTS[function.__name__] = function
    return function


class Service:
    """The supervisor with its workers, and the events that happen to them."""

    def __init__(self, directory, options):
        self.directory = pathlib.Path(directory)
        self.log, self.journal, self.code = self.directory / "log", self.directory / "journal", self.directory / "code"
        self.code.mkdir()
        self.version = 1
        self.publish(self.version)
        self.count = WORKERS
        #: The number of each killed worker, with the moment and the ports of its clients.
        self.killed = {}
        self.seen = collections.Counter()
        command = [
            process.MAYPOLE, "storming", "--workers", str(WORKERS), "--bind", "127.0.0.1:0",
            "--bind", f"unix:{self.directory}/socket", "--error-logfile", str(self.log), "--pid", str(self.pid_file),
            "--keep-alive", "1h", "--min-rate", "0", "--log-level", "debug", *options,
        ]
        environment = process.clean_environment(STORM_JOURNAL=str(self.journal), STORM_CODE=str(self.code))
        self.first = process.subprocess.Popen(command, cwd=process.APPS, env=environment, preexec_fn=process.all_descriptors)

    @property
    def pid_file(self):
        return self.directory / "pid"

    @property
    def pid(self):
        """The process of the supervisor."""
        return int(self.pid_file.read_text())

    def publish(self, version):
        (self.code / "version").write_text(str(version))

    def text(self, start=0):
        try:
            with open(self.log, "rb") as file:
                file.seek(start)
                return file.read().decode("utf-8", "replace")
        except FileNotFoundError:
            return ""

    def mark(self):
        return self.log.stat().st_size if self.log.exists() else 0

    async def wait(self, pattern, start=0, count=1):
        """Waits until a line has appeared `count` times."""
        end = time.monotonic() + PATIENCE
        while len(found := re.findall(pattern, self.text(start))) < count:
            if time.monotonic() > end:
                raise SystemExit(f"storm: no {pattern!r} in {self.text(start)[-4000:]}")
            await asyncio.sleep(0.02)
        return found

    async def begin(self):
        [addresses] = await self.wait(r"listening on (.*?), pool size")
        return addresses.split(", ")

    def workers(self):
        """Returns the processes of workers that serve, the oldest first."""
        text = self.text()
        serve = [int(pid) for pid in re.findall(r"worker \d+ \(pid (\d+)\) serves", text)]
        gone = {int(pid) for pid in re.findall(r"worker \d+ \(pid (\d+)\) has (?:ended|failed)", text)}
        told = {int(pid) for pid in re.findall(r"\[(\d+)\] \[DEBUG\] [^\n]*: stopping;", text)}
        return [pid for pid in serve if pid not in gone | told]

    @event
    async def reload(self, storm):
        mark, self.version = self.mark(), self.version + 1
        self.publish(self.version)
        os.kill(self.pid, signal.SIGHUP)
        await self.wait(r"reloaded: ", mark)
        # A reload brings back the number of workers in the settings.
        storm.version, self.count = self.version, WORKERS

    @event
    async def broken_reload(self, storm):
        mark = self.mark()
        self.publish("broken")
        os.kill(self.pid, signal.SIGHUP)
        await self.wait(r"the reload has failed", mark)
        self.publish(self.version)

    @event
    async def more(self, storm):
        mark = self.mark()
        os.kill(self.pid, signal.SIGTTIN)
        self.count += 1
        await self.wait(rf"worker {self.count} \(pid \d+\) serves", mark)

    @event
    async def fewer(self, storm):
        mark = self.mark()
        os.kill(self.pid, signal.SIGTTOU)
        await self.wait(rf"worker {self.count} \(pid \d+\) has ended", mark)
        self.count -= 1

    @event
    async def reopen(self, storm):
        # What is written to the old file does not concern the storm: it reads one log.
        os.kill(self.pid, signal.SIGUSR1)

    @event
    async def kill(self, storm):
        mark, pid = self.mark(), random.choice(self.workers()[:2])
        if not self.strike(pid):
            return
        await self.wait(rf"worker \d+ \(pid {pid}\) {KILLED}", mark)
        await self.wait(r"worker \d+ \(pid \d+\) serves", mark)

    @event
    async def kill_moving(self, storm):
        """Kills a worker while its connections move to its successor, or that successor."""
        mark, self.version, before = self.mark(), self.version + 1, self.workers()
        self.publish(self.version)
        os.kill(self.pid, signal.SIGHUP)
        [(number, receiver), *_] = await self.wait(r"worker (\d+) \(pid (\d+)\) serves", mark)
        # The one that gives is the worker that had this number before.
        givers = [int(pid) for pid in re.findall(rf"worker {number} \(pid (\d+)\) serves", self.text()) if int(pid) in before]
        await asyncio.sleep(random.uniform(0, 0.02))
        victim = random.choice([int(receiver), *givers[-1:]])
        if self.strike(victim):
            await self.wait(rf"worker \d+ \(pid {victim}\) {KILLED}", mark)
        await self.wait(r"reloaded: |the reload has failed", mark)
        storm.version, self.count = self.version, WORKERS

    def strike(self, pid):
        """Kills a worker, and notes its clients. Returns whether it still ran."""
        try:
            os.kill(pid, signal.SIGSTOP)
            # A thread inside a system call ends it first, and may accept or receive a connection by it.
            while states(pid) != {"T"}:
                time.sleep(0.001)
            self.killed[pid] = (time.time(), ports(pid))
            os.kill(pid, signal.SIGKILL)
        except (ProcessLookupError, FileNotFoundError):
            self.killed.pop(pid, None)
            return False
        return True

    @event
    async def upgrade(self, storm):
        mark, old = self.mark(), self.pid
        os.kill(old, signal.SIGUSR2)
        await self.wait(r"listening on ", mark)
        await self.wait(rf"\[{old}\] \[\w+\] stopped", mark)
        self.count = WORKERS

    async def recycled(self):
        """Counts the workers that were replaced because of a limit."""
        for name, option in [("max_requests", "--max-requests"), ("max_memory", "--max-worker-memory")]:
            self.seen[name] = len(re.findall(rf"is replaced: .*{option}", self.text()))

    async def end(self):
        pid = self.pid
        os.kill(pid, signal.SIGTERM)
        await self.wait(rf"\[{pid}\] \[\w+\] stopped")


def states(pid):
    """Returns the states of the threads of a process: T is stopped."""
    tasks = pathlib.Path(f"/proc/{pid}/task").iterdir()
    return {(task / "stat").read_text().rpartition(")")[2].split()[0] for task in tasks}


def ports(pid):
    """Returns the ports of the TCP clients whose connections a process has."""
    sockets = set()
    for name in os.listdir(f"/proc/{pid}/fd"):
        try:
            target = os.readlink(f"/proc/{pid}/fd/{name}")
        except FileNotFoundError:
            continue
        if found := re.fullmatch(r"socket:\[(\d+)\]", target):
            sockets.add(found[1])
    # A connection that opens or closes meanwhile may hide another one.
    rows = [line.split() for _ in range(2) for line in pathlib.Path("/proc/net/tcp").read_text().splitlines()[1:]]
    return {int(row[2].rpartition(":")[2], 16) for row in rows if row[9] in sockets}


async def run(service, wanted, kinds, clients, say):
    """Runs the storm. Returns the clients' side of it."""
    storm = Storm(await service.begin())
    storm.version = service.version
    names = [name for name, (_, count) in KINDS.items() for _ in range(max(1, count * clients // 100))]
    tasks = [asyncio.create_task(storm.repeat(name, storm.addresses[number % 4 == 3])) for number, name in enumerate(names)]
    try:
        await happen(service, storm, wanted, kinds, say)
    finally:
        # The clients end also if an event has failed.
        storm.over.set()
        await asyncio.wait_for(asyncio.gather(*tasks), PATIENCE)
    await service.end()
    return storm


async def happen(service, storm, wanted, kinds, say):
    """Lets the events happen, until each kind has happened `wanted` times."""
    await asyncio.sleep(1)
    began = said = time.monotonic()
    while len(storm.losses) - excused_so_far(service, storm) < LOSSES_MAX:
        await service.recycled()
        left = [name for name in kinds if service.seen[name] < wanted]
        if not left:
            break
        # Workers reach their limits by themselves, also after all other events.
        name = random.choice([name for name in left if name in EVENTS] or [""])
        if name == "fewer" and service.count <= 2 or name == "more" and service.count >= WORKERS + 2:
            name = {"fewer": "more", "more": "fewer"}[name]
        if name:
            storm.event.set()
            storm.event.clear()
            await EVENTS[name](service, storm)
            service.seen[name] += 1
        await asyncio.sleep(random.choice([0, 0.1, 0.5]))
        if time.monotonic() - said > 60:
            said = time.monotonic()
            say(f"{said - began:.0f} s: {dict(service.seen)}, {storm.counts.total():,} responses, {len(storm.losses)} lost")


def excused_so_far(service, storm):
    return sum(is_excused(service, loss) for loss in storm.losses)


def is_excused(service, loss):
    """Returns whether a killed worker had the connection. The clients of a unix socket have no ports: for them the
    moment decides.
    """
    near = [ports for moment, ports in service.killed.values() if 0 <= loss.at - moment < NOTICED_MAX]
    return any(loss.port in ports if loss.port else True for ports in near)


def faults(service, storm):
    """Returns what is wrong, a sentence each."""
    for loss in storm.losses:
        if not is_excused(service, loss):
            where = f"port {loss.port}" if loss.port else "a unix socket"
            yield f"{time.strftime('%H:%M:%S', time.gmtime(loss.at))} {loss.kind} on {where} lost {loss.names}: {loss.why}"
    begun, ended = collections.defaultdict(list), collections.defaultdict(list)
    for line in service.journal.read_text().splitlines():
        what, name, pid = line.split(" ")
        (begun if what == "begin" else ended)[name].append(int(pid))
    for name, pids in begun.items():
        if len(pids) > 1:
            yield f"{name} was called {len(pids)} times, by {pids}"
        if not ended[name] and pids[0] not in service.killed:
            yield f"{name} was begun by {pids[0]}, which was not killed, and has no end"
    for name, pid in storm.answered.items():
        if ended[name] != [pid]:
            yield f"{name} was answered by {pid}, and the journal has {ended[name]}"
    text = service.text()
    for pid in service.killed:
        inside = [name for name, pids in begun.items() if pids == [pid] and not ended[name]]
        report = re.search(rf"\(pid {pid}\) {KILLED}(.*?)(?=\n\[|\Z)", text, re.S)[1]
        missing = [name for name in inside if name not in report]
        if missing and "more" not in report:
            yield f"the report of the killed worker {pid} does not name {missing}: {report}"
    for line in re.findall(r"^.*\[ERROR\].*$|^.*panicked.*$", text, re.M):
        if not re.search(rf"{KILLED}|the reload has failed|this version is broken|storming", line):
            yield f"the log has: {line}"


def storm(wanted, kinds=(), clients=CLIENTS, options=(), say=print):
    """Runs the storm until each kind of event has happened `wanted` times. Returns a summary, and what is wrong."""
    kinds = kinds or [*EVENTS, "max_requests", "max_memory"]
    options = ["--max-requests", "1000", "--max-requests-jitter", "1000", "--max-worker-memory", "100M", *options]
    with tempfile.TemporaryDirectory(prefix="storm-") as directory:
        service = Service(directory, options)
        try:
            clients = asyncio.run(run(service, wanted, kinds, clients, say))
            wrong = list(faults(service, clients))
            keep = os.environ.get("STORM_LOG")
            if keep:
                pathlib.Path(keep).write_text(service.text())
        finally:
            stop(service)
    lost = sum(max(1, len(loss.names)) for loss in clients.losses)
    summary = [
        f"events: {dict(service.seen)}",
        f"responses: {clients.counts.total():,}: {dict(clients.counts)}",
        f"slowest: { {name: round(seconds, 2) for name, seconds in clients.slowest.items()} } s",
        f"lost with {len(service.killed)} killed workers: {lost} requests and idle connections; lost otherwise: {len(wrong)}",
    ]
    return summary, wrong


def stop(service):
    """Ends what still runs, at the end or after a failure."""
    for pid in {service.first.pid, service.pid if service.pid_file.exists() else service.first.pid}:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
    service.first.wait()


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("events", type=int)
    parser.add_argument("kinds", nargs="*", metavar="KIND", help=", ".join([*EVENTS, "max_requests", "max_memory"]))
    parser.add_argument("--clients", type=int, default=CLIENTS)
    given = parser.parse_args()
    process.all_descriptors()
    summary, wrong = storm(given.events, given.kinds, given.clients, say=functools.partial(print, flush=True))
    print("\n".join(summary))
    if wrong:
        sys.exit("storm:\n" + "\n".join(wrong[:50]))
    print("storm: all is well")


if __name__ == "__main__":
    main()
