#!/usr/bin/env python3
"""Measures very many idle clients over several processes: the memory of each, and how soon one gets a response.

    python3 benches/load/many.py [CLIENTS [PROCESSES]]        default: 100,000 clients, 6 processes

A process may have as many descriptors as `ulimit -Hn` says, so there are as many client processes as servers. Every
client sends one request, then nothing. Then some clients send another request, one after the other. The benchmark uses
the first core and the last one.
"""

import contextlib
import json
import os
import re
import resource
import select
import socket
import subprocess
import sys
import time

import clients
import servers

SETTLE_SECONDS = 2
IDLE_SECONDS = 5
ASKED = 300
ADDRESSES = 20
REQUEST = b"GET /hello HTTP/1.1\r\nHost: 127.0.0.1\r\nUser-Agent: idle\r\nAccept: */*\r\n\r\n"
# The kernel's memory for a connection is spread over these slabs.
SLABS = ["TCP", "sock_inode_cache", "filp", "dentry", "eventpoll_epi", "eventpoll_pwq", "tcp_bind_bucket", "tcp_bind2_bucket",
         "skbuff_head_cache", "skbuff_small_head", "kmalloc-64", "kmalloc-96", "kmalloc-1k", "kmalloc-2k", "lsm_file_cache"]


def crowd(number, port, count):
    """Runs one client process: opens `count` connections, then sends a request on one of them for each line on standard input."""
    open_files = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (open_files, open_files))
    epoll, held, pending = select.epoll(), [], {}
    made, progress = 0, time.monotonic()
    while (made < count or pending) and time.monotonic() - progress < 10:
        while made < count and len(pending) < 64:
            connection = clients.new_socket(made, 10 + number * ADDRESSES, ADDRESSES)
            connection.connect_ex(("127.0.0.1", port))
            pending[connection.fileno()] = connection
            epoll.register(connection, select.EPOLLOUT)
            made += 1
        for fd, event in epoll.poll(0.2):
            connection = pending[fd]
            if event & select.EPOLLOUT and not event & (select.EPOLLERR | select.EPOLLHUP):
                connection.send(REQUEST)
                epoll.modify(fd, select.EPOLLIN)
                continue
            data = clients.receive(connection)
            epoll.unregister(fd)
            del pending[fd]
            progress = time.monotonic()
            if data and data.endswith(b"Hello, World!"):
                held.append(connection)
            else:
                connection.close()
    epoll.close()
    clients.say(held=len(held))
    for line in sys.stdin:
        if line == "alive\n":
            clients.say(alive=sum(clients.receive(connection) is None for connection in held))
            continue
        connection = held[int(float(line) * len(held))]
        connection.setblocking(True)
        connection.settimeout(10)
        began = time.perf_counter()
        connection.sendall(REQUEST)
        answer = connection.recv(65536)
        clients.say(micros=round((time.perf_counter() - began) * 1e6, 1), ok=answer.endswith(b"Hello, World!"))
        connection.setblocking(False)


def memory(pids):
    """Returns memory in KiB: private memory of the processes, and the kernel's own figures for the machine."""
    found = {"user": 0}
    for pid in pids:
        with open(f"/proc/{pid}/smaps_rollup") as file:
            found["user"] += sum(int(line.split()[1]) for line in file if line.startswith(("Private_Dirty:", "Private_Clean:")))
    with open("/proc/meminfo") as file:
        lines = dict(re.findall(r"(\w+):\s+(\d+)", file.read()))
    for name in ("Slab", "SUnreclaim", "PageTables", "KernelStack", "Percpu"):
        found[name] = int(lines.get(name, 0))
    with open("/proc/net/sockstat") as file:
        found["tcp_buffers"] = int(re.search(r"TCP:.* mem (\d+)", file.read())[1]) * resource.getpagesize() // 1024
    with contextlib.suppress(OSError), open("/proc/slabinfo") as file:
        for line in file:
            fields = line.split()
            if fields[0] in SLABS:
                found["slab " + fields[0]] = int(fields[1]) * int(fields[3]) / 1024
    return found


def cpu_seconds(pids):
    fields = [servers.stat_fields(pid) for pid in pids]
    return sum(int(one[11]) + int(one[12]) for one in fields) / servers.TICKS


def start_server(port):
    command = [servers.MAYPOLE, "--bind", f"127.0.0.1:{port}", "--keep-alive", "3600", "--backlog", "4096", "apps:hello"]
    environment = dict(os.environ, VIRTUAL_ENV=servers.VENV) if os.path.isdir(servers.VENV) else None
    process = subprocess.Popen(command, cwd=servers.HERE, env=environment, stderr=subprocess.DEVNULL,
                               preexec_fn=servers.child(servers.SERVER_CORES))
    end = time.monotonic() + 10
    while time.monotonic() < end:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 5) as connection:
            connection.sendall(REQUEST)
            if connection.recv(1024):
                return process
        time.sleep(0.01)
    raise RuntimeError(f"no answer on port {port}")


def main(count, processes):
    started, crowds = [], []
    first_port = int(os.environ.get("BENCH_PORT", "0")) or servers.free_port()
    share = count // processes
    try:
        for number in range(processes):
            started.append(start_server(first_port + number))
        pids = [process.pid for process in started]
        time.sleep(SETTLE_SECONDS)
        before, began = memory(pids), time.monotonic()
        for number in range(processes):
            crowds.append(subprocess.Popen([sys.executable, __file__, "crowd", str(number), str(first_port + number), str(share)],
                                           stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
                                           preexec_fn=servers.child(servers.CLIENT_CORES)))
        held = sum(json.loads(one.stdout.readline())["held"] for one in crowds)
        opened = time.monotonic() - began
        time.sleep(SETTLE_SECONDS)
        after = memory(pids)
        cpu, began = cpu_seconds(pids), time.monotonic()
        time.sleep(IDLE_SECONDS)
        idle = (cpu_seconds(pids) - cpu) / (time.monotonic() - began)

        def ask(crowd, line):
            crowd.stdin.write(line + "\n")
            crowd.stdin.flush()
            return json.loads(crowd.stdout.readline())

        answers = [ask(crowds[number % processes], str(number / ASKED)) for number in range(ASKED)]
        micros = sorted(answer["micros"] for answer in answers)
        alive = sum(ask(one, "alive")["alive"] for one in crowds)
        for one in crowds:
            one.kill()
        for one in crowds:
            one.wait()
        time.sleep(SETTLE_SECONDS)
        gone = memory(pids)
    finally:
        for process in crowds + started:
            process.kill()
            process.wait()

    print(f"{held:,} clients of {processes} processes, opened in {opened:.1f} s; {alive:,} were there at the end")
    print(f"user memory: {before['user'] / processes / 1024:.1f} MiB a process without clients, {(after['user'] - before['user']) * 1024 / held:.0f}"
          f" bytes a client; {(gone['user'] - before['user']) / processes / 1024:.1f} MiB a process more than before when they have gone")
    print(f"processor time while all are idle: {idle * 100:.2f} % of one core")
    print(f"an idle client asks: median {micros[len(micros) // 2]:.0f} µs, p99 {micros[len(micros) * 99 // 100]:.0f} µs, worst {micros[-1]:.0f} µs,"
          f" {sum(answer['ok'] for answer in answers)} of {ASKED} answered")
    print("kernel memory, bytes a connection, both ends together:")
    for name in after:
        if name != "user" and abs(after[name] - before[name]) * 1024 / held >= 1:
            print(f"  {name:24} {(after[name] - before[name]) * 1024 / held:8.0f}")


if __name__ == "__main__":
    if sys.argv[1:2] == ["crowd"]:
        crowd(*map(int, sys.argv[2:]))
    else:
        main(*(int(word.replace(",", "")) for word in sys.argv[1:] or ["100000"]), *([] if len(sys.argv) > 2 else [6]))
