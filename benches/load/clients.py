"""The clients: wrk for throughput, the open-loop generator for latency, and clients that are idle or slow.

    clients.py idle PORT COUNT
    clients.py slow PORT DRIPPING READING PATH
    clients.py sockets PORT COUNT PATH

Each prints a line of JSON when all clients are in place. The first two print another line of JSON for each line on standard input.
"""

import json
import os
import re
import resource
import select
import socket
import subprocess
import sys
import time

import servers

OPEN_LOOP = os.path.join(servers.TARGET, "release", "examples", "open_loop")
UNITS = {"us": 1.0, "ms": 1e3, "s": 1e6, "m": 6e7, "h": 3.6e9}


def wrk(server, connections, seconds, path="/hello", pinned=True, body_bytes=0, timeout=10, fields=()):
    """Drives a server with a closed loop. Returns times in microseconds."""
    command = ["wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "--latency", "--timeout", f"{timeout}s"]
    if body_bytes:
        script = os.path.join(servers.WORK, f"post-{body_bytes}.lua")
        with open(script, "w") as file:
            file.write(f'wrk.method = "POST"\nwrk.body = string.rep("a", {body_bytes})\n')
        command += ["-s", script]
    for field in fields:
        command += ["-H", field]
    command.append(f"{'https' if server.tls else 'http'}://127.0.0.1:{server.port}{path}")
    cores = servers.CLIENT_CORES if pinned else set(servers.CORES)
    before, client_before = server.cpu_seconds(), children_seconds()
    output = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, preexec_fn=servers.child(cores)).stdout
    cpu, client_cpu = server.cpu_seconds() - before, children_seconds() - client_before

    def find(pattern, default=None):
        match = re.search(pattern, output)
        return match[1] if match else default

    def micros(text):
        match = re.match(r"([\d.]+)(us|ms|s|m|h)$", text or "")
        return round(float(match[1]) * UNITS[match[2]], 1) if match and requests else None

    requests = int(find(r"(\d+) requests in", 0))
    errors = sum(int(number) for number in re.findall(r"\d+", find(r"Socket errors: (.*)", "")))
    return {
        "rps": float(find(r"Requests/sec:\s+([\d.]+)", 0)),
        "p50_us": micros(find(r"\n\s+50%\s+(\S+)")),
        "p99_us": micros(find(r"\n\s+99%\s+(\S+)")),
        "max_us": micros(find(r"Latency\s+\S+\s+\S+\s+(\S+)")),
        "cpu_us": round(cpu / requests * 1e6, 2) if requests else None,
        "client_us": round(client_cpu / requests * 1e6, 2) if requests else None,
        "errors": errors + int(find(r"Non-2xx or 3xx responses: (\d+)", 0)),
    }


def children_seconds():
    """Returns the processor time of the processes that this one has started and that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def open_loop(server, rate, connections, seconds, path="/hello"):
    """Drives a server at a constant rate."""
    command = [OPEN_LOOP, "--json", "--rate", str(rate), "--duration", str(seconds), "--connections", str(connections), "--path", path,
               f"127.0.0.1:{server.port}"]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, preexec_fn=servers.child(servers.CLIENT_CORES))
    # 1 means that some requests failed; the report counts them. Without a report the run itself failed.
    if done.returncode not in (0, 1) or not done.stdout:
        raise subprocess.CalledProcessError(done.returncode, command)
    return json.loads(done.stdout)


class Clients:
    """Idle or slow clients in a separate process."""

    def __init__(self, *arguments):
        command = [sys.executable, os.path.abspath(__file__), *map(str, arguments)]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
                                        preexec_fn=servers.child(servers.CLIENT_CORES))

    def __enter__(self):
        self.made = self.read()
        return self

    def __exit__(self, *_):
        self.process.kill()
        self.process.communicate()

    def ask(self):
        self.process.stdin.write("?\n")
        self.process.stdin.flush()
        return self.read()

    def read(self):
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError("the clients ended")
        return json.loads(line)


def new_socket(number, first, addresses):
    """Makes a socket with one of several source addresses, because one address has at most 28,000 ports."""
    made = socket.socket()
    made.setblocking(False)
    made.setsockopt(socket.IPPROTO_IP, 24, 1)  # IP_BIND_ADDRESS_NO_PORT
    made.bind((f"127.0.0.{first + number % addresses}", 0))
    return made


def say(**values):
    print(json.dumps(values), flush=True)


def receive(connection, size=65536):
    """Returns the received bytes: empty if the server has closed, None if nothing has arrived yet."""
    try:
        return connection.recv(size)
    except BlockingIOError:
        return None
    except OSError:
        return b""


def idle(port, count):
    """Opens keep-alive connections that send one request each, and then nothing."""
    epoll, sockets, pending = select.epoll(), {}, {}
    request = b"GET /hello HTTP/1.1\r\nHost: 127.0.0.1\r\nUser-Agent: idle\r\nAccept: */*\r\n\r\n"
    made = answered = 0
    began = progress = time.monotonic()
    while made < count or pending:
        while made < count and len(pending) < 128:
            connection = new_socket(made, 10, 8)
            connection.connect_ex(("127.0.0.1", port))
            sockets[connection.fileno()] = connection
            pending[connection.fileno()] = b""
            epoll.register(connection, select.EPOLLOUT)
            made += 1
        for fd, event in epoll.poll(0.2):
            if fd not in pending:
                continue
            if event & select.EPOLLOUT:
                try:
                    sockets[fd].send(request)
                    epoll.modify(fd, select.EPOLLIN)
                except OSError:
                    sockets.pop(fd).close()
                    pending.pop(fd)
                continue
            data = receive(sockets[fd])
            if data == b"":
                sockets.pop(fd).close()
                pending.pop(fd)
            elif data:
                pending[fd] += data
                if pending[fd].endswith(b"Hello, World!"):
                    pending.pop(fd)
                    answered += 1
                    progress = time.monotonic()
        if time.monotonic() - progress > 4 or time.monotonic() - began > 30:
            break
    for fd in pending:
        epoll.modify(fd, select.EPOLLIN)
    say(answered=answered, seconds=round(time.monotonic() - began, 2))
    epoll.register(0, select.EPOLLIN)
    while True:
        asked = False
        for fd, _ in epoll.poll():
            if fd == 0:
                if not os.read(0, 100):
                    return
                asked = True
            elif fd in sockets and receive(sockets[fd]) == b"":
                sockets.pop(fd).close()
        if asked:
            say(alive=len(sockets))


def slow(port, dripping, reading, path):
    """Opens clients that send a head at 1 byte/s, and clients that read a large response at 1 KiB/s through a small buffer.

    On loopback the kernel accepts about 2.8 MB from the server before it blocks. So 1 MiB (/big) blocks no server and only
    costs memory; 8 MiB (/big8) blocks it.
    """
    request = b"GET /hello HTTP/1.1\r\nHost: 127.0.0.1\r\nX-Long: " + b"a" * 4096
    drips, readers = [], []
    for number in range(dripping + reading):
        connection = new_socket(number, 40, 10)
        if number >= dripping:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.connect_ex(("127.0.0.1", port))
        (drips if number < dripping else readers).append([connection, 0])
        if number % 50 == 49:
            time.sleep(0.02)
    time.sleep(0.3)
    for connection, _ in readers:
        try:
            connection.send(b"GET %s HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n" % path.encode())
        except OSError:
            pass
    say(dripping=dripping, reading=reading)
    slices, turn, next_turn = 40, 0, time.monotonic()
    while True:
        for client in drips[turn::slices]:
            if client[0]:
                try:
                    client[0].send(request[client[1]:client[1] + 1])
                    client[1] += 1
                    gone = receive(client[0]) == b""
                except BlockingIOError:
                    gone = False
                except OSError:
                    gone = True
                if gone:
                    client[0].close()
                    client[0] = None
        for client in readers[turn::slices]:
            if client[0]:
                data = receive(client[0], 1024)
                client[1] += len(data or b"")
                if data == b"":
                    client[0].close()
                    client[0] = None
        turn = (turn + 1) % slices
        next_turn += 1 / slices
        if select.select([0], [], [], max(0, next_turn - time.monotonic()))[0]:
            if not os.read(0, 100):
                return
            say(dripping=sum(client[0] is not None for client in drips), reading=sum(client[0] is not None for client in readers),
                started=sum(client[1] > 0 for client in readers))


def sockets(port, count, path):
    """Opens WebSockets that send nothing, until standard input ends."""
    request = (f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
               "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n").encode()
    made = []
    for number in range(count):
        connection = new_socket(number, 10, 8)
        connection.settimeout(10)
        connection.connect(("127.0.0.1", port))
        connection.sendall(request)
        if not connection.recv(1024).startswith(b"HTTP/1.1 101 "):
            break
        made.append(connection)
    say(open=len(made))
    sys.stdin.read()


if __name__ == "__main__":
    if sys.argv[1] == "idle":
        idle(int(sys.argv[2]), int(sys.argv[3]))
    elif sys.argv[1] == "sockets":
        sockets(int(sys.argv[2]), int(sys.argv[3]), sys.argv[4])
    else:
        slow(int(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]), sys.argv[5])
